"""Converters of pooling: maxima, means and norms over windows, with all paddings, and indices of maxima."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.frontend.onnx.converting.operands import dtype_of, embed, emit, operand, result_of, shape_of
from tilewright.frontend.onnx.converting.sliding import Sliding
from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.ops.extremes import reduce_to_extreme, start_of

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__ = ["average"]

#: The highest exponent of a power that becomes a product: a choice.
_MOST_FACTORS = 16

#: Makes a tensor expression from the operands.
_Expression: TypeAlias = "Callable[..., Tensor]"


@converter("MaxPool")
def _max_pool(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    x = operand(given, 0)
    shape, dtype = result_of(given)
    sliding = Sliding.of(given, shape_of(x), (), shape)
    indexed = len(given.node.output) > 1 and bool(given.node.output[1])
    if len(shape) == 4 and dtype == "float32" and not indexed and _fits(sliding):
        pads = [*sliding.before, *sliding.reach]
        return [relax.op.nn.max_pool2d(x, sliding.kernel, sliding.strides, pads, sliding.dilations)]
    highest = emit(given, _maximum(sliding, shape, dtype), [x], "max_pool")
    if not indexed:
        return [highest]
    by_column = bool(given.attributes.get("storage_order", 0))
    place = emit(given, _place_of_maximum(sliding, shape, dtype, by_column), [x, highest], "max_pool_place")
    return [highest, place]


def _fits(sliding: Sliding) -> bool:
    """Whether every window has a tap in the image, and TVM's pooling supports the padding."""
    return all(
        0 <= before < (k - 1) * d + 1 and reach < (k - 1) * d + 1
        for before, reach, k, d in zip(sliding.before, sliding.reach, sliding.kernel, sliding.dilations, strict=True)
    )


class _Taps:
    """The taps of windows over an image as tensor expressions.

    Args:
        sliding: the windows.
    """

    def __init__(self, sliding: Sliding) -> None:
        from tvm import te

        self.sliding = sliding
        self.axes = [te.reduce_axis((0, k), f"k{axis}") for axis, k in enumerate(sliding.kernel)]

    def places(self, window: Sequence[Expr]) -> list[Expr]:
        """The coordinates of the taps of a window."""
        return [self.sliding.place(axis, window[axis], tap) for axis, tap in enumerate(self.axes)]

    def read(self, x: Tensor, image: Sequence[Expr], window: Sequence[Expr], outside: Expr) -> Expr:
        """The values of the taps of a window; ``outside`` in the padding.

        Args:
            x: the images.
            image: the indices of the image.
            window: the indices of the window.
            outside: the value in the padding.
        """
        from tvm import tirx

        places = self.places(window)
        sliding = self.sliding
        conditions = []
        for axis, place in enumerate(places):
            if sliding.before[axis] > 0:
                conditions.append(place >= 0)
            if sliding.reach[axis] > 0:
                conditions.append(place < sliding.image[axis])
        value = x(*image, *places)
        return tirx.if_then_else(tirx.all(*conditions), value, outside) if conditions else value


def _maximum(sliding: Sliding, shape: Sequence[int], dtype: str) -> _Expression:
    def compute(x: Tensor) -> Tensor:
        from tvm import te

        taps = _Taps(sliding)
        return te.compute(
            shape,
            lambda *i: reduce_to_extreme(taps.read(x, i[:2], i[2:], start_of(dtype, True)), taps.axes, True),
            name="max_pool",
        )

    return compute


def _place_of_maximum(sliding: Sliding, shape: Sequence[int], dtype: str, by_column: bool) -> _Expression:
    """The index of each window's first maximum among all elements of the tensor.

    Args:
        sliding: the windows.
        shape: the shape of the result.
        dtype: the dtype of the data.
        by_column: whether the first axis of the image is the innermost one in the order of indices.
    """
    image = list(sliding.image)
    steps = [math.prod(image[:axis]) if by_column else math.prod(image[axis + 1 :]) for axis in range(len(image))]
    size = math.prod(image)

    def compute(x: Tensor, highest: Tensor) -> Tensor:
        from tvm import te, tirx

        taps = _Taps(sliding)
        # The order of the taps matters, since the first maximum counts.
        count = math.prod(sliding.kernel)

        def number(*i: Expr) -> Expr:
            order = tirx.const(0, "int32")
            for axis, tap in enumerate(taps.axes):
                order = order * sliding.kernel[axis] + tap.var.astype("int32")
            inside = [tirx.all(p >= 0, p < e) for p, e in zip(taps.places(i[2:]), image, strict=True)]
            value = taps.read(x, i[:2], i[2:], start_of(dtype, True))
            first = tirx.if_then_else(tirx.all(*inside, value == highest(*i)), order, tirx.const(count, "int32"))
            return te.min(first, axis=taps.axes)

        tap = te.compute(shape, number, name="max_pool_tap")

        def index(*i: Expr) -> Expr:
            rest = tirx.min(tap(*i), tirx.const(count - 1, "int32"))
            place = tirx.const(0, "int64")
            for axis in reversed(range(len(image))):
                own = (rest % sliding.kernel[axis]).astype("int64")
                rest = rest // sliding.kernel[axis]
                place = place + sliding.place(axis, i[2 + axis].astype("int64"), own) * steps[axis]
            return place + (i[0].astype("int64") * shape[1] + i[1].astype("int64")) * size

        return te.compute(shape, index, name="max_pool_place")

    return compute


@converter("AveragePool")
def _average_pool(given: Operands) -> Sequence[relax.Expr]:
    x = operand(given, 0)
    shape, _ = result_of(given)
    sliding = Sliding.of(given, shape_of(x), (), shape)
    return [average(given, x, sliding, bool(given.attributes.get("count_include_pad", 0)))]


def average(given: Operands, x: relax.Expr, sliding: Sliding, padded: bool) -> relax.Expr:
    """The mean over each window.

    Args:
        given: the node.
        x: the images.
        sliding: the windows.
        padded: whether zeros in the declared padding count.
    """
    from tvm import relax

    shape, dtype = shape_of(x)[:2] + sliding.out, dtype_of(x)
    counts = [_count(sliding, axis, padded) for axis in range(len(sliding.image))]
    whole = all((count == k).all() for count, k in zip(counts, sliding.kernel, strict=True))
    dense = set(sliding.dilations) == {1}
    if len(shape) == 4 and dtype == "float32" and dense and _fits(sliding) and (whole or not padded):
        pads = [*sliding.before, *sliding.reach]
        return relax.op.nn.avg_pool2d(x, sliding.kernel, sliding.strides, pads, count_include_pad=whole)
    wide = "float32" if dtype == "float16" else dtype

    def compute(x: Tensor, *counts: Tensor) -> Tensor:
        from tvm import te, tirx

        taps = _Taps(sliding)
        total = te.compute(
            shape,
            lambda *i: te.sum(taps.read(x, i[:2], i[2:], tirx.const(0, dtype)).astype(wide), axis=taps.axes),
            name="sum_pool",
        )

        def mean(*i: Expr) -> Expr:
            count = counts[0](i[2])
            for axis in range(1, len(counts)):
                count = count * counts[axis](i[2 + axis])
            return (total(*i) / count).astype(dtype)

        return te.compute(shape, mean, name="avg_pool")

    return emit(given, compute, [x, *(embed(count.astype(wide)) for count in counts)], "avg_pool")


def _count(sliding: Sliding, axis: int, padded: bool) -> NDArray[np.int64]:
    """How many taps of each window count, along one axis: those in the image, and maybe those in the padding."""
    places = (
        np.arange(sliding.out[axis])[:, None] * sliding.strides[axis]
        + np.arange(sliding.kernel[axis])[None, :] * sliding.dilations[axis]
        - sliding.before[axis]
    )
    low = -sliding.before[axis] if padded else 0
    high = sliding.image[axis] + (sliding.after[axis] if padded else 0)
    return np.asarray(np.maximum(1, ((places >= low) & (places < high)).sum(axis=1)))


@converter("LpPool")
def _lp_pool(given: Operands) -> Sequence[relax.Expr]:
    x = operand(given, 0)
    shape, dtype = result_of(given)
    sliding, p = Sliding.of(given, shape_of(x), (), shape), float(given.attributes.get("p", 2))

    def compute(x: Tensor) -> Tensor:
        from tvm import te, tirx

        taps = _Taps(sliding)
        total = te.compute(
            shape,
            lambda *i: te.sum(
                _power(tirx.abs(taps.read(x, i[:2], i[2:], tirx.const(0, dtype))), p, dtype), axis=taps.axes
            ),
            name="power_pool",
        )
        return te.compute(shape, lambda *i: _root(total(*i), p, dtype), name="lp_pool")

    return [emit(given, compute, [x], "lp_pool")]


@converter("GlobalLpPool")
def _global_lp_pool(given: Operands) -> Sequence[relax.Expr]:
    x = operand(given, 0)
    shape, dtype = result_of(given)
    image, p = shape_of(x)[2:], float(given.attributes.get("p", 2))

    def compute(x: Tensor) -> Tensor:
        from tvm import te, tirx

        axes = [te.reduce_axis((0, extent), f"k{axis}") for axis, extent in enumerate(image)]
        total = te.compute(
            shape,
            lambda *i: te.sum(_power(tirx.abs(x(*i[:2], *axes)), p, dtype), axis=axes),
            name="power_pool",
        )
        return te.compute(shape, lambda *i: _root(total(*i), p, dtype), name="global_lp_pool")

    return [emit(given, compute, [x], "global_lp_pool")]


def _power(value: Expr, p: float, dtype: str) -> Expr:
    from tvm import tirx

    if p == int(p) and 1 <= p <= _MOST_FACTORS:
        result = value
        for _ in range(int(p) - 1):
            result = result * value
        return result
    return tirx.pow(value, tirx.const(p, dtype))


def _root(value: Expr, p: float, dtype: str) -> Expr:
    from tvm import tirx

    if p in (1.0, 2.0):
        return value if p == 1.0 else tirx.sqrt(value)
    return tirx.pow(value, tirx.const(1.0 / p, dtype))
