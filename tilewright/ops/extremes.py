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
        extents = [int(extent) for extent in x.shape]
        floating, size = "float" in str(x.dtype), extents[axis]
        kept = [number for number in range(len(extents)) if keepdims or number != axis]
        shape = [1 if number == axis else extents[number] for number in kept]
        nowhere = tirx.const(-1 if last else size, "int32")

        def read(index: Sequence[Expr], place: Expr | int) -> Expr:
            places = dict(zip(kept, index, strict=True)) | {axis: place}
            return x(*[places[number] for number in range(len(extents))])

        seek, step = (te.reduce_axis((0, size), name=name) for name in ("k", "step"))

        def better(a: Expr, b: Expr) -> Expr:
            unknown = [tirx.isnan(b)] if nan and floating else []
            return tirx.Select(tirx.any(b > a if highest else b < a, *unknown), b, a)

        reducer = te.comm_reducer(better, lambda dtype: start_of(dtype, highest), name="extreme")
        extreme = te.compute(shape, lambda *i: reducer(read(i, seek), axis=[seek]), name="extreme")

        def number(*i: Expr) -> Expr:
            here = read(i, step)
            found = here == extreme(*i)
            if nan and floating:
                found = tirx.any(found, tirx.isnan(here))  # if there is any NaN, nothing equals the extreme
            value = tirx.Select(found, step.var.astype("int32"), nowhere)
            return (te.max if last else te.min)(value, axis=[step])

        place = te.compute(shape, number, name="extreme_place")

        def finish(*i: Expr) -> Expr:
            found = place(*i)
            if floating and not nan:
                unknown = tirx.any(tirx.isnan(read(i, 0)), found == nowhere)
                found = tirx.Select(unknown, tirx.const(0, "int32"), found)
            return found.astype("int64")

        return te.compute(shape, finish, name="place")

    return compute
