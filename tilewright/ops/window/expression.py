"""The tensor expressions of max pooling, and of sums of bytes over windows.

Windows of max pooling may overlap, have gaps, and reach into the padding.

    padded = x, surrounded by minus infinity
    y[n, c, h, w] = max over kh, kw of padded[n, c, h * stride + kh * dilation, w * stride + kw * dilation]

TVM's own expression begins each maximum with the lowest finite number, which would be the result for a window of minus
infinity alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.extremes import reduce_to_extreme, start_of
from tilewright.ops.function import FUSABLE, KEPT, make_function

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["Windows", "max_pool", "sum_bytes"]


@dataclass(frozen=True)
class Windows:
    """Windows that slide over the spatial axes of a tensor. Each field has one entry for each of these axes.

    Attributes:
        axes: the numbers of the axes.
        sizes: the taps of a window.
        strides: the steps from one window to the next.
        dilations: the steps from one tap to the next.
        before: the padding at the beginning.
        out: the numbers of windows.
    """

    axes: Sequence[int]
    sizes: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    before: Sequence[int]
    out: Sequence[int]


def max_pool(x: Tensor, windows: Windows) -> Tensor:
    """The largest element of each window."""
    from tvm import te

    shape = [int(extent) for extent in x.shape]
    result = list(shape)
    for place, axis in enumerate(windows.axes):
        result[axis] = windows.out[place]
    padded = _pad(x, windows)
    steps = [te.reduce_axis((0, size), name=f"k{place}") for place, size in enumerate(windows.sizes)]

    def at(*i: Expr) -> Expr:
        index = list(i)
        for place, axis in enumerate(windows.axes):
            index[axis] = i[axis] * windows.strides[place] + steps[place] * windows.dilations[place]
        return reduce_to_extreme(padded(*index), steps, True)

    return te.compute(result, at, name="pool_max")


def _pad(x: Tensor, windows: Windows) -> Tensor:
    """The tensor, padded as far as windows reach."""
    from tvm import topi

    before, after = [0] * len(x.shape), [0] * len(x.shape)
    for place, axis in enumerate(windows.axes):
        reach = (windows.sizes[place] - 1) * windows.dilations[place] + 1
        end = (windows.out[place] - 1) * windows.strides[place] + reach
        before[axis] = windows.before[place]
        after[axis] = max(0, end - int(x.shape[axis]) - windows.before[place])
    if not any((*before, *after)):
        return x
    return topi.nn.pad(x, before, after, start_of(str(x.dtype), True), "pad_temp")


@lru_cache(KEPT)
def sum_bytes(
    data: tuple[int, ...],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    zero: int,
) -> PrimFunc:
    """The sums of bytes over the windows of an image. Gives a PrimFunc (uint8 data, int32 sums).

    Args:
        data: shape ``(n, C/x, h, w, x)``.
        size: rows and columns of a window.
        stride: of rows and columns.
        padding: top, left, bottom, right.
        zero: the byte that stands around the image.
    """
    from tvm import te, tirx, topi

    n, blocks, height, width, x = data
    top, left, bottom, right = padding
    rows, cols = (height + top + bottom - size[0]) // stride[0] + 1, (width + left + right - size[1]) // stride[1] + 1
    a = te.placeholder(data, "uint8", name="data")
    source = a
    if any(padding):
        around = tirx.const(zero, "uint8")
        source = topi.nn.pad(a, (0, 0, top, left, 0), (0, 0, bottom, right, 0), around, "pad_temp")
    ry, rx = te.reduce_axis((0, size[0]), "ry"), te.reduce_axis((0, size[1]), "rx")
    sums = te.compute(
        (n, blocks, rows, cols, x),
        lambda b, c, i, j, v: te.sum(
            source[b, c, i * stride[0] + ry, j * stride[1] + rx, v].astype("int32"), axis=[ry, rx]
        ),
        name="window_sum",
    )
    return make_function([a, sums], FUSABLE)
