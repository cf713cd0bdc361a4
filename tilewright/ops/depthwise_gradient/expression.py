"""Tensor expressions of the gradient of the data of a depthwise convolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import FUSABLE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

__all__ = ["BLOCK", "DATA_GRADIENT", "KIND", "DataGradient", "data_gradient", "plain_data_gradient"]

#: The kind of a plain gradient's mark. Its detail is what :meth:`DataGradient.detail` writes.
DATA_GRADIENT = "depthwise_data_gradient"
#: The kind of the tasks. The attribute of their functions, ``tilewright.depthwise_gradient``, is that detail, too.
KIND = "depthwise_gradient"
#: The name of the block that adds and multiplies.
BLOCK = "depthwise_gradient"


@dataclass(frozen=True)
class DataGradient:
    """The gradient of the data of a depthwise convolution without dilation.

    Attributes:
        data: the shape ``(n, C, h, w)`` of the convolution's data, and of the gradient.
        pixels: rows and columns of the convolution's result.
        kernel, stride: of rows and columns.
        padding: rows and columns of zeros before the first pixel.
    """

    data: tuple[int, int, int, int]
    pixels: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def detail(self) -> str:
        """The description as text, for a mark."""
        parts = (self.data, self.pixels, self.kernel, self.stride, self.padding)
        return "/".join(",".join(map(str, part)) for part in parts)

    @classmethod
    def parse(cls, detail: str) -> DataGradient:
        """What :meth:`detail` wrote."""
        data, *pairs = (tuple(int(number) for number in part.split(",")) for part in detail.split("/"))
        (n, channels, height, width), (pixels, kernel, stride, padding) = data, ((a, b) for a, b in pairs)
        return cls((n, channels, height, width), pixels, kernel, stride, padding)


@lru_cache(KEPT)
def plain_data_gradient(gradient: DataGradient) -> PrimFunc:
    """The gradient in plain layout, which importers emit.

    Gives a PrimFunc (gradient of the result, weight ``(C, 1, kh, kw)``, gradient of the data).
    """
    g = gradient
    shapes = ((*g.data[:2], *g.pixels), (g.data[1], 1, *g.kernel), g.data)
    mark = Mark(DATA_GRADIENT, g.detail())
    return _gather(g, shapes, lambda c, y, k, v: (c, 0, y, k), mark)


@lru_cache(KEPT)
def data_gradient(gradient: DataGradient, dy: tuple[int, ...]) -> PrimFunc:
    """The gradient in blocks. Gives a PrimFunc (gradient of the result, weight ``(blocks, kh, kw, x)``, result).

    Args:
        gradient: which one.
        dy: the shape ``(n, blocks, rows, columns, x)`` of the gradient of the convolution's result. The result has the
            same blocks.
    """
    g = gradient
    n, blocks, _, _, x = dy
    shapes = (dy, (blocks, *g.kernel, x), (n, blocks, *g.data[2:], x))
    return _gather(g, shapes, lambda c, y, k, v: (c, y, k, *v), Mark(KIND, g.detail()))


def _gather(
    g: DataGradient,
    shapes: tuple[tuple[int, ...], ...],
    place: Callable[[Expr, Expr, Expr, tuple[Expr, ...]], tuple[Expr | int, ...]],
    mark: Mark,
) -> PrimFunc:
    """A function that sums, for each pixel of the data, over the pixels of the convolution's result that read it.

    Args:
        g: which gradient.
        shapes: of the result's gradient, of the weight, and of the data.
        place: the indices of a weight, by the channel or block, the row and column of the kernel, and the lane.
        mark: of the block.
    """
    from tvm import te

    d, w = te.placeholder(shapes[0], name="gradient"), te.placeholder(shapes[1], name="weight")
    ry, rx = te.reduce_axis((0, g.kernel[0]), "ry"), te.reduce_axis((0, g.kernel[1]), "rx")

    def pixel(n: Expr, c: Expr, i: Expr, j: Expr, *v: Expr) -> Expr:
        row, column = i + g.padding[0] - ry, j + g.padding[1] - rx
        down, across = row // g.stride[0], column // g.stride[1]
        inside = te.all(
            row >= 0,
            column >= 0,
            row % g.stride[0] == 0,
            column % g.stride[1] == 0,
            down < g.pixels[0],
            across < g.pixels[1],
        )
        term = te.if_then_else(inside, d(n, c, down, across, *v) * w(*place(c, ry, rx, v)), 0.0)
        return te.sum(term, axis=[ry, rx])

    result = te.compute(shapes[2], pixel, name=BLOCK, attrs=mark.annotations)
    return make_function([d, w, result], FUSABLE)
