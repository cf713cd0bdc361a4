"""Manifests and the files that they list: of a known format, complete, unchanged, inside of the directory."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.executables import read, reseal
from tests.models import normal, runs
from tilewright.compare.peers import reference_model
from tilewright.errors import OutputError
from tilewright.executable.executable import load_executable
from tilewright.executable.manifest import (
    FORMAT,
    FORMAT_WITH_BUCKETS,
    LIBRARY,
    NAME,
    WEIGHTS,
    read_manifest,
    seal,
    verify,
)

pytestmark = runs


@pytest.mark.parametrize("name", ["manifest.json", "kernels.so", "weights.npz"])
def test_a_missing_file(name: str, out: Path) -> None:
    (out / name).unlink()
    with pytest.raises(OutputError):
        load_executable(out)


@pytest.mark.parametrize("name", ["kernels.so", "weights.npz"])
def test_a_changed_file(name: str, out: Path) -> None:
    data = bytearray((out / name).read_bytes())
    data[len(data) // 2] ^= 1
    (out / name).write_bytes(data)
    with pytest.raises(OutputError, match="not the file that was written"):
        load_executable(out)


def refused(out: Path, says: str) -> None:
    with pytest.raises(OutputError, match=says) as caught:
        load_executable(out)
    assert "\n" not in str(caught.value)


def test_every_file_has_its_checksum(out: Path) -> None:
    sums = json.loads((out / NAME).read_text())["sha256"]
    assert sums.keys() == {file.name for file in out.iterdir()}
    reseal(out, read(out))
    assert load_executable(out).inputs[0].name == "x"


def test_a_manifest_that_was_changed(out: Path) -> None:
    text = (out / NAME).read_text()
    (out / NAME).write_text(text.replace('"arena_bytes": 1', '"arena_bytes": 2'))
    assert (out / NAME).read_text() != text
    refused(out, "damaged, or was changed: its own checksum differs; tune again")


def test_files_without_a_checksum(out: Path) -> None:
    manifest = json.loads((out / NAME).read_text())
    del manifest["sha256"][NAME]  # earlier manifests have none
    (out / NAME).write_text(json.dumps(manifest))
    load_executable(out)
    for name in (LIBRARY, WEIGHTS):
        left = {key: value for key, value in manifest["sha256"].items() if key != name}
        (out / NAME).write_text(json.dumps(manifest | {"sha256": left}))
        refused(out, f"lists no checksum of {name}.*tune again")


@pytest.mark.parametrize("name", [LIBRARY, WEIGHTS, NAME])
def test_a_link_out_of_the_directory(name: str, out: Path) -> None:
    (out / name).rename(out.parent / name)
    (out / name).symlink_to(out.parent / name)
    refused(out, "is a link to")


def test_a_link_within_the_directory_and_to_it(out: Path) -> None:
    (out / WEIGHTS).rename(out / "w")
    (out / WEIGHTS).symlink_to("w")
    (out.parent / "link").symlink_to(out, target_is_directory=True)
    load_executable(out.parent / "link")


@pytest.mark.parametrize("model", ["../out.onnx", "/etc/passwd", "a/b.onnx", "..", ".", "x\0y", "a\\b"])
def test_a_model_outside_of_the_directory(model: str, out: Path) -> None:
    manifest = json.loads((out / NAME).read_text())
    manifest["model"] = model
    (out / NAME).write_text(seal({k: v for k, v in manifest.items() if k != "sha256"}, out, [LIBRARY]))
    for file in (out / Path(model).name.replace("\0", ""), out.parent / "out.onnx"):
        if not file.exists():
            file.write_text("no model")
    found = None
    with contextlib.suppress(OutputError):
        found = reference_model(out)
    assert found is None


def test_a_pipe_for_a_file(out: Path) -> None:
    for name in (WEIGHTS, LIBRARY, NAME):
        (out / name).unlink()
        os.mkfifo(out / name)
        refused(out, "regular file")


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": None},
        {"inputs": [{"name": "x"}]},
        {"inputs": [{"name": "x", "shape": [1, 8, 10, 11], "dtype": "float32"}]},
        {"inputs": [{"name": "x", "shape": [-1], "dtype": "float32"}]},
        {"inputs": [{"name": "x", "shape": [2**40, 2**40], "dtype": "float32"}]},
        {"inputs": [{"name": "x", "shape": [1, 8, 10, 10], "dtype": "object"}]},
        {"outputs": []},
        {"plan": 3},
        {"plan": None},
        {"plan": {}},
        {"model": ["model.onnx"]},
    ],
    ids=str,
)
def test_a_manifest_of_wrong_types(changes: dict[str, Any], out: Path) -> None:
    reseal(out, read(out) | changes)
    refused(out, "tune again")


def first_of_format_2(manifest: dict[str, Any]) -> None:
    """The manifest as the first version with plans wrote it."""
    del manifest["plan"]["vector"]
    del manifest["target"]["features"]
    manifest["sha256"] = {name: manifest["sha256"][name] for name in (LIBRARY, WEIGHTS)}


def without_own_checksum(manifest: dict[str, Any]) -> None:
    """The manifest as versions wrote it that did not sum the manifest itself."""
    del manifest["sha256"][NAME]


def without_features(manifest: dict[str, Any]) -> None:
    """The manifest as versions wrote it that did not list the instructions that kernels need."""
    del manifest["target"]["features"]
    del manifest["sha256"][NAME]


def without_target(manifest: dict[str, Any]) -> None:
    """The manifest without the machine, of which only the instructions are read."""
    del manifest["target"]
    del manifest["sha256"][NAME]


@pytest.mark.parametrize("change", [first_of_format_2, without_own_checksum, without_features, without_target])
def test_an_earlier_manifest_loads(change: Callable[[dict[str, Any]], None], shared: Path, out: Path) -> None:
    manifest = read(out)
    change(manifest)
    (out / NAME).write_text(json.dumps(manifest))
    verify(out)
    x = normal(1, 8, 10, 10)
    np.testing.assert_array_equal(load_executable(out)(x)[0], load_executable(shared)(x)[0])


def test_a_model_that_an_earlier_manifest_does_not_list_is_not_trusted(out: Path) -> None:
    manifest = read(out)
    first_of_format_2(manifest)
    (out / NAME).write_text(json.dumps(manifest))
    with pytest.raises(OutputError, match=r"lists no checksum of model\.onnx, so it cannot be trusted; tune again"):
        reference_model(out)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        # Executables of format 1 had no plans.
        (1, f"reads executables of format {FORMAT} and {FORMAT_WITH_BUCKETS}, but .* has '1'; tune again"),
        (
            FORMAT_WITH_BUCKETS + 1,
            f", but .* has '{FORMAT_WITH_BUCKETS + 1}'; install a newer Tilewright, or tune again",
        ),
        ("two", "has 'two'; tune again"),
    ],
)
def test_another_format_says_what_to_do_and_stays_untouched(version: object, says: str, out: Path) -> None:
    manifest = read(out) | {"format": version}
    if version == 1:
        del manifest["plan"]
    reseal(out, manifest)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for use in (load_executable, read_manifest, verify, reference_model):
        with pytest.raises(OutputError, match=says):
            use(out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_manifest_of_something_else(text: str, out: Path) -> None:
    (out / "manifest.json").write_text(text)
    with pytest.raises(OutputError):
        load_executable(out)
