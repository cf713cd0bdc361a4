"""Tensor expressions of the places of the largest pixels of windows, and of the gradient that goes back to them.

A place is ``row * width + column`` of the pixel. Among equal pixels, the first one counts, as in PyTorch.
In shapes, ``x`` is the number of channels in a block; plain images have no such dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.float32 import number, select
from tilewright.ops.function import FUSABLE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = [
    "GRADIENT",
    "LARGEST",
    "PLACES",
    "RECOMPUTING",
    "MaxPool",
    "max_pool_gradient",
    "max_pool_places",
    "recomputing_gradient",
]

#: The kinds of the marks of plain functions. Their detail is what :meth:`MaxPool.detail` writes.
PLACES, GRADIENT, RECOMPUTING = "max_pool_places", "max_pool_gradient", "max_pool_recomputing_gradient"
#: The names of the blocks that find the largest pixel of each window, and its position in the window.
LARGEST = ("largest_pixel", "largest_tap")


@dataclass(frozen=True)
class MaxPool:
    """The largest pixels of windows of an image.

    Attributes:
        data: the shape ``(n, C, h, w)`` of the image.
        output: the rows and columns of the result.
        kernel, stride, padding, dilation: of rows and columns. The padding is that before the first pixel.
    """

    data: tuple[int, ...]
    output: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def detail(self) -> str:
        """All of it as text, for a mark."""
        parts = (self.data, self.output, self.kernel, self.stride, self.padding, self.dilation)
        return "/".join(",".join(map(str, part)) for part in parts)

    @classmethod
    def parse(cls, detail: str) -> MaxPool:
        """What :meth:`detail` wrote."""
        data, *pairs = (tuple(map(int, part.split(","))) for part in detail.split("/"))
        output, kernel, stride, padding, dilation = ((first, second) for first, second in pairs)
        return cls(data, output, kernel, stride, padding, dilation)

    def shapes(self, block: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of data and result in blocks of ``block`` channels, or plain ones for 0."""
        batch, channels, *pixels = self.data
        lanes = (block,) if block else ()
        count = channels // block if block else channels
        return (batch, count, *pixels, *lanes), (batch, count, *self.output, *lanes)


@lru_cache(KEPT)
def max_pool_places(pool: MaxPool, block: int = 0) -> PrimFunc:
    """The places of the largest pixels. Gives a PrimFunc (data, largest pixels, places in int64).

    Args:
        pool: the windows.
        block: channels in a block; 0: the tensors are plain, and the function is marked for the rewriting of graphs.
    """
    from tvm import te, tirx

    data, out = pool.shapes(block)
    height, width = pool.data[2:]
    x, largest = te.placeholder(data, name="data"), te.placeholder(out, name="largest")
    ry, rx = (te.reduce_axis((0, extent), name) for extent, name in zip(pool.kernel, ("ky", "kx"), strict=True))
    nowhere = tirx.const(2**31 - 1, "int32")

    def find(n: tirx.Expr, c: tirx.Expr, i: tirx.Expr, j: tirx.Expr, *lane: tirx.Expr) -> tirx.Expr:
        row = i * pool.stride[0] - pool.padding[0] + ry * pool.dilation[0]
        column = j * pool.stride[1] - pool.padding[1] + rx * pool.dilation[1]
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        found = tirx.Select(
            x[(n, c, row, column, *lane)].equal(largest[(n, c, i, j, *lane)]),
            (row * width + column).astype("int32"),
            nowhere,
        )
        return te.min(tirx.if_then_else(inside, found, nowhere), axis=[ry, rx])

    attributes = None if block else Mark(PLACES, pool.detail()).annotations
    first = te.compute(out, find, name="first_place", attrs=attributes)
    # What is not a number equals nothing. Whoever writes to a place must find a pixel there all the same.
    last = tirx.const(height * width - 1, "int32")
    result = te.compute(out, lambda *at: tirx.min(first[at], last).astype("int64"))
    return make_function([x, largest, result], FUSABLE)


@lru_cache(KEPT)
def max_pool_gradient(pool: MaxPool, block: int = 0) -> PrimFunc:
    """The gradient of the data: each pixel looks at the few windows that cover it.

    Gives a PrimFunc (gradient of the result, places in int64, gradient of the data).

    Args:
        pool: the windows, without dilation.
        block: channels in a block; 0: the tensors are plain, and the function is marked for the rewriting of graphs.
    """
    from tvm import te, tirx

    data, out = pool.shapes(block)
    rows, columns = pool.output
    dy, places = te.placeholder(out, name="gradient"), te.placeholder(out, "int64", name="places")
    counts = [math.ceil(size / step) for size, step in zip(pool.kernel, pool.stride, strict=True)]
    axes = [te.reduce_axis((0, count), name) for count, name in zip(counts, ("ky", "kx"), strict=True)]
    alone = counts == [1, 1]
    steps = (0, 0) if alone else axes

    def gather(n: tirx.Expr, c: tirx.Expr, h: tirx.Expr, w: tirx.Expr, *lane: tirx.Expr) -> tirx.Expr:
        i = (h + pool.padding[0]) // pool.stride[0] - steps[0]
        j = (w + pool.padding[1]) // pool.stride[1] - steps[1]
        inside = tirx.all(i >= 0, i < rows, j >= 0, j < columns)
        place = (h * pool.data[3] + w).astype("int64")
        zero = tirx.const(0.0, "float32")
        taken = tirx.Select(places[(n, c, i, j, *lane)].equal(place), dy[(n, c, i, j, *lane)], zero)
        each = tirx.if_then_else(inside, taken, zero)
        return each if alone else te.sum(each, axis=axes)

    attributes = None if block else Mark(GRADIENT, pool.detail()).annotations
    result = te.compute(data, gather, name="gathered", attrs=attributes)
    return make_function([dy, places, result], FUSABLE)


@lru_cache(KEPT)
def recomputing_gradient(pool: MaxPool, block: int = 0) -> PrimFunc:
    """The gradient of the data, which finds the largest pixel of each window itself.

    Gives a PrimFunc (gradient of the result, data, gradient of the data). It reads no indices: finding
    the pixels again takes less time than writing and reading int64 numbers.

    Args:
        pool: the windows, without dilation.
        block: channels in a block; 0: the tensors are plain, and the function is marked for the rewriting of graphs.
    """
    from tvm import te, tirx

    data, out = pool.shapes(block)
    (height, width), (rows, columns) = pool.data[2:], pool.output
    (kh, kw), (sh, sw), (ph, pw) = pool.kernel, pool.stride, pool.padding
    dy, x = te.placeholder(out, name="gradient"), te.placeholder(data, name="data")

    def pixel(at: tuple[tirx.Expr, ...], tap: int, outside: float) -> tirx.Expr:
        """The pixel of a window, or a number outside of the image."""
        n, c, i, j, *lane = at
        row, column = i * sh - ph + tap // kw, j * sw - pw + tap % kw
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        return tirx.if_then_else(inside, x[(n, c, row, column, *lane)], number(outside))

    def find_largest(*at: tirx.Expr) -> tirx.Expr:
        return reduce(tirx.max, (pixel(at, tap, -math.inf) for tap in range(kh * kw)))

    largest = te.compute(out, find_largest, name=LARGEST[0])

    def find_tap(*at: tirx.Expr) -> tirx.Expr:
        found = number(kh * kw - 1)
        for tap in reversed(range(kh * kw - 1)):
            found = select(pixel(at, tap, math.nan).equal(largest[at]), number(tap), found)
        return found

    taps = te.compute(out, find_tap, name=LARGEST[1])
    counts = [math.ceil(size / step) for size, step in zip(pool.kernel, pool.stride, strict=True)]
    axes = [te.reduce_axis((0, count), name) for count, name in zip(counts, ("ky", "kx"), strict=True)]

    def gather(n: tirx.Expr, c: tirx.Expr, h: tirx.Expr, w: tirx.Expr, *lane: tirx.Expr) -> tirx.Expr:
        i, j = (h + ph) // sh - axes[0], (w + pw) // sw - axes[1]
        tap_row, tap_column = h + ph - i * sh, w + pw - j * sw
        inside = tirx.all(i >= 0, i < rows, j >= 0, j < columns, tap_row < kh, tap_column < kw)
        tap = (tap_row * kw + tap_column).astype("float32")
        zero = number(0.0)
        taken = tirx.Select(taps[(n, c, i, j, *lane)].equal(tap), dy[(n, c, i, j, *lane)], zero)
        return te.sum(tirx.if_then_else(inside, taken, zero), axis=axes)

    attributes = None if block else Mark(RECOMPUTING, pool.detail()).annotations
    result = te.compute(data, gather, name="gathered", attrs=attributes)
    return make_function([dy, x, result], FUSABLE)
