"""Convolutions and matrix products of ONNX's reference evaluator, computed by NumPy's matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from tilewright.tensor import Floats, Numbers
from tilewright.verify import freedom
from tilewright.verify.attributes import Attributes

__all__ = ["CONTRACTIONS", "pad_image", "same_pads", "slide_windows"]

#: How many elements of the input a convolution copies at a time: a bound of the memory that the copies take.
_PIECE = 1 << 22


def same_pads(
    extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], lower: bool
) -> list[int]:
    """The padding with which there are ceil(extent / stride) windows along each axis.

    Args:
        extents: the extents of the image's spatial axes.
        kernel: the window's extents.
        strides: steps from one window to the next.
        dilations: steps from one element of a window to the next.
        lower: whether the larger half of an odd padding goes to the beginning of the axis.

    Returns:
        the padding at the beginnings of all axes, then the padding at their ends.
    """
    totals = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(extents, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*more, *less] if lower else [*less, *more]


def pad_image(x: Numbers, pads: Sequence[int], value: float = 0.0) -> Numbers:
    """Extend the spatial axes of ``x`` (batch, channels, spatial axes) with ``value``; negative padding cuts off."""
    half = len(pads) // 2
    cut = tuple(
        slice(max(0, -b), n - max(0, -e)) for n, b, e in zip(x.shape[2:], pads[:half], pads[half:], strict=True)
    )
    x = x[(slice(None), slice(None), *cut)]
    if not any(p > 0 for p in pads):
        return x
    widths = [(max(0, b), max(0, e)) for b, e in zip(pads[:half], pads[half:], strict=True)]
    return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=value)


def slide_windows(
    x: Numbers, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extents: Sequence[int]
) -> Numbers:
    """A read-only view of the windows of ``x``, of shape (batch, channels, *kernel, *extents)."""
    batch, channels, *space = x.strides
    inner = [d * s for d, s in zip(dilations, space, strict=True)]
    outer = [d * s for d, s in zip(strides, space, strict=True)]
    shape = (*x.shape[:2], *kernel, *extents)
    return as_strided(x, shape, (batch, channels, *inner, *outer), writeable=False)


def _summing(dtype: np.dtype[np.number]) -> np.dtype[np.number]:
    """The dtype in which products are summed: float32 for float16, otherwise the operands' own."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


@dataclass(frozen=True)
class _Convolution:
    """The attributes of a convolution. Each list has one entry for each spatial axis, but ``pads`` has two.

    Attributes:
        strides: steps from one window to the next.
        dilations: steps from one element of the kernel to the next.
        group: the number of groups of channels.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``.
        pads: at the beginnings of all axes, then at their ends; empty if the node does not say.
        output_padding: elements that a transposed convolution adds at the end of each axis.
        output_shape: extents of a transposed convolution's output; empty if the node does not say.
    """

    strides: list[int]
    dilations: list[int]
    group: int
    auto_pad: str
    pads: list[int]
    output_padding: list[int]
    output_shape: list[int]

    @classmethod
    def read(cls, attributes: Attributes, rank: int) -> _Convolution:
        """The attributes of a node whose image has ``rank`` spatial axes."""
        return cls(
            strides=attributes.integers("strides") or [1] * rank,
            dilations=attributes.integers("dilations") or [1] * rank,
            group=attributes.integer("group", 1),
            auto_pad=attributes.text("auto_pad", "NOTSET"),
            pads=attributes.integers("pads"),
            output_padding=attributes.integers("output_padding") or [0] * rank,
            output_shape=attributes.integers("output_shape"),
        )

    @property
    def given_pads(self) -> list[int]:
        """The padding as the node gives it: none with ``VALID``."""
        return self.pads if self.pads and self.auto_pad != "VALID" else [0] * (2 * len(self.strides))


class _Contraction(OpRun):
    op_domain = ""

    @property
    def _freedom(self) -> freedom.Freedom:
        found: freedom.Freedom = self.run_params["evaluator_cls"].freedom
        return found


class Conv(_Contraction):
    """A convolution with any number of spatial axes."""

    def _run(self, x: Floats, w: Floats, b: Floats | None = None, **given: object) -> tuple[Floats]:
        kernel, rank = w.shape[2:], x.ndim - 2
        how = _Convolution.read(Attributes(given), rank)
        pads = how.given_pads
        if how.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(x.shape[2:], kernel, how.strides, how.dilations, how.auto_pad == "SAME_LOWER")
        if how.group == 1:
            x, w = self._freedom.round_operand(x), self._freedom.round_operand(w)
        result = _convolve(x, w, how, pads)
        winograd = kernel == (3, 3) and how.strides == how.dilations == [1, 1] and how.group == 1
        result = self._freedom.disturb(result, freedom.WINOGRAD if winograd else freedom.SUM)
        if b is not None:
            result += b.reshape((-1,) + (1,) * rank)
        return (result.astype(x.dtype, copy=False),)


def _convolve(x: Floats, w: Floats, how: _Convolution, pads: Sequence[int]) -> Floats:
    dtype, kernel, group = _summing(x.dtype), w.shape[2:], how.group
    whole: Floats = np.ascontiguousarray(pad_image(x, pads), dtype=dtype)
    extents = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(whole.shape[2:], kernel, how.dilations, how.strides, strict=True)
    ]
    if not all(e > 0 for e in extents):
        raise ValueError("the kernel is larger than the padded input")
    windows = slide_windows(whole, kernel, how.strides, how.dilations, extents)
    weights = w.astype(dtype, copy=False).reshape(group, w.shape[0] // group, -1)
    result: Floats = np.empty((x.shape[0], w.shape[0], *extents), dtype=dtype)
    row = x.shape[1] * math.prod(kernel) * math.prod(extents[1:])
    step = max(1, _PIECE // max(1, row))
    lead = (slice(None),) * (1 + len(kernel))
    for image in range(x.shape[0]):
        for begin in range(0, extents[0], step):
            piece = windows[image][(*lead, slice(begin, begin + step))]
            columns = piece.reshape(group, weights.shape[2], -1)
            products = np.matmul(weights, columns)
            result[image, :, begin : begin + step] = products.reshape(w.shape[0], -1, *extents[1:])
    return result


class ConvTranspose(_Contraction):
    """A transposed convolution with any number of spatial axes."""

    def _run(self, x: Floats, w: Floats, b: Floats | None = None, **given: object) -> tuple[Floats]:
        kernel, rank = w.shape[2:], x.ndim - 2
        how = _Convolution.read(Attributes(given), rank)
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, how.dilations, strict=True)]
        full = [s * (n - 1) + e for n, s, e in zip(x.shape[2:], how.strides, spans, strict=True)]
        begins, extents = _transposed_places(x.shape[2:], full, how)
        dtype, group = _summing(x.dtype), how.group
        wide = [max(f, b + e) for f, b, e in zip(full, begins, extents, strict=True)]
        result: Floats = np.zeros((x.shape[0], w.shape[1] * group, *wide), dtype=dtype)
        weights = w.astype(dtype, copy=False).reshape(group, w.shape[0] // group, -1)
        data = x.astype(dtype, copy=False).reshape(x.shape[0], group, x.shape[1] // group, -1)
        for image in range(x.shape[0]):
            products = np.matmul(weights.transpose(0, 2, 1), data[image])
            products = products.reshape(w.shape[1] * group, *kernel, *x.shape[2:])
            for place in np.ndindex(*kernel):
                steps = zip(place, how.dilations, how.strides, x.shape[2:], strict=True)
                where = tuple(slice(p * d, p * d + s * (n - 1) + 1, s) for p, d, s, n in steps)
                result[image][(slice(None), *where)] += products[(slice(None), *place)]
        kept = tuple(slice(b, b + e) for b, e in zip(begins, extents, strict=True))
        result = self._freedom.disturb(result[(slice(None), slice(None), *kept)], freedom.SUM)
        if b is not None:
            result += b.reshape((-1,) + (1,) * rank)
        return (result.astype(x.dtype, copy=False),)


def _transposed_places(
    extents: Sequence[int], full: Sequence[int], how: _Convolution
) -> tuple[Sequence[int], Sequence[int]]:
    """Where the output of a transposed convolution begins in all that its kernels reach, and the output's extents.

    Args:
        extents: the extents of the input.
        full: the extents of all that the kernels reach.
        how: the attributes.
    """
    rank, extra, wanted = len(full), how.output_padding, how.output_shape
    if not wanted and how.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        # ONNX Runtime makes the output no larger than what the kernels reach.
        wanted = [min(n * s, f + e) for n, s, f, e in zip(extents, how.strides, full, extra, strict=True)]
    if not wanted:
        pads = how.given_pads
        sizes = [f + e - b - a for f, e, b, a in zip(full, extra, pads[:rank], pads[rank:], strict=True)]
        return pads[:rank], sizes
    wanted = wanted[-rank:]
    totals = [max(0, f + e - size) for f, e, size in zip(full, extra, wanted, strict=True)]
    # The larger half goes to the end with SAME_UPPER only.
    return [t // 2 if how.auto_pad == "SAME_UPPER" else t - t // 2 for t in totals], wanted


class MatMul(_Contraction):
    """A matrix product, with the broadcasting of ``numpy.matmul``."""

    def _run(self, a: Numbers, b: Numbers) -> tuple[Numbers]:
        dtype = _summing(a.dtype)
        a, b = self._freedom.round_operand(a), self._freedom.round_operand(b)
        result = np.asarray(np.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False)))
        return (self._freedom.disturb(result, freedom.SUM).astype(a.dtype, copy=False),)


class Gemm(_Contraction):
    """``alpha a b + beta c``, where ``a`` and ``b`` may be transposed."""

    def _run(self, a: Numbers, b: Numbers, c: Numbers | None = None, **given: object) -> tuple[Numbers]:
        how, dtype = Attributes(given), _summing(a.dtype)
        left: Numbers = (a.T if how.integer("transA", 0) else a).astype(dtype)
        right: Numbers = (b.T if how.integer("transB", 0) else b).astype(dtype)
        left, right = self._freedom.round_operand(left), self._freedom.round_operand(right)
        alpha, beta = how.number("alpha", 1.0), how.number("beta", 1.0)
        result = self._freedom.disturb(np.matmul(left, right), freedom.SUM)
        # Factors of the result's own dtype do not widen it.
        if alpha != 1:
            result = result * result.dtype.type(alpha)
        if c is not None and beta != 0:
            result = result + c * result.dtype.type(beta)
        return (result.astype(a.dtype, copy=False),)


class MatMulNBits(_Contraction):
    """A product with weights of a few bits, an operator of ONNX Runtime. Each block of inputs has a scale."""

    op_domain = "com.microsoft"

    def _run(
        self,
        a: Numbers,
        packed: NDArray[np.uint8],
        scales: Numbers,
        zeros: Numbers | None = None,
        order: Numbers | None = None,
        bias: Numbers | None = None,
        **given: object,
    ) -> tuple[Numbers]:
        how = Attributes(given)
        bits, depth, outputs = how.integer("bits", 4), how.integer("K", 0), how.integer("N", 0)
        if order is not None:
            raise NotImplementedError("inputs in another order")
        levels = _unpack(packed.reshape(outputs, -1), bits).reshape(*packed.shape[:2], -1)
        middle: Numbers = np.full(levels.shape[:2], 1 << (bits - 1))
        if zeros is not None:
            rows = zeros.reshape(outputs, -1)
            middle = (_unpack(rows, bits) if zeros.dtype == np.uint8 else rows)[:, : levels.shape[1]]
        dtype = _summing(a.dtype)
        centred = levels.astype(dtype) - middle.astype(dtype)[..., None]
        weight = (centred * scales.astype(dtype).reshape(*middle.shape, 1)).reshape(outputs, -1)[:, :depth]
        result = self._freedom.disturb(np.matmul(a.astype(dtype, copy=False), weight.T), freedom.SUM)
        result = result if bias is None else result + bias.astype(dtype)
        return (result.astype(a.dtype, copy=False),)


def _unpack(rows: Numbers, bits: int) -> NDArray[np.uint8]:
    """The numbers of a few bits in rows of bytes, the lowest bits first."""
    parts = rows.astype(np.uint8)[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)
    return (parts & np.uint8((1 << bits) - 1)).reshape(len(rows), -1)


CONTRACTIONS: tuple[type[OpRun], ...] = (Conv, ConvTranspose, MatMul, Gemm, MatMulNBits)
