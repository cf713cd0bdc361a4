"""Executables that are built are right, and are written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.agreement import network_error
from tests.models import LIGHT, TARGET, agrees, built, conv_model, normal, runs, save
from tilewright.compiling.build import build_untuned, check_compiler
from tilewright.errors import CompilerError, OutputError, ShapeError, TargetError
from tilewright.executable.executable import Executable, load_executable
from tilewright.frontend.load import load
from tilewright.measure.compare import relative_error

pytestmark = runs


@pytest.fixture
def executable(shared: Path) -> Executable:
    return load_executable(shared)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_a_light_network_agrees_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    agrees(LIGHT / f"light_{name}.onnx", tmp_path / "out", lean=False)


def test_a_read_executable_gives_the_same(tmp_path: Path) -> None:
    extraction, first = built(conv_model(tmp_path / "m.onnx"), tmp_path / "out", lean=False)
    second = load_executable(tmp_path / "out")
    arrays = extraction.network.random_inputs()
    np.testing.assert_array_equal(first(*arrays)[0], second(*arrays)[0])
    assert len(second.time(arrays, 3)) == 3
    assert not (tmp_path / "out.part").exists()


def test_an_executable_built_again_under_its_path_is_the_new_one(tmp_path: Path) -> None:
    _, first = built(conv_model(tmp_path / "m.onnx"), tmp_path / "out", lean=False)
    node = helper.make_node("Neg", ["x"], ["y"])
    built(save(tmp_path / "n.onnx", [node], {"x": [1, 8, 10, 10]}, [1, 8, 10, 10]), tmp_path / "out", lean=False)
    x = normal(1, 8, 10, 10)
    np.testing.assert_array_equal(load_executable(tmp_path / "out")(x)[0], -x)
    assert first(x)[0].shape == (1, 16, 10, 10)  # the old one can still be used


def test_a_directory_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(OutputError, match="holds other files"):
        built(conv_model(tmp_path.parent / f"{tmp_path.name}.onnx"), tmp_path, lean=False)
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


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        built(conv_model(tmp_path / "m.onnx"), tmp_path / "file" / "out", lean=False)


def test_an_interrupt_while_compiling_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    model = conv_model(tmp_path / "m.onnx")
    monkeypatch.setattr("tilewright.compiling.kernels.Kernels.library", interrupted)
    with pytest.raises(KeyboardInterrupt):
        built(model, tmp_path / "out", lean=False)
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
    model = save(tmp_path / "m.onnx", nodes, {"x": [1, 4]}, [1, 4, 8], w=table)
    _, executable = built(model, tmp_path / "out", lean=False)
    (found,) = executable(np.full((1, 4), index, np.float32))
    np.testing.assert_array_equal(found[0], table[[0 if index < 0 else 49] * 4])
