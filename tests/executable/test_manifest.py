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
from tilewright.executable.loading import read_plans
from tilewright.executable.manifest import (
    FORMAT,
    FORMAT_WITH_BUCKETS,
    LIBRARY,
    NAME,
    WEIGHTS,
    read_listed,
    read_manifest,
    seal,
    verify,
)
from tilewright.executable.memory import Memory

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


def test_weights_are_compared_in_blocks(tmp_path: Path) -> None:
    """Large files are read and hashed by several threads, each block by one."""
    content = bytearray(np.random.default_rng(0).bytes((33 << 20) + 5))
    (tmp_path / WEIGHTS).write_bytes(content)
    entries = {"format": FORMAT, "inputs": [], "outputs": [], "plan": None}
    (tmp_path / NAME).write_text(seal(entries, tmp_path, [WEIGHTS]))
    manifest = read_manifest(tmp_path)
    assert len(manifest["xxh3"][WEIGHTS]) == 3
    with read_listed(tmp_path, manifest, WEIGHTS) as found:
        assert found[:] == content
    for changed in (bytes([content[0] ^ 1]) + content[1:], content[:-1] + b"x", content[:-1], content + b"x", b""):
        (tmp_path / WEIGHTS).write_bytes(changed)
        with pytest.raises(OutputError, match="its checksum differs from the manifest's"):
            read_listed(tmp_path, manifest, WEIGHTS)


def test_weights_lie_where_kernels_can_read_them(out: Path) -> None:
    """They are read into memory once, and stay there."""
    manifest = read_manifest(out)
    content = read_listed(out, manifest, WEIGHTS)
    arrays, _ = read_plans(manifest, content)
    assert arrays
    assert all(array.ctypes.data % 64 == 0 and not array.flags.owndata for array in arrays)
    with np.load(out / WEIGHTS) as read_by_numpy:
        for number, array in enumerate(arrays):
            np.testing.assert_array_equal(array, read_by_numpy[f"w{number}"])
    memory = Memory(arrays, 0, content=content)
    assert [memory.weight_address(number) for number in range(len(arrays))] == [a.ctypes.data for a in arrays]


def test_weights_that_numpy_wrote_are_copied(out: Path, shared: Path) -> None:
    """As executables of earlier versions have them: not aligned, and with a SHA-256 only."""
    with np.load(out / WEIGHTS) as held:
        named = dict(held)
    np.savez(out / WEIGHTS, **named)
    reseal(out, read(out))
    manifest = read(out)
    del manifest["xxh3"], manifest["sha256"][NAME]
    (out / NAME).write_text(json.dumps(manifest))
    x = normal(1, 8, 10, 10)
    np.testing.assert_array_equal(load_executable(out)(x)[0], load_executable(shared)(x)[0])
    data = bytearray((out / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (out / WEIGHTS).write_bytes(data)
    refused(out, "its checksum differs")


@pytest.mark.parametrize("blocks", [3, {WEIGHTS: "no list"}, {WEIGHTS: []}])
def test_checksums_of_blocks_that_are_none(blocks: object, out: Path) -> None:
    manifest = read(out) | {"xxh3": blocks}
    del manifest["sha256"][NAME]
    (out / NAME).write_text(json.dumps(manifest))
    refused(out, "tune again")


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
