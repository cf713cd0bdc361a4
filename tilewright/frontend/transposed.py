"""Transposed convolutions, computed as ordinary convolutions: one for each phase of the stride, or one for all.

With a stride of ``s``, the pixels ``a, a + s, a + 2 s, ...`` of the result are its phase ``a``. All pixels of a phase
use the same taps of the kernel, so a phase is an ordinary convolution, without zeros in between. A tap is one place in
the window of the kernel.

Where all phases read the same pixels, as with a kernel as large as its stride, one convolution computes them all.

Training uses this, too: a transposed convolution is the gradient of the data of a convolution with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

    @property
    def alike(self) -> bool:
        """Whether all phases read the same pixels for their own."""
        return self.dilation == 1 and self.kernel % self.stride == 0 and self.padding % self.stride == 0

    def first_tap(self, phase: int) -> int | None:
        """The first tap of the kernel that a phase uses; None if it uses none."""
        taps = range(min(self.step, self.kernel))
        return next((k for k in taps if (phase + self.padding - k * self.dilation) % self.stride == 0), None)

    def taps(self, phase: int) -> range:
        """The taps of the kernel that a phase uses."""
        begin = self.first_tap(phase)
        return range(0) if begin is None else range(begin, self.kernel, self.step)

    def pads(self, phase: int) -> tuple[int, int]:
        """The padding of the data before and behind, with which a phase that uses taps reads it. It may be negative."""
        taps = self.taps(phase)
        reach = self.spread * (len(taps) - 1)
        first = reach - (phase + self.padding - taps[0] * self.dilation) // self.stride
        return first, -(-self.size // self.stride) - self.inputs - first + reach

    def reads(self, phase: int) -> bool:
        """Whether a phase reads any pixel of the data. Those of others are zeros."""
        return bool(self.taps(phase)) and self.inputs + sum(min(0, pad) for pad in self.pads(phase)) > 0


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

    With strides of 1 there is one phase: a convolution with flipped weights and swapped channels. Phases that read the
    same pixels are computed by one convolution, as further channels.

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
        if rows.reads(a) and cols.reads(b)
    }
    shape = (_shape_of(data)[0], _shape_of(weight)[1] * groups, rows.size, cols.size)
    if not found:
        return emitter.emit(relax.op.zeros(shape, data.ty.dtype))
    stride, parts = (rows.stride, cols.stride), list(found.values())
    if len(parts) == 1 and stride == (1, 1):
        return parts[0].emit(emitter, groups)
    phases = Phases(shape, stride, tuple(found))
    # Groups have their channels side by side, so that those of a further phase cannot be put behind them.
    if groups == 1 and rows.alike and cols.alike:
        phases = Phases.of_one(shape, stride)
        parts = [replace(parts[0], weight=images.join_weight())]
    function = emitter.builder.add_func(plain_interleave(phases), "phases")
    results = [part.emit(emitter, groups) for part in parts]
    return emitter.emit(relax.call_tir(function, results, relax.TensorType(shape, data.ty.dtype)))


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

    def join_weight(self) -> relax.Expr:
        """The weights of all phases, one phase after another along the channels that come out, if they are alike.

        Tap ``t s + a`` of the kernel is tap ``t`` of phase ``a``, counted from the last.
        """
        from tvm import relax

        emit, (rows, cols) = self.emitter.emit, self.axes
        outs, ins, height, width = _shape_of(self.weight)
        taps = height // rows.stride, width // cols.stride
        split = emit(relax.op.reshape(self.weight, (outs, ins, taps[0], rows.stride, taps[1], cols.stride)))
        turned = emit(relax.op.permute_dims(split, [3, 5, 0, 1, 2, 4]))
        weight = emit(relax.op.reshape(turned, (rows.stride * cols.stride * outs, ins, *taps)))
        for place, count in enumerate(taps, 2):
            weight = emit(relax.op.flip(weight, place)) if count > 1 else weight
        return weight

    def phase(self, row: int, col: int) -> _Phase:
        """The convolution that gives every ``stride``-th pixel of the result from ``(row, col)`` on.

        y[i] = sum over k of x[s i + k d - p] w[k]  -->  dx[s q + a] = sum over t of dy[q + u - e t] w[m t + r],
        where m = s / gcd(s, d), e = d / gcd(s, d), r is the first tap that meets pixel a, and u = (a + p - r d) / s.
        """
        from tvm import relax

        weight, emit = self.weight, self.emitter.emit
        cuts, turned = [], []
        for place, (axis, phase) in enumerate(zip(self.axes, (row, col), strict=True), 2):
            taps = axis.taps(phase)
            if axis.stride > 1:
                cuts.append((place, taps[0], taps[-1] + 1, axis.step))
            if len(taps) > 1:
                turned.append(place)
        if cuts:  # all axes at once: what several phases share would be a function of its own
            weight = emit(relax.op.strided_slice(weight, *map(list, zip(*cuts, strict=True)), assume_inbound=True))
        for place in turned:
            weight = emit(relax.op.flip(weight, place))
        window = tuple(_shape_of(weight)[2:])
        rows, cols = self.axes
        pads = (rows.pads(row), cols.pads(col))
        return _Phase(self.data, weight, (window, pads, (rows.spread, cols.spread)))


@dataclass(frozen=True)
class _Phase:
    """A convolution that gives the pixels of a phase.

    Attributes:
        data: ``(n, I, *inputs)``.
        weight: ``(O, I / groups, *taps)``.
        reads: the taps; the padding, which may be negative; and the dilation: which pixels it reads for its own.
    """

    data: relax.Expr
    weight: relax.Expr
    reads: tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, int]]

    def emit(self, emitter: Emitter, groups: int) -> relax.Expr:
        """Emit it."""
        from tvm import relax

        _, pads, dilation = self.reads
        cropped, padding = self._crop(emitter, pads)
        return emitter.emit(
            relax.op.nn.conv2d(
                cropped,
                self.weight,
                strides=[1, 1],
                padding=padding,
                dilation=dilation,
                groups=groups,
                data_layout="NCHW",
                kernel_layout="OIHW",
            )
        )

    def _crop(self, emitter: Emitter, pads: Sequence[tuple[int, int]]) -> tuple[relax.Expr, list[int]]:
        """The data without the pixels that negative paddings leave out, and the other paddings."""
        from tvm import relax

        data, shape = self.data, _shape_of(self.data)
        cut = [(place, max(0, -a), shape[place] - max(0, -b)) for place, (a, b) in enumerate(pads, 2) if a < 0 or b < 0]
        if cut:
            axes, begins, ends = zip(*cut, strict=True)
            data = emitter.emit(relax.op.strided_slice(data, axes, begins, ends, assume_inbound=True))
        (top, bottom), (left, right) = ((max(0, a), max(0, b)) for a, b in pads)
        return data, [top, left, bottom, right]
