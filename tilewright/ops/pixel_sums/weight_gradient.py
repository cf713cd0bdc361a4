"""Tensor expressions of the gradients of a convolution's weights.

In shapes, ``x`` is the number of channels in a block of the output, and ``cb`` that of the input.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.contraction.expression import pad_pixels
from tilewright.ops.function import FUSABLE, KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.pixel_sums.form import BLOCK, mark_roles

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = [
    "WEIGHT_GRADIENT",
    "WeightGradient",
    "depthwise_gradient",
    "plain_weight_gradient",
    "weight_gradient",
]

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
def weight_gradient(gradient: WeightGradient, data: tuple[int, ...], dy: tuple[int, ...]) -> PrimFunc:
    """The gradient of blocked tensors. Gives a PrimFunc (data, gradient of the output, result in plain layout).

    A vector holds output channels, and a register tile input channels and places of the kernel.

    Args:
        gradient: if it has groups, the blocks of channels divide those of a group.
        data: shape ``(n, blocks, h, w, cb)``. Channels lie in order. What is in the places behind the last is ignored.
        dy: shape ``(n, blocks, rows, cols, x)`` of the gradient of the output, likewise.
    """
    from tvm import te

    g = gradient
    n, out, rows, cols = g.output
    kh, kw = g.weight[2:]
    each, cb, x = out // g.groups, data[-1], dy[-1]
    a, d = te.placeholder(data, name="data"), te.placeholder(dy, name="gradient")
    src = pad_pixels(a, g.padding)
    inputs, outputs = data[1] // g.groups, dy[1] // g.groups
    rn, ri, rj = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i"), te.reduce_axis((0, cols), "j")
    sums = te.compute(
        (g.groups, inputs, outputs, kh, kw, cb, x),
        lambda q, c, o, y, k, u, v: te.sum(
            src[
                rn,
                q * inputs + c,
                ri * g.stride[0] + y * g.dilation[0],
                rj * g.stride[1] + k * g.dilation[1],
                u,
            ]
            * d[rn, q * outputs + o, ri, rj, v],
            axis=[rn, ri, rj],
        ),
        name=BLOCK,
        attrs=mark_roles("gcoyxul"),
    )
    result = te.compute(
        g.weight,
        lambda o, c, y, k: sums[o // each, c // cb, o % each // x, y, k, c % cb, o % each % x],
        name="unpack",
    )
    return make_function([a, d, result], OPAQUE)


@lru_cache(KEPT)
def depthwise_gradient(gradient: WeightGradient, data: tuple[int, ...]) -> PrimFunc:
    """The gradient of a convolution of every channel by itself. Gives a PrimFunc as :func:`weight_gradient` does.

    Args:
        gradient: has as many groups as inputs and outputs.
        data: shape ``(n, blocks, h, w, x)``. The gradient of the output has the same blocks.
    """
    from tvm import te

    g = gradient
    n, _, rows, cols = g.output
    _, blocks, _, _, x = data
    kh, kw = g.weight[2:]
    a, d = te.placeholder(data, name="data"), te.placeholder((n, blocks, rows, cols, x), name="gradient")
    src = pad_pixels(a, g.padding)
    rn, ri, rj = te.reduce_axis((0, n), "n"), te.reduce_axis((0, rows), "i"), te.reduce_axis((0, cols), "j")
    sums = te.compute(
        (blocks, kh, kw, x),
        lambda c, y, k, v: te.sum(
            src[rn, c, ri * g.stride[0] + y * g.dilation[0], rj * g.stride[1] + k * g.dilation[1], v]
            * d[rn, c, ri, rj, v],
            axis=[rn, ri, rj],
        ),
        name=BLOCK,
        attrs=mark_roles("cyxl"),
    )
    result = te.compute(g.weight, lambda o, c, y, k: sums[o // x, y, k, o % x], name="unpack")
    return make_function([a, d, result], OPAQUE)
