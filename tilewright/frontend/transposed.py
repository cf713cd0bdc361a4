"""Transposed convolutions, computed as ordinary convolutions: one for each phase of the stride.

With a stride of ``s``, the pixels ``a, a + s, a + 2 s, ...`` of the result are its phase ``a``. All pixels of a phase
use the same taps of the kernel, so a phase is an ordinary convolution, without zeros in between. A tap is one place in
the window of the kernel.

Training uses this, too: a transposed convolution is the gradient of the data of a convolution with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tilewright.ops.elementwise.phases import Phases, plain_interleave

if TYPE_CHECKING:
    from tvm import relax

__all__ = ["Axis", "emit_transposed"]


@dataclass(frozen=True)
class Axis:
    """One dimension of the pixels of a transposed convolution.

    Attributes:
        size: the pixels of the result.
        inputs: the pixels of the data.
        kernel: the taps.
        stride: the distance between the windows of two pixels of the data.
        padding: the pixels that are cut off at the beginning of the result.
        dilation: the distance between two taps.
    """

    size: int
    inputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def step(self) -> int:
        """The distance between the taps of the kernel that one phase uses."""
        return self.stride // math.gcd(self.stride, self.dilation)

    @property
    def spread(self) -> int:
        """The distance between the pixels of the data that neighbours among these taps belong to."""
        return self.dilation // math.gcd(self.stride, self.dilation)

    def first_tap(self, phase: int) -> int | None:
        """The first tap of the kernel that a phase uses; None if it uses none."""
        taps = range(min(self.step, self.kernel))
        return next((k for k in taps if (phase + self.padding - k * self.dilation) % self.stride == 0), None)


class Emitter(Protocol):
    """Emits expressions into the function that an importer builds."""

    @property
    def builder(self) -> relax.BlockBuilder:
        """Holds the functions that are called."""
        ...

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Bind an expression to a variable."""
        ...


def emit_transposed(
    emitter: Emitter, data: relax.Expr, weight: relax.Expr, axes: Sequence[Axis], groups: int
) -> relax.Expr:
    """Emit a transposed convolution: a convolution for each phase of the strides, and one function that joins them.

    With strides of 1 there is one phase: a convolution with flipped weights and swapped channels.

    Args:
        emitter: emits the expressions.
        data: ``(n, I, *inputs)``, float32.
        weight: ``(I, O / groups, *kernel)``.
        axes: of rows and columns, or of the one dimension of a signal.
        groups: the number of groups of channels.

    Returns:
        the result, ``(n, O, *size)``, float32.
    """
    from tvm import relax

    if len(axes) == 1:  # a signal is an image of one row
        n, channels, length = _shape_of(data)
        ins, depth, taps = _shape_of(weight)
        row = emitter.emit(relax.op.reshape(data, (n, channels, 1, length)))
        kernel = emitter.emit(relax.op.reshape(weight, (ins, depth, 1, taps)))
        image = emit_transposed(emitter, row, kernel, (Axis(1, 1, 1, 1, 0, 1), *axes), groups)
        return emitter.emit(relax.op.reshape(image, (n, depth * groups, axes[0].size)))
    rows, cols = axes
    images = _Images(emitter, data, _turn_channels(emitter, weight, groups), (rows, cols), groups)
    found = {
        (a, b): images.phase(a, b)
        for a in range(rows.stride)
        for b in range(cols.stride)
        if rows.first_tap(a) is not None and cols.first_tap(b) is not None
    }
    if rows.stride == cols.stride == 1:
        return found[0, 0]
    shape = (_shape_of(data)[0], _shape_of(weight)[1] * groups, rows.size, cols.size)
    if not found:
        return emitter.emit(relax.op.zeros(shape, data.ty.dtype))
    phases = Phases(shape, (rows.stride, cols.stride), tuple(found))
    function = emitter.builder.add_func(plain_interleave(phases), "phases")
    return emitter.emit(relax.call_tir(function, list(found.values()), relax.TensorType(shape, data.ty.dtype)))


def _shape_of(tensor: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in tensor.ty.shape.values)


def _turn_channels(emitter: Emitter, weight: relax.Expr, groups: int) -> relax.Expr:
    """The weights ``(I, O / groups, kh, kw)`` as ``(O, I / groups, kh, kw)``."""
    from tvm import relax

    if groups == 1:
        return emitter.emit(relax.op.permute_dims(weight, [1, 0, 2, 3]))
    ins, depth, *kernel = _shape_of(weight)
    parts = emitter.emit(relax.op.reshape(weight, (groups, ins // groups, depth, *kernel)))
    turned = emitter.emit(relax.op.permute_dims(parts, [0, 2, 1, 3, 4]))
    return emitter.emit(relax.op.reshape(turned, (groups * depth, ins // groups, *kernel)))


@dataclass(frozen=True)
class _Images:
    """What all phases of a transposed convolution read.

    Attributes:
        emitter: emits the expressions.
        data: ``(n, I, *inputs)``.
        weight: ``(O, I / groups, *kernel)``.
        axes: of rows and columns.
        groups: of channels.
    """

    emitter: Emitter
    data: relax.Expr
    weight: relax.Expr
    axes: tuple[Axis, Axis]
    groups: int

    def phase(self, row: int, col: int) -> relax.Expr:
        """Every ``stride``-th pixel of the result from ``(row, col)`` on.

        y[i] = sum over k of x[s i + k d - p] w[k]  -->  dx[s q + a] = sum over t of dy[q + u - e t] w[m t + r],
        where m = s / gcd(s, d), e = d / gcd(s, d), r is the first tap that meets pixel a, and u = (a + p - r d) / s.
        """
        from tvm import relax

        weight, emit = self.weight, self.emitter.emit
        pads = []
        for place, (axis, phase) in enumerate(zip(self.axes, (row, col), strict=True), 2):
            begin, step = axis.first_tap(phase), axis.step
            assert begin is not None
            taps = -(-(axis.kernel - begin) // step)
            first = axis.spread * (taps - 1) - (phase + axis.padding - begin * axis.dilation) // axis.stride
            pads.append((first, -(-axis.size // axis.stride) - axis.inputs - first + axis.spread * (taps - 1)))
            if axis.stride > 1:
                end = begin + step * (taps - 1) + 1
                weight = emit(relax.op.strided_slice(weight, [place], [begin], [end], [step], assume_inbound=True))
            weight = emit(relax.op.flip(weight, place))
        cropped, padding = self._crop(pads)
        return emit(
            relax.op.nn.conv2d(
                cropped,
                weight,
                strides=[1, 1],
                padding=padding,
                dilation=[axis.spread for axis in self.axes],
                groups=self.groups,
                data_layout="NCHW",
                kernel_layout="OIHW",
            )
        )

    def _crop(self, pads: list[tuple[int, int]]) -> tuple[relax.Expr, list[int]]:
        """The data without the pixels that negative paddings leave out, and the other paddings."""
        from tvm import relax

        data, shape = self.data, _shape_of(self.data)
        cut = [(place, max(0, -a), shape[place] - max(0, -b)) for place, (a, b) in enumerate(pads, 2) if a < 0 or b < 0]
        if cut:
            axes, begins, ends = zip(*cut, strict=True)
            data = self.emitter.emit(relax.op.strided_slice(data, axes, begins, ends, assume_inbound=True))
        (top, bottom), (left, right) = ((max(0, a), max(0, b)) for a, b in pads)
        return data, [top, left, bottom, right]
