"""Tensor expressions of the gradients of a convolution's weights: contractions over the batch and all pixels.

In shapes, ``x`` is the number of channels in a block of the output, and ``cb`` that of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.contraction.expression import pad_pixels
from tilewright.ops.contraction.form import BLOCK, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["WEIGHT_GRADIENT", "WeightGradient", "plain_weight_gradient", "weight_gradient"]

#: The kind of a plain gradient's mark. Its detail is what :meth:`WeightGradient.detail` writes.
WEIGHT_GRADIENT = "weight_gradient"


@dataclass(frozen=True)
class WeightGradient:
    """The gradient of the weights of a convolution of images.

    Attributes:
        data: the shape ``(n, C, h, w)`` of the convolution's data.
        weight: the shape ``(O, C/groups, kh, kw)`` of its weights, which is that of the result.
        stride, dilation: of rows and columns.
        padding: top, left, bottom, right.
        groups: of channels.
    """

    data: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int = 1

    @property
    def output(self) -> tuple[int, int, int, int]:
        """The shape ``(n, O, rows, cols)`` of the convolution's result, and of its gradient."""
        top, left, bottom, right = self.padding
        sizes = (self.data[2] + top + bottom, self.data[3] + left + right)
        rows, cols = (
            (sizes[d] - self.dilation[d] * (self.weight[2 + d] - 1) - 1) // self.stride[d] + 1 for d in range(2)
        )
        return self.data[0], self.weight[0], rows, cols

    def detail(self) -> str:
        """All of it as text, for a mark."""
        parts = (self.data, self.weight, self.stride, self.padding, self.dilation, (self.groups,))
        return "/".join(",".join(map(str, part)) for part in parts)

    @classmethod
    def parse(cls, detail: str) -> WeightGradient:
        """What :meth:`detail` wrote."""
        data, weight, stride, padding, dilation, groups = (
            tuple(int(number) for number in part.split(",")) for part in detail.split("/")
        )
        top, left, bottom, right = padding
        return cls(
            data,
            weight,
            (stride[0], stride[1]),
            (top, left, bottom, right),
            (dilation[0], dilation[1]),
            groups[0],
        )


@lru_cache(KEPT)
def plain_weight_gradient(gradient: WeightGradient) -> PrimFunc:
    """The gradient in plain layout, which importers emit. Gives a PrimFunc (data, gradient of the output, result)."""
    from tvm import te

    g = gradient
    x = te.placeholder(g.data, name="data")
    dy = te.placeholder(g.output, name="gradient")
    src = pad_pixels(x, g.padding)
    n, out, rows, cols = g.output
    each, depth = out // g.groups, g.weight[1]
    rn, ri, rj = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i"), te.reduce_axis((0, cols), "j")
    result = te.compute(
        g.weight,
        lambda o, c, ky, kx: te.sum(
            src[
                rn,
                o // each * depth + c,
                ri * g.stride[0] + ky * g.dilation[0],
                rj * g.stride[1] + kx * g.dilation[1],
            ]
            * dy[rn, o, ri, rj],
            axis=[rn, ri, rj],
        ),
        name=WEIGHT_GRADIENT,
        attrs=Mark(WEIGHT_GRADIENT, g.detail()).annotations,
    )
    return make_function([x, dy, result], FUSABLE)


@lru_cache(KEPT)
def weight_gradient(gradient: WeightGradient, cb: int, x: int) -> PrimFunc:
    """The gradient on blocked tensors. Gives a PrimFunc (data, gradient of the output, result).

    The data have the shape ``(n, C/cb, h, w, cb)``, the gradient of the output ``(n, O/x, rows, cols, x)``, and the
    result ``(C/cb, kh, O/x, kw, cb, x)``. A vector holds output channels, and a register tile input channels.

    Args:
        gradient: without groups.
        cb: input channels in a block.
        x: output channels in a block.
    """
    from tvm import te

    g = gradient
    n, out, rows, cols = g.output
    _, depth, kh, kw = g.weight
    data = te.placeholder((n, depth // cb, *g.data[2:], cb), name="data")
    dy = te.placeholder((n, out // x, rows, cols, x), name="gradient")
    src = pad_pixels(data, g.padding)
    rn, ri = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i")
    one, rj = te.reduce_axis((0, 1), "one"), te.reduce_axis((0, cols), "j")
    result = te.compute(
        (depth // cb, kh, out // x, kw, cb, x),
        lambda c, ky, o, kx, u, v: te.sum(
            src[rn, c, ri * g.stride[0] + ky * g.dilation[0], (rj + one) * g.stride[1] + kx * g.dilation[1], u]
            * dy[rn, o, ri, rj + one, v],
            axis=[rn, ri, one, rj],
        ),
        name=BLOCK,
        attrs=mark_roles("bgoppl/rrrr"),
    )
    return make_function([data, dy, result], FUSABLE)
