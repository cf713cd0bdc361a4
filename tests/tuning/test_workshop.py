"""Executables of a selection, where the compiler refuses a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
import pytest

from tests.frontend.onnx.small import by_runtime, read, same
from tests.models import TARGET, normal, runs
from tilewright.compiling.objects import Objects
from tilewright.errors import CheckError, CompilerError
from tilewright.executable.executable import load_executable
from tilewright.frontend.load import load
from tilewright.graph.left_out import extract_all
from tilewright.graph.tasks import Extraction
from tilewright.records.memory import MemoryStore
from tilewright.tuning.incumbent import build_incumbent
from tilewright.verify.checker import Checker
from tilewright.verify.inputs import Trials
from tilewright.verify.verdict import Outcome, Verdict

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

pytestmark = runs

MODEL = "g (float[64,512] x) => (float[64,512] y) { a = Sqrt(x) b = Erf(a) c = Floor(b) y = Sub(b, c) }"


class Trusting:
    """Calls every executable right."""

    trials = Trials((), "")

    def judge(self, folder: Path) -> Verdict:
        return Verdict(Outcome.RIGHT)


def fail_where(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Compiling a function fails if the word occurs in its name or in its program."""
    untouched = Objects.compile

    def compile_some(self: Objects, programs: Mapping[str, PrimFunc]) -> dict[str, Path]:
        for symbol, function in programs.items():
            if word in symbol or word in function.script():
                raise CompilerError(f"the network cannot be compiled: no {word}")
        return untouched(self, programs)

    monkeypatch.setattr(Objects, "compile", compile_some)


@pytest.fixture
def extraction(tmp_path: Path) -> Extraction:
    onnx.save(read(MODEL), tmp_path / "m.onnx")
    return extract_all(load(tmp_path / "m.onnx"), TARGET)


def test_a_schedule_that_cannot_be_compiled_gives_way_to_tvm_s_program(
    extraction: Extraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_where(monkeypatch, "T.parallel")
    built = build_incumbent(extraction, cast(Checker, Trusting()), tmp_path, MemoryStore())
    assert built.extraction.network.segments == ()
    x = np.abs(normal(64, 512))
    same(load_executable(built.executable.folder)(x)[0], by_runtime(read(MODEL), [x])[0])


class Doubting(Trusting):
    """Calls every executable wrong after the first one."""

    def __init__(self) -> None:
        self._seen: list[Path] = []

    def judge(self, folder: Path) -> Verdict:
        self._seen.append(folder)
        right = len(self._seen) == 1
        return Verdict(Outcome.RIGHT if right else Outcome.WRONG, evidence="1 is instead of 2")


def test_a_message_says_how_far_onnx_runtime_is_off(extraction: Extraction, tmp_path: Path) -> None:
    built = build_incumbent(extraction, cast(Checker, Doubting()), tmp_path, MemoryStore())
    with pytest.raises(CheckError, match=r"further .* than Tilewright's own rule allows: 1 is instead of 2"):
        built.workshop.build_runtime()
