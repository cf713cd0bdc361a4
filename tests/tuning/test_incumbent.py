"""The incumbent of a network with operators that are imported wrong, or that cannot be compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import parser
from tvm import relax
from tvm.tirx import PrimFunc

from tests.models import TARGET, read, runs
from tilewright.compiling.objects import Objects
from tilewright.errors import CompilerError
from tilewright.frontend.onnx.importer import CONVERTERS, Operands
from tilewright.graph.left_out import extract_all
from tilewright.records.memory import MemoryStore
from tilewright.tuning.incumbent import Incumbent, build_incumbent
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome

pytestmark = runs


def build_from(folder: Path) -> Incumbent:
    text = "g (float[64,512] x) => (float[64,512] y) { a = Relu(x) b = Elu(a) y = Tanh(b) }"
    onnx.save(parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + text), folder / "m.onnx")
    network = read(folder / "m.onnx")
    with Checker(network, 10.0) as checker:
        return build_incumbent(extract_all(network, TARGET), checker, folder, MemoryStore())


def test_an_operator_that_is_imported_wrong_runs_in_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def negate(given: Operands) -> Sequence[relax.Expr]:
        return [relax.op.negative(given.inputs[0])]

    monkeypatch.setitem(CONVERTERS, ("", "Elu"), negate)
    found = build_from(tmp_path)
    assert found.executable.verdict.outcome is Outcome.RIGHT
    (segment,) = found.extraction.network.segments
    assert segment.reasons == ("Elu (b): its result 'b' differs from ONNX Runtime's; this is a bug in Tilewright",)
    assert "please report it" in found.notes[0]


def test_an_operator_whose_kernel_cannot_be_compiled_runs_in_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_for_an_unknown_function(given: Operands) -> Sequence[relax.Expr]:
        return [relax.op.cosh(given.inputs[0])]

    untouched = Objects.compile

    def compile_all_but_that(self: Objects, programs: Mapping[str, PrimFunc]) -> dict[str, Path]:
        if any("cosh" in function.script() for function in programs.values()):
            raise CompilerError("the network cannot be compiled: no cosh")
        return untouched(self, programs)

    monkeypatch.setattr(Objects, "compile", compile_all_but_that)
    monkeypatch.setitem(CONVERTERS, ("", "Elu"), ask_for_an_unknown_function)
    found = build_from(tmp_path)
    assert found.executable.verdict.outcome is Outcome.RIGHT
    (segment,) = found.extraction.network.segments
    assert segment.operators == ("Elu",)
    assert "cannot be compiled" in segment.reasons[0]
