"""Each kernel is compiled once, under a name that depends on its program. Libraries are linked from kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import TARGET, conv_model, defaults, read, runs
from tilewright.compiling.build import build, replace_kernels
from tilewright.compiling.kernels import Kernels
from tilewright.errors import CompilerError
from tilewright.executable.executable import Executable, load_executable
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample

pytestmark = runs


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    return extract(read(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)


def another(extraction: Extraction) -> dict[str, Any]:
    """Another schedule of the convolution than its default."""
    use = next(use for use in extraction.uses if use.task.kind == "contraction")
    space = make_space(use.task, TARGET)
    config = next(c for c in sample(space, np.random.default_rng(0), 20) if tuple(c) != tuple(space.default()))
    return {use.task.key: space.schedule(config).mod["main"]}


def test_a_function_has_one_name_and_another_function_another(extraction: Extraction, tmp_path: Path) -> None:
    kernels = Kernels(extraction, tmp_path)
    first, again = (kernels.symbols(defaults(extraction)) for _ in range(2))
    assert first == again
    assert extraction.plan is not None
    assert set(first) <= set(extraction.plan.kernels)
    for kernel, symbol in kernels.symbols(another(extraction)).items():
        assert symbol.startswith(kernel)
        assert symbol != first[kernel]


def test_nothing_is_compiled_twice(extraction: Extraction, tmp_path: Path) -> None:
    kernels = Kernels(extraction, tmp_path / "objects")
    kernels.library(defaults(extraction), tmp_path / "one.so")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "objects").iterdir()}
    library = kernels.library(defaults(extraction) | another(extraction), tmp_path / "two.so")
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "objects").iterdir()}
    assert made.items() <= now.items()
    assert len(now) == len(made) + len(kernels.symbols(another(extraction)))
    assert library.plan is not None
    assert set(kernels.symbols(another(extraction)).values()) <= set(library.plan.kernels)


def test_a_function_that_does_not_compile(
    extraction: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr("tvm.compile", refused)
    with pytest.raises(CompilerError, match=r"the network cannot be compiled: no such instruction$"):
        Kernels(extraction, tmp_path / "objects").library({}, tmp_path / "library.so")


@pytest.fixture
def contested(extraction: Extraction, tmp_path: Path) -> tuple[Executable, dict[str, list[str]]]:
    """An executable whose library has two variants of its convolution, and their names."""
    kernels, first, second = Kernels(extraction, tmp_path / "objects"), defaults(extraction), another(extraction)
    build(extraction, first, tmp_path / "out", {}, kernels)
    replace_kernels(tmp_path / "out", kernels.library(first, tmp_path / "both.so", [second]), tmp_path / "both")
    names = kernels.symbols(first)
    others = kernels.symbols(second)
    return load_executable(tmp_path / "both"), {names[kernel]: [names[kernel], others[kernel]] for kernel in others}


def test_variants_take_each_others_places(contested: tuple[Executable, dict[str, list[str]]]) -> None:
    executable, variants = contested
    x = np.random.default_rng(0).standard_normal((1, 8, 10, 10), dtype=np.float32)
    before = executable(x)[0]
    found = executable.contest([x], variants, 0.0, 4)
    assert set(found) == set(variants)
    for measured in found.values():
        assert [len(seconds) for seconds in measured] == [4, 4]
        assert min(map(min, measured)) > 0
    np.testing.assert_array_equal(executable(x)[0], before)  # its own kernels are back
    assert len(next(iter(executable.contest([x], variants, 60.0, 1, 3).values()))[0]) == 3
    assert executable.contest([x], {}, 0.0) == {}


def test_variants_that_there_are_not(contested: tuple[Executable, dict[str, list[str]]]) -> None:
    executable, variants = contested
    x = np.zeros((1, 8, 10, 10), dtype=np.float32)
    with pytest.raises(KeyError, match="does not call nothing"):
        executable.contest([x], {"nothing": ["nothing"]}, 0.0)
    with pytest.raises(AttributeError):
        executable.contest([x], {kernel: ["nothing"] for kernel in variants}, 0.0)
