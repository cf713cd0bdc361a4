"""Converters of gradients that no decomposition of PyTorch serves: those of convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.frontend.torch.converters.operands import Operands, Results, converter
from tilewright.ops.contraction.gradient import WeightGradient, plain_weight_gradient

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []


@dataclass(frozen=True)
class _Axis:
    """One dimension of the pixels of a convolution.

    Attributes:
        size: the pixels of the data.
        outputs: the pixels of the result.
        kernel, stride, padding, dilation: of the convolution.
    """

    size: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int


@converter("convolution_backward.default")
def _convolution_backward(o: Operands) -> Results:
    """The gradients of the data, of the weights, and of the bias. What nobody asks for is None."""
    from tvm import relax

    if o.given("transposed"):
        raise ValueError("gradients of transposed convolutions are not compiled yet")
    if len(o.shape(0)) != 4:
        raise ValueError(
            "gradients of convolutions of images are compiled, but these have another number of dimensions"
        )
    data, weight, bias = (bool(wanted) for wanted in _mask(o))
    return [
        _data_gradient(o) if data else None,
        _weight_gradient(o) if weight else None,
        o.emit(relax.op.sum(o.expr("grad_output"), [0, 2, 3])) if bias else None,
    ]


def _mask(o: Operands) -> tuple[bool, ...]:
    mask = o.given("output_mask")
    assert isinstance(mask, list | tuple)
    return tuple(bool(wanted) and o.reads(place) for place, wanted in enumerate(mask))


def _axes(o: Operands) -> list[_Axis]:
    given = [o.integers(name, 2) for name in ("stride", "padding", "dilation")]
    shapes = [o.shape(name)[2:] for name in ("input", "grad_output", "weight")]
    return [_Axis(*numbers) for numbers in zip(*shapes, *given, strict=True)]


def _weight_gradient(o: Operands) -> relax.Expr:
    from tvm import relax

    rows, cols = _axes(o)
    gradient = WeightGradient(
        o.shape("input"),
        o.shape("weight"),
        (rows.stride, cols.stride),
        (rows.padding, cols.padding, rows.padding, cols.padding),
        (rows.dilation, cols.dilation),
        o.integer("groups"),
    )
    # The last pixels of the data may be out of every window's reach.
    function = o.builder.add_func(plain_weight_gradient(gradient), "weight_gradient")
    kind = relax.TensorType(gradient.weight, o.dtype("weight"))
    return o.emit(relax.call_tir(function, [o.expr("input"), o.expr("grad_output")], kind))


def _data_gradient(o: Operands) -> relax.Expr:
    """The gradient of the data: a convolution of the output's gradient for each phase of the stride.

    With strides of 1 there is one phase: a convolution with flipped weights, whose channels changed their places.
    """
    from tvm import relax

    weight = _turn_channels(o)
    axes = _axes(o)
    if any(axis.stride > 1 and axis.dilation > 1 for axis in axes):
        raise ValueError("gradients of dilated convolutions are compiled for strides of 1")
    phases = [[_phase(o, weight, row, col) for col in range(axes[1].stride)] for row in range(axes[0].stride)]
    rows, cols = (axis.stride for axis in axes)
    if rows == cols == 1:
        return phases[0][0]
    batch, channels, height, width = o.shape("input")
    high, wide = -(-height // rows), -(-width // cols)
    flat = [o.reshape(phase, (batch, channels, high, 1, wide, 1)) for line in phases for phase in line]
    lines = [o.emit(relax.op.concat(flat[r * cols : (r + 1) * cols], 5)) for r in range(rows)]
    whole = o.reshape(o.emit(relax.op.concat(lines, 3)), (batch, channels, high * rows, wide * cols))
    if (high * rows, wide * cols) == (height, width):
        return whole
    return o.emit(relax.op.strided_slice(whole, [2, 3], [0, 0], [height, width], assume_inbound=True))


def _turn_channels(o: Operands) -> relax.Expr:
    """The weights ``(O, C/groups, kh, kw)`` as ``(C, O/groups, kh, kw)``, flipped."""
    from tvm import relax

    weight, groups = o.expr("weight"), o.integer("groups")
    out, depth, kh, kw = o.shape("weight")
    if groups == 1:
        weight = o.emit(relax.op.permute_dims(weight, [1, 0, 2, 3]))
    else:
        parts = o.reshape(weight, (groups, out // groups, depth, kh, kw))
        turned = o.emit(relax.op.permute_dims(parts, [0, 2, 1, 3, 4]))
        weight = o.reshape(turned, (groups * depth, out // groups, kh, kw))
    return weight


def _phase(o: Operands, weight: relax.Expr, row: int, col: int) -> relax.Expr:
    """The gradients of every ``stride``-th pixel from ``(row, col)`` on.

    y[i] = sum over k of x[s i + k d - p] w[k]  -->  dx[s q + a] = sum over t of dy[q + u - t] w[s t + r],
    where r = (a + p) mod s and u = (a + p) div s, for a dilation d of 1.
    With a stride of 1, dx[q] = sum over t of dy[q + p - d t] w[t].
    """
    from tvm import relax

    axes = _axes(o)
    begins, kernels, pads = [], [], []
    for axis, phase in zip(axes, (row, col), strict=True):
        s, d = axis.stride, axis.dilation
        r, u = ((phase + axis.padding) % s, (phase + axis.padding) // s) if s > 1 else (0, axis.padding)
        taps = math.ceil((axis.kernel - r) / s) if r < axis.kernel else 0
        outputs = -(-axis.size // s)
        first = d * (taps - 1) - u
        begins.append(r)
        kernels.append(taps)
        pads.append((first, outputs - axis.outputs - first + d * (taps - 1)))
    batch, channels = o.shape("input")[:2]
    high, wide = (-(-axis.size // axis.stride) for axis in axes)
    if 0 in kernels:
        return o.emit(relax.op.zeros((batch, channels, high, wide), o.dtype("input")))
    for place, (axis, begin, taps) in enumerate(zip(axes, begins, kernels, strict=True), 2):
        if axis.stride > 1:
            end = begin + axis.stride * (taps - 1) + 1
            weight = o.emit(relax.op.strided_slice(weight, [place], [begin], [end], [axis.stride], assume_inbound=True))
        weight = o.emit(relax.op.flip(weight, place))
    gradient, padding = _crop(o, pads)
    return o.emit(
        relax.op.nn.conv2d(
            gradient,
            weight,
            strides=[1, 1],
            padding=padding,
            dilation=[axis.dilation for axis in axes],
            groups=o.integer("groups"),
            data_layout="NCHW",
            kernel_layout="OIHW",
        )
    )


def _crop(o: Operands, pads: list[tuple[int, int]]) -> tuple[relax.Expr, list[int]]:
    """The gradient of the output without the pixels that negative paddings leave out, and the other paddings."""
    from tvm import relax

    gradient = o.expr("grad_output")
    shape = o.shape("grad_output")
    cut = [(place, max(0, -a), shape[place] - max(0, -b)) for place, (a, b) in enumerate(pads, 2) if a < 0 or b < 0]
    if cut:
        axes, begins, ends = zip(*cut, strict=True)
        gradient = o.emit(relax.op.strided_slice(gradient, axes, begins, ends, assume_inbound=True))
    (top, bottom), (left, right) = ((max(0, a), max(0, b)) for a, b in pads)
    return gradient, [top, left, bottom, right]
