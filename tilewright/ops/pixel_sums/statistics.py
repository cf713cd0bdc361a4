"""Tensor expressions of two sums for each channel, which batch norms and their gradients need, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import KEPT, OPAQUE, REDUCTION, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.pixel_sums.form import BLOCK, mark_roles

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["STATISTICS", "Statistics", "channel_statistics", "channel_sum", "plain_statistics"]

#: The kind of the mark of plain statistics. Its detail is what :meth:`Statistics.detail` writes.
STATISTICS = "channel_statistics"
#: The dtype of the sums. In float32, those of a whole batch are off by several roundings of the result, and each
#: gradient of the layers before shows it.
_SUMMED = "float64"


@dataclass(frozen=True)
class Statistics:
    """Two numbers for each channel of images, as the rows of a tensor ``(2, C)``.

    Attributes:
        shape: ``(n, C, h, w)`` of the images.
        products: false: the mean and the variance (divided by the count) of the images. True: the sum of a gradient,
            and of its products with centred images. Operands are then the gradient, the images, and their mean.
    """

    shape: tuple[int, int, int, int]
    products: bool

    def detail(self) -> str:
        """All of it as text, for a mark."""
        return ",".join(map(str, (*self.shape, int(self.products))))

    @classmethod
    def parse(cls, detail: str) -> Statistics:
        """What :meth:`detail` wrote."""
        n, channels, height, width, products = (int(number) for number in detail.split(","))
        return cls((n, channels, height, width), bool(products))


@lru_cache(KEPT)
def plain_statistics(statistics: Statistics) -> PrimFunc:
    """The statistics of images in plain layout, which importers emit.

    Gives a PrimFunc (images, result) or (gradient, images, mean ``(C,)``, result).
    """
    from tvm import te

    n, channels, rows, cols = statistics.shape
    tensors = _operands(statistics, statistics.shape)
    rn, ri, rj = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i"), te.reduce_axis((0, cols), "j")

    def read(tensor: Tensor, c: Expr, *pixel: Expr) -> Expr:
        b, i, j = pixel
        return tensor[b, c, i, j]

    sums = te.compute(
        (2, channels),
        lambda t, c: te.sum(
            _term(statistics, tensors, t, lambda a, *p: read(a, c, *p), c, (rn, ri, rj)), axis=[rn, ri, rj]
        ),
        name=STATISTICS,
        attrs=Mark(STATISTICS, statistics.detail()).annotations,
    )
    result = te.compute(
        (2, channels),
        lambda t, c: _finish(statistics, sums[0, c], sums[t, c], t),
        name="finish",
    )
    return make_function([*tensors, result], OPAQUE)


@lru_cache(KEPT)
def channel_statistics(statistics: Statistics, data: tuple[int, ...], fusable: bool = False) -> PrimFunc:
    """The statistics of blocked images. Gives a PrimFunc as :func:`plain_statistics` does.

    Args:
        statistics: of the images.
        data: shape ``(n, blocks, h, w, x)`` of all images. Channels lie in order. What is in the places behind the
            last is ignored.
        fusable: whether element-wise functions before it are fused into it.
    """
    from tvm import te

    n, channels, rows, cols = statistics.shape
    _, blocks, _, _, x = data
    tensors = _operands(statistics, data)
    rn, ri, rj = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i"), te.reduce_axis((0, cols), "j")

    def read(tensor: Tensor, c: Expr, v: Expr, *pixel: Expr) -> Expr:
        b, i, j = pixel
        return tensor[b, c, i, j, v]

    sums = te.compute(
        (2, blocks, x),
        lambda t, c, v: te.sum(
            _term(statistics, tensors, t, lambda a, *p: read(a, c, v, *p), c * x + v, (rn, ri, rj)),
            axis=[rn, ri, rj],
        ),
        name=BLOCK,
        attrs=mark_roles("tcl"),
    )
    result = te.compute(
        (2, channels),
        lambda t, c: _finish(statistics, sums[0, c // x, c % x], sums[t, c // x, c % x], t),
        name="finish",
    )
    return make_function([*tensors, result], REDUCTION if fusable else OPAQUE)


@lru_cache(KEPT)
def channel_sum(data: tuple[int, ...], channels: int) -> PrimFunc:
    """The sum of each channel of blocked images. Gives a PrimFunc (images, sums ``(C,)``).

    Element-wise functions before it are fused into it.

    Args:
        data: shape ``(n, blocks, h, w, x)``. Channels lie in order. What is in the places behind the last is ignored.
        channels: C.
    """
    from tvm import te

    n, blocks, rows, cols, x = data
    tensor = te.placeholder(data, name="data")
    rn, ri, rj = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i"), te.reduce_axis((0, cols), "j")
    sums = te.compute(
        (blocks, x),
        lambda c, v: te.sum(tensor[rn, c, ri, rj, v], axis=[rn, ri, rj]),
        name=BLOCK,
        attrs=mark_roles("cl"),
    )
    result = te.compute((channels,), lambda c: sums[c // x, c % x], name="unpack")
    return make_function([tensor, result], REDUCTION)


def _operands(statistics: Statistics, shape: tuple[int, ...]) -> list[Tensor]:
    """The placeholders of the operands, whose images have a shape."""
    from tvm import te

    if not statistics.products:
        return [te.placeholder(shape, name="data")]
    places = statistics.shape[1] if len(shape) == 4 else shape[1] * shape[4]
    return [
        te.placeholder(shape, name="gradient"),
        te.placeholder(shape, name="data"),
        te.placeholder((places,), name="mean"),
    ]


def _term(
    statistics: Statistics,
    tensors: list[Tensor],
    t: Expr,
    read: Callable[..., Expr],
    channel: Expr,
    pixel: tuple[Expr, Expr, Expr],
) -> Expr:
    """What a pixel adds to the first and to the second number.

    Both are float64, as PyTorch's sums are. So a mean far from zero does not hide the variance.
    """
    from tvm import tirx

    first = read(tensors[0], *pixel).astype(_SUMMED)
    if statistics.products:
        centred = read(tensors[1], *pixel).astype(_SUMMED) - tensors[2][channel].astype(_SUMMED)
        return tirx.if_then_else(t == 0, first, first * centred)
    return tirx.if_then_else(t == 0, first, first * first)


def _finish(statistics: Statistics, first: Expr, own: Expr, t: Expr) -> Expr:
    """The number of a channel, made of its sums."""
    from tvm import tirx

    if statistics.products:
        return own.astype("float32")
    n, _, rows, cols = statistics.shape
    share = tirx.const(1.0 / (n * rows * cols), _SUMMED)
    mean = first * share
    variance = tirx.max(own * share - mean * mean, tirx.const(0.0, _SUMMED))
    return tirx.if_then_else(t == 0, mean, variance).astype("float32")
