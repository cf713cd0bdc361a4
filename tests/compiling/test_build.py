"""Executables: right, written whole, and refused where they are damaged."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.agreement import network_error
from tests.models import LIGHT, TARGET, agrees, built, conv_model, normal, runs, save
from tilewright.compare.peers import reference_model
from tilewright.compiling.build import build_untuned, check_compiler
from tilewright.errors import CompilerError, OutputError, ShapeError, TargetError
from tilewright.executable.executable import FORMAT, Executable, load_executable
from tilewright.executable.manifest import LIBRARY, NAME, WEIGHTS, seal
from tilewright.frontend.load import load
from tilewright.measure.compare import relative_error

pytestmark = runs


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    built(conv_model(folder / "m.onnx"), folder / "out")
    return folder / "out"


@pytest.fixture
def out(shared: Path, tmp_path: Path) -> Path:
    """An executable to damage."""
    copy = tmp_path / "out"
    copy.mkdir()
    for file in shared.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def executable(shared: Path) -> Executable:
    return load_executable(shared)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_a_light_network_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    agrees(LIGHT / f"light_{name}.onnx", tmp_path / "out")


def test_a_read_executable_gives_the_same(tmp_path: Path) -> None:
    extraction, first = built(conv_model(tmp_path / "m.onnx"), tmp_path / "out")
    second = load_executable(tmp_path / "out")
    arrays = extraction.network.random_inputs()
    np.testing.assert_array_equal(first(*arrays)[0], second(*arrays)[0])
    assert len(second.time(arrays, 3)) == 3
    assert not (tmp_path / "out.part").exists()


def test_an_executable_built_again_under_its_path_is_the_new_one(tmp_path: Path) -> None:
    _, first = built(conv_model(tmp_path / "m.onnx"), tmp_path / "out")
    node = helper.make_node("Neg", ["x"], ["y"])
    built(save(tmp_path / "n.onnx", [node], {"x": [1, 8, 10, 10]}, [1, 8, 10, 10]), tmp_path / "out")
    x = normal(1, 8, 10, 10)
    np.testing.assert_array_equal(load_executable(tmp_path / "out")(x)[0], -x)
    assert first(x)[0].shape == (1, 16, 10, 10)  # whoever holds the old one still can use it


def test_a_directory_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(OutputError, match="holds other files"):
        built(conv_model(tmp_path.parent / f"{tmp_path.name}.onnx"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_untuned(tmp_path: Path) -> None:
    path = conv_model(tmp_path / "m.onnx")
    error = network_error(build_untuned(path, TARGET, tmp_path / "out"), load(path))
    assert error is not None
    assert error <= 1e-3


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [np.zeros((1, 8, 10, 11), np.float32)],
        [np.zeros((8, 10, 10), np.float32)],
        [np.full((1, 8, 10, 10), 0.1, np.float64)],  # no float32 is 0.1
        [np.zeros((1, 8, 10, 10), np.float32)] * 2,
    ],
)
def test_inputs_that_do_not_fit(arrays: list[np.ndarray], executable: Executable) -> None:
    with pytest.raises(ShapeError):
        executable(*arrays)


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


def resealed(out: Path, **changes: Any) -> None:
    """The manifest with other entries, and checksums that are right for them."""
    manifest = json.loads((out / NAME).read_text()) | changes
    files = sorted(manifest.pop("sha256").keys() - {NAME})
    (out / NAME).write_text(seal(manifest, out, files))


def refused(out: Path, says: str) -> None:
    with pytest.raises(OutputError, match=says) as caught:
        load_executable(out)
    assert "\n" not in str(caught.value)


def test_every_file_has_its_checksum(out: Path) -> None:
    sums = json.loads((out / NAME).read_text())["sha256"]
    assert sums.keys() == {file.name for file in out.iterdir()}
    resealed(out)
    assert load_executable(out).inputs[0].name == "x"


def test_a_manifest_that_was_changed(out: Path) -> None:
    text = (out / NAME).read_text()
    (out / NAME).write_text(text.replace('"arena_bytes": 1', '"arena_bytes": 2'))
    assert (out / NAME).read_text() != text
    refused(out, "damaged, or was changed: its own checksum differs; tune again")


def test_files_without_a_checksum(out: Path) -> None:
    manifest = json.loads((out / NAME).read_text())
    del manifest["sha256"][NAME]  # as before manifests had one of their own
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
    resealed(out, **changes)
    refused(out, "tune again")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arena_bytes",), 2**60),
        (("arena_bytes",), 64),
        (("arena_bytes",), -1),
        (("arena_bytes",), 1e3),
        (("tensors", 0, 0), "elsewhere"),
        (("tensors", 0, 1), 2**40),
        (("tensors", 0, 1), 4),
        (("vector",), 4),
        (("tensors", 0, 2), [2**20, 2**10]),
        (("tensors", 0, 3), "O"),
        (("calls", 0, 0), "../main"),
        (("calls", 0, 0), "no_such_kernel"),
        (("calls", 0), ["", [0]]),
        (("calls", 0, 1), [99]),
        (("inputs",), [-1]),
        (("outputs",), [77]),
        (("outputs",), []),
    ],
    ids=str,
)
def test_a_plan_that_would_reach_outside_of_its_memory(path: tuple[Any, ...], value: Any, out: Path) -> None:
    plan = json.loads((out / NAME).read_text())["plan"]
    place = plan
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    resealed(out, plan=plan)
    refused(out, "cannot be loaded here: .*tune again")


def test_a_newer_format(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    with pytest.raises(OutputError, match=f"has '{FORMAT + 1}'"):
        load_executable(out)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_a_manifest_of_something_else(text: str, out: Path) -> None:
    (out / "manifest.json").write_text(text)
    with pytest.raises(OutputError):
        load_executable(out)


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        built(conv_model(tmp_path / "m.onnx"), tmp_path / "file" / "out")


def test_an_interrupt_while_compiling_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    model = conv_model(tmp_path / "m.onnx")
    monkeypatch.setattr("tilewright.compiling.kernels.Kernels.library", interrupted)
    with pytest.raises(KeyboardInterrupt):
        built(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompilerError, match="install one"):
        check_compiler()


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5", "999999"])
def test_a_number_of_threads_that_is_none(text: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", text)
    with pytest.raises(TargetError, match="TVM_NUM_THREADS is a number of threads from 1 up"):
        load_executable(out)


def test_an_empty_number_of_threads_is_none_at_all(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_NUM_THREADS", "")
    assert load_executable(out).inputs


def test_relative_error() -> None:
    one = np.array([1.0, -4.0])
    assert relative_error(one, one) == 0
    assert relative_error(np.array([1.0, -3.0]), one) == 0.25
    assert relative_error(np.array([1.0, np.nan]), one) == np.inf
    assert relative_error(np.zeros(3), one) == np.inf
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("index", [-(10**12), -51, 50, 10**9])
def test_an_index_outside_of_its_table_reads_its_first_or_last_row(index: int, tmp_path: Path) -> None:
    table = normal(50, 8)
    nodes = [helper.make_node("Cast", ["x"], ["ids"], to=7), helper.make_node("Gather", ["w", "ids"], ["y"])]
    _, executable = built(save(tmp_path / "m.onnx", nodes, {"x": [1, 4]}, [1, 4, 8], w=table), tmp_path / "out")
    (found,) = executable(np.full((1, 4), index, np.float32))
    np.testing.assert_array_equal(found[0], table[[0 if index < 0 else 49] * 4])
