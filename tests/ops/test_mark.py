"""Marks: written by an expression, kept by fusion, and taken off before a function becomes a task."""

from __future__ import annotations

from typing import Any

from tilewright.ops.function import FUSABLE, make_function
from tilewright.ops.mark import UNMARKED, Mark, take_mark, take_marks


def scaled(mark: Mark | None, name: str = "scaled") -> Any:
    from tvm import te

    x = te.placeholder((4, 8), name="data")
    y = te.compute((4, 8), lambda i, j: x[i, j] * 2.0, name=name, attrs=mark.annotations if mark else None)
    return make_function([x, te.compute((4, 8), lambda i, j: y[i, j] + 1.0, name="moved")], FUSABLE)


def text(function: Any) -> str:
    import tvm

    return str(tvm.ir.save_json(tvm.ir.IRModule({"main": function})))


def test_what_is_taken_leaves_the_function_as_it_would_be_without() -> None:
    for mark in (Mark("rows"), Mark("contraction", "pol/r")):
        bare, found = take_mark(scaled(mark))
        assert found == mark
        assert text(bare) == text(scaled(None))


def test_a_function_without_a_mark_stays_itself() -> None:
    plain = scaled(None)
    bare, found = take_mark(plain)
    assert bare.same_as(plain)
    assert found == UNMARKED


def test_the_detail_is_an_attribute_named_after_the_kind() -> None:
    assert Mark("mine", "ab").attributes == {"tilewright.mine": "ab"}
    assert Mark("mine").attributes == {}


def test_marks_survive_fusion() -> None:
    import tvm
    from tvm import relax

    kind = relax.TensorType((4, 8), "float32")
    builder, x = relax.BlockBuilder(), relax.Var("x", kind)
    with builder.function("main", [x]):
        with builder.dataflow():
            function = builder.add_func(scaled(Mark("mine", "ab")), "scaled")
            out = builder.emit_output(relax.op.nn.relu(builder.emit(relax.call_tir(function, [x], kind))))
        builder.emit_func_output(out)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    module, marks = take_marks(tvm.transform.Sequential(passes)(builder.get()))
    (name,) = marks
    assert "relu" in name
    assert marks[name] == Mark("mine", "ab")
    assert "tilewright" not in module.script()
