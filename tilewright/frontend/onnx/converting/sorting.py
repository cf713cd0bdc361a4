"""Converter of TopK: the kernel computes the rank of each element, and finds the element of each rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.converting.operands import dtype_of, emit, operand, result_of, shape_of
from tilewright.frontend.onnx.importer import Operands, converter

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__: list[str] = []

#: The most comparisons: a choice. ONNX Runtime sorts, which is faster for long rows.
_MOST_STEPS = 1 << 24


@converter("TopK")
def _top_k(given: Operands) -> Sequence[relax.Expr]:
    x = operand(given, 0)
    found = next((place for place in (0, 1) if place < len(given.outputs) and given.outputs[place] is not None), 0)
    shape, before = result_of(given, found)[0], shape_of(x)
    axis = int(given.attributes.get("axis", -1)) % len(before)
    size, count = before[axis], shape[axis]
    if not int(given.attributes.get("sorted", 1)):
        raise NotImplementedError("only ONNX Runtime knows the order of its results, since sorted is 0")
    steps = math.prod(before) * size
    if steps > _MOST_STEPS:
        raise NotImplementedError(f"ranking the elements takes {steps:,} comparisons")
    largest, floating = bool(given.attributes.get("largest", 1)), "float" in dtype_of(x)

    def places(x: Tensor) -> Tensor:
        from tvm import te, tirx

        other = te.reduce_axis((0, size), "other")

        def rank(*i: Expr) -> Expr:
            """The number of elements that precede an element. Equal elements keep their order; NaN is the largest."""
            here, there = x(*i), x(*i[:axis], other, *i[axis + 1 :])
            better = there > here if largest else there < here
            tie = there == here
            if floating:
                more, less = (there, here) if largest else (here, there)
                better = tirx.any(better, tirx.all(tirx.isnan(more), tirx.Not(tirx.isnan(less))))
                tie = tirx.any(tie, tirx.all(tirx.isnan(there), tirx.isnan(here)))
            before = tirx.any(better, tirx.all(tie, other.var < i[axis]))
            return te.sum(tirx.Select(before, tirx.const(1, "int32"), tirx.const(0, "int32")), axis=[other])

        ranks = te.compute(before, rank, name="rank")
        own = te.reduce_axis((0, size), "own")
        number = te.compute(
            shape,
            lambda *i: te.max(
                tirx.Select(
                    ranks(*i[:axis], own, *i[axis + 1 :]) == i[axis].astype("int32"),
                    own.var.astype("int32"),
                    tirx.const(0, "int32"),
                ),
                axis=[own],
            ),
            name="top_k_place",
        )
        return te.compute(shape, lambda *i: number(*i).astype("int64"), name="top_k_index")

    indices = emit(given, places, [x], "top_k")

    def values(x: Tensor, indices: Tensor) -> Tensor:
        from tvm import te

        return te.compute(shape, lambda *i: x(*i[:axis], indices(*i), *i[axis + 1 :]), name="top_k_value")

    assert count <= size
    return [emit(given, values, [x, indices], "top_k_value"), indices]
