"""The range of a tensor that is quantised at run time, and its scale and zero point, as DynamicQuantizeLinear has them.

ends  = the smallest and the largest number of each row, in one pass over the tensor
scale = (max(ends, 0) - min(ends, 0)) / 255, or 1 if that is 0
zero  = round(-min(ends, 0) / scale), limited to 0 .. 255
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.rows.expression import KIND, reduce_rows

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["MOST_ROWS", "byte_scale", "byte_zero_point", "row_ends"]

#: The most rows that a tensor is divided into. They are work for many cores, and soon reduced to one number.
MOST_ROWS = 64


@lru_cache(KEPT)
def row_ends(shape: tuple[int, int], lanes: int) -> PrimFunc:
    """The smallest and the largest number of each row. Gives a PrimFunc (data, result ``(rows, 2)``).

    Args:
        shape: ``(rows, n)`` of the data.
        lanes: elements of a vector register; 0: for an importer, which does not know them.
    """
    from tvm import te, tirx

    x = te.placeholder(shape, name="data")
    rows, n = shape[:1], shape[1]
    low = reduce_rows(lambda *i: x(*i), rows, n, lanes, te.min, tirx.min, "low")
    high = reduce_rows(lambda *i: x(*i), rows, n, lanes, te.max, tirx.max, "high")
    attributes = Mark(KIND).annotations if lanes else {}
    result = te.compute(
        (*rows, 2), lambda i, t: tirx.if_then_else(t == 0, low[i], high[i]), name="ends_of_rows", attrs=attributes
    )
    return make_function([x, result], OPAQUE)


@lru_cache(KEPT)
def byte_scale(rows: int) -> PrimFunc:
    """The scale of a tensor. Gives a PrimFunc (ends ``(rows, 2)``, scale ``()``)."""
    from tvm import te, tirx

    ends = te.placeholder((rows, 2), name="ends")
    low, high = _reduce(ends, 0), _reduce(ends, 1)

    def at() -> Expr:
        none = tirx.const(0.0, "float32")
        top, bottom = tirx.max(high(), none), tirx.min(low(), none)
        return tirx.Select(top == bottom, tirx.const(1.0, "float32"), (top - bottom) / tirx.const(255.0, "float32"))

    return make_function([ends, te.compute((), at, name="byte_scale")], OPAQUE)


@lru_cache(KEPT)
def byte_zero_point(rows: int) -> PrimFunc:
    """The zero point of a tensor. Gives a PrimFunc (ends ``(rows, 2)``, scale ``()``, zero ``()`` in uint8)."""
    from tvm import te, tirx

    ends, scale = te.placeholder((rows, 2), name="ends"), te.placeholder((), name="scale")
    low = _reduce(ends, 0)

    def at() -> Expr:
        none, most = tirx.const(0.0, "float32"), tirx.const(255.0, "float32")
        zero = tirx.nearbyint(-tirx.min(low(), none) / scale())
        # The quotient of two infinities is 255, as in ONNX Runtime.
        return tirx.max(tirx.Select(zero < most, zero, most), none).astype("uint8")

    return make_function([ends, scale, te.compute((), at, name="byte_zero_point")], OPAQUE)


def _reduce(ends: Tensor, which: int) -> Tensor:
    """The smallest (0) or the largest (1) number of all rows."""
    from tvm import te

    row = te.reduce_axis((0, int(ends.shape[0])), "row")
    reducer = te.max if which else te.min
    return te.compute((), lambda: reducer(ends[row, which], axis=[row]), name="high" if which else "low")
