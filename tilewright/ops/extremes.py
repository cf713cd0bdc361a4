"""Largest and smallest elements, and their places, as tensor expressions.

TVM's reductions begin with the lowest finite number. So the maximum of elements that are all minus infinity is that
number, and no place is found for elements that all equal it. These expressions begin with infinities and with no place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import IterVar

__all__ = ["extreme_along", "place_along", "reduce_to_extreme", "start_of"]


def start_of(dtype: str, highest: bool) -> Expr:
    """What a search for the highest or lowest number begins with: an infinity, or an integer's limit."""
    from tvm import te, tirx

    if "float" in dtype:
        return tirx.const(-math.inf if highest else math.inf, dtype)
    return te.min_value(dtype) if highest else te.max_value(dtype)


def reduce_to_extreme(value: Expr, axes: Sequence[IterVar], highest: bool, nan: bool = False) -> Expr:
    """The largest or smallest of values along axes.

    Args:
        value: the value at a place.
        axes: the axes of the reduction.
        highest: whether the largest one is wanted.
        nan: whether the result is NaN if a value is.
    """
    from tvm import te, tirx

    choose = tirx.max if highest else tirx.min

    def combine(a: Expr, b: Expr) -> Expr:
        if not nan:
            return choose(a, b)
        return tirx.Select(tirx.any(b > a if highest else b < a, tirx.isnan(b)), b, a)

    return te.comm_reducer(combine, lambda dtype: start_of(dtype, highest), name="extreme")(value, axis=list(axes))


def extreme_along(axes: Sequence[int], keepdims: bool, highest: bool, nan: bool = False) -> Callable[[Tensor], Tensor]:
    """The tensor expression of the largest or smallest elements along axes. ``nan`` as in :func:`reduce_to_extreme`."""
    from tvm import te

    def compute(x: Tensor) -> Tensor:
        extents = [int(extent) for extent in x.shape]
        steps = {axis: te.reduce_axis((0, extents[axis]), name=f"k{axis}") for axis in axes}
        kept = [axis for axis in range(len(extents)) if keepdims or axis not in axes]

        def at(*index: Expr) -> Expr:
            places = dict(zip(kept, index, strict=True)) | steps
            value = x(*[places[axis] for axis in range(len(extents))])
            return reduce_to_extreme(value, list(steps.values()), highest, nan) if steps else value

        return te.compute([1 if axis in steps else extents[axis] for axis in kept], at, name="extreme")

    return compute


def place_along(
    axis: int, keepdims: bool, highest: bool, last: bool = False, nan: bool = False
) -> Callable[..., Tensor]:
    """The tensor expression of the places of the largest or smallest elements along an axis, in int64.

    Args:
        axis: the axis.
        keepdims: whether the axis stays, with an extent of 1.
        highest: whether the largest elements are sought.
        last: whether the last place counts among equal elements, instead of the first one.
        nan: whether NaN is more extreme than any number, as in PyTorch. Otherwise NaN is skipped, except in the first
            place, which then is the result, as in ONNX Runtime.
    """
    from tvm import te, tirx

    def compute(x: Tensor) -> Tensor:
        extents, dtype = [int(extent) for extent in x.shape], str(x.dtype)
        floating = "float" in dtype
        step = te.reduce_axis((0, extents[axis]), name="k")
        kept = [number for number in range(len(extents)) if keepdims or number != axis]
        nowhere = -1 if last else extents[axis]

        def read(index: Sequence[Expr], place: Expr | int) -> Expr:
            places = dict(zip(kept, index, strict=True)) | {axis: place}
            return x(*[places[number] for number in range(len(extents))])

        def combine(a: tuple[Expr, Expr], b: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
            better = b[1] > a[1] if highest else b[1] < a[1]
            tie = b[1] == a[1]
            if nan and floating:
                better = tirx.any(better, tirx.all(tirx.isnan(b[1]), tirx.Not(tirx.isnan(a[1]))))
                tie = tirx.any(tie, tirx.all(tirx.isnan(b[1]), tirx.isnan(a[1])))
            chosen = tirx.any(better, tirx.all(tie, b[0] > a[0] if last else b[0] < a[0]))
            return tirx.Select(chosen, b[0], a[0]), tirx.Select(chosen, b[1], a[1])

        def begin(place: str, value: str) -> tuple[Expr, Expr]:
            return tirx.const(nowhere, place), start_of(value, highest)

        search = te.comm_reducer(combine, begin, name="place")
        shape = [1 if number == axis else extents[number] for number in kept]
        found = te.compute(
            shape, lambda *i: search((step.var.astype("int64"), read(i, step)), axis=[step]), name="extreme_place"
        )

        def finish(*i: Expr) -> Expr:
            place = found[0](*i)
            if not floating or nan:
                return place
            return tirx.Select(tirx.any(tirx.isnan(read(i, 0)), place == nowhere), tirx.const(0, "int64"), place)

        return te.compute(shape, finish, name="place")

    return compute
