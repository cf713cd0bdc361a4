"""Object files of several networks: equal programs are compiled once, in this process and in the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import TARGET, conv_model, defaults, read, runs
from tilewright.compiling.build import build
from tilewright.compiling.kernels import Kernels
from tilewright.compiling.objects import SharedObjects
from tilewright.errors import CompilerError
from tilewright.graph.tasks import Extraction, extract

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(read(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of functions in each module that TVM compiles."""
    import tvm

    found: list[int] = []
    compile_module = tvm.compile

    def counting(module: Any, **others: Any) -> Any:
        found.append(len(module.get_global_vars()))
        return compile_module(module, **others)

    monkeypatch.setattr(tvm, "compile", counting)
    return found


def test_alike_networks_are_compiled_once(extraction: Extraction, tmp_path: Path, counted: list[int]) -> None:
    objects = SharedObjects(tmp_path / "objects", TARGET)
    first, second = (Kernels(extraction, tmp_path, objects) for _ in range(2))
    first.begin(defaults(extraction))
    first.library(defaults(extraction), tmp_path / "first.so")
    assert sum(counted) == len(set(first.symbols(defaults(extraction)).values()))
    counted.clear()
    second.library(defaults(extraction), tmp_path / "second.so")
    assert counted == []


def test_programs_have_one_name_whatever_the_kernel_is_called(extraction: Extraction, tmp_path: Path) -> None:
    objects = SharedObjects(tmp_path / "objects", TARGET)
    function = next(iter(defaults(extraction).values()))
    assert objects.symbol("one", function) == objects.symbol("other", function)
    assert objects.symbol("one", function).startswith("one_")


@pytest.mark.parametrize("damaged", [False, True])
def test_the_next_process_finds_what_this_one_has_compiled(
    damaged: bool, extraction: Extraction, tmp_path: Path, counted: list[int]
) -> None:
    kept, results = tmp_path / "kept", []
    for run in ("first", "second"):
        counted.clear()
        objects = SharedObjects(tmp_path / run, TARGET, kept)
        kernels = Kernels(extraction, tmp_path, objects)
        executable = build(extraction, defaults(extraction), tmp_path / f"{run}-executable", {}, kernels)
        results.append(executable(*extraction.network.random_inputs())[0])
        if run == "first" and damaged:
            for path in list(kept.iterdir()):
                path.write_bytes(b"nothing")
    assert bool(counted) == damaged
    np.testing.assert_array_equal(results[0], results[1])


def test_a_folder_that_cannot_be_written_is_ignored(extraction: Extraction, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("no directory", encoding="utf-8")
    objects = SharedObjects(tmp_path / "objects", TARGET, tmp_path / "kept")
    assert Kernels(extraction, tmp_path, objects).library(defaults(extraction), tmp_path / "library.so").path.exists()


def test_what_cannot_be_compiled_is_said_when_it_is_needed(
    extraction: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("no such instruction")

    kernels = Kernels(extraction, tmp_path, SharedObjects(tmp_path / "objects", TARGET))
    monkeypatch.setattr("tvm.compile", refused)
    kernels.begin(defaults(extraction))
    with pytest.raises(CompilerError, match="no such instruction"):
        kernels.library(defaults(extraction), tmp_path / "library.so")
    monkeypatch.undo()
    kernels.library(defaults(extraction), tmp_path / "library.so")
