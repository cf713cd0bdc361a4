"""Convolutions and matrix products as matrix products of NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from tilewright.verify import freedom

__all__ = ["CONTRACTIONS", "padded", "same_pads", "sliding"]

#: Elements of the input that a convolution copies at a time.
_PIECE = 1 << 22


def same_pads(
    extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], lower: bool
) -> list[int]:
    """The padding that gives ceil(extent / stride) outputs: all beginnings, then all ends."""
    totals = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(extents, kernel, strides, dilations, strict=True)
    ]
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return [*more, *less] if lower else [*less, *more]


def padded(x: NDArray[Any], pads: Sequence[int], value: float = 0.0) -> NDArray[Any]:
    """``x`` with its spatial axes extended; negative padding cuts off."""
    half = len(pads) // 2
    cut = tuple(
        slice(max(0, -b), n - max(0, -e)) for n, b, e in zip(x.shape[2:], pads[:half], pads[half:], strict=True)
    )
    x = x[(slice(None), slice(None), *cut)]
    if not any(p > 0 for p in pads):
        return x
    widths = [(max(0, b), max(0, e)) for b, e in zip(pads[:half], pads[half:], strict=True)]
    return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=value)


def sliding(
    x: NDArray[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extents: Sequence[int]
) -> NDArray[Any]:
    """A view of the windows of ``x``: batch, channels, places in a window, then ``extents`` windows."""
    batch, channels, *space = x.strides
    inner = [d * s for d, s in zip(dilations, space, strict=True)]
    outer = [d * s for d, s in zip(strides, space, strict=True)]
    shape = (*x.shape[:2], *kernel, *extents)
    return as_strided(x, shape, (batch, channels, *inner, *outer), writeable=False)


def _summing(dtype: Any) -> Any:
    """The type in which products are summed."""
    return np.float32 if dtype == np.float16 else dtype


class _Contraction(OpRun):
    op_domain = ""

    @property
    def _freedom(self) -> freedom.Freedom:
        found: freedom.Freedom = self.run_params["evaluator_cls"].freedom
        return found


class Conv(_Contraction):
    """A convolution of any number of spatial axes."""

    def _run(
        self,
        x: NDArray[Any],
        w: NDArray[Any],
        b: NDArray[Any] | None = None,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        kernel, rank = w.shape[2:], x.ndim - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(x.shape[2:], kernel, strides, dilations, auto_pad == "SAME_LOWER")
        elif auto_pad == "VALID" or not pads:
            pads = [0] * (2 * rank)
        result = _convolve(x, w, strides, dilations, group, pads)
        winograd = kernel == (3, 3) and strides == dilations == [1, 1] and group == 1
        result = self._freedom.disturb(result, freedom.WINOGRAD if winograd else freedom.SUM)
        if b is not None:
            result += b.reshape((-1,) + (1,) * rank)
        return (result.astype(x.dtype, copy=False),)


def _convolve(
    x: NDArray[Any],
    w: NDArray[Any],
    strides: Sequence[int],
    dilations: Sequence[int],
    group: int,
    pads: Sequence[int],
) -> NDArray[Any]:
    dtype, kernel = _summing(x.dtype), w.shape[2:]
    whole = np.ascontiguousarray(padded(x, pads), dtype=dtype)
    extents = [
        (n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(whole.shape[2:], kernel, dilations, strides, strict=True)
    ]
    if not all(e > 0 for e in extents):
        raise ValueError("the kernel is larger than the padded input")
    windows = sliding(whole, kernel, strides, dilations, extents)
    weights = w.astype(dtype, copy=False).reshape(group, w.shape[0] // group, -1)
    result = np.empty((x.shape[0], w.shape[0], *extents), dtype=dtype)
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
    """A transposed convolution of any number of spatial axes."""

    def _run(
        self,
        x: NDArray[Any],
        w: NDArray[Any],
        b: NDArray[Any] | None = None,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        kernel, rank = w.shape[2:], x.ndim - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        extra = list(output_padding or [0] * rank)
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        full = [s * (n - 1) + e for n, s, e in zip(x.shape[2:], strides, spans, strict=True)]
        begins, extents = _transposed_places(x.shape[2:], full, strides, extra, auto_pad, output_shape, pads)
        dtype = _summing(x.dtype)
        wide = [max(f, b + e) for f, b, e in zip(full, begins, extents, strict=True)]
        result = np.zeros((x.shape[0], w.shape[1] * group, *wide), dtype=dtype)
        weights = w.astype(dtype, copy=False).reshape(group, w.shape[0] // group, -1)
        data = x.astype(dtype, copy=False).reshape(x.shape[0], group, x.shape[1] // group, -1)
        for image in range(x.shape[0]):
            products = np.matmul(weights.transpose(0, 2, 1), data[image])
            products = products.reshape(w.shape[1] * group, *kernel, *x.shape[2:])
            for place in np.ndindex(*kernel):
                steps = zip(place, dilations, strides, x.shape[2:], strict=True)
                where = [slice(p * d, p * d + s * (n - 1) + 1, s) for p, d, s, n in steps]
                result[_index(image, slice(None), *where)] += products[_index(slice(None), *place)]
        kept = [slice(b, b + e) for b, e in zip(begins, extents, strict=True)]
        result = result[_index(..., *kept)]
        result = self._freedom.disturb(result, freedom.SUM)
        if b is not None:
            result += b.reshape((-1,) + (1,) * rank)
        return (result.astype(x.dtype, copy=False),)


def _index(*places: Any) -> tuple[Any, ...]:
    return places


def _transposed_places(
    extents: Sequence[int],
    full: Sequence[int],
    strides: Sequence[int],
    extra: Sequence[int],
    auto_pad: str,
    wanted: Sequence[int] | None,
    pads: Sequence[int] | None,
) -> tuple[list[int], list[int]]:
    """Where the output begins in all that the kernels reach, and its extents."""
    rank = len(full)
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        # No more than the kernels reach, as ONNX Runtime has it.
        wanted = [min(n * s, f + e) for n, s, f, e in zip(extents, strides, full, extra, strict=True)]
    if wanted is None:
        pads = [0] * (2 * rank) if auto_pad == "VALID" or not pads else list(pads)
        sizes = [f + e - b - a for f, e, b, a in zip(full, extra, pads[:rank], pads[rank:], strict=True)]
        return list(pads[:rank]), sizes
    wanted = list(wanted)[-rank:]
    totals = [max(0, f + e - size) for f, e, size in zip(full, extra, wanted, strict=True)]
    # The larger half goes last only with SAME_UPPER.
    return [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals], wanted


class MatMul(_Contraction):
    """As NumPy's."""

    def _run(self, a: NDArray[Any], b: NDArray[Any], **_: Any) -> tuple[NDArray[Any]]:
        dtype = _summing(a.dtype)
        result = np.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))
        return (np.asarray(self._freedom.disturb(np.asarray(result), freedom.SUM)).astype(a.dtype, copy=False),)


class Gemm(_Contraction):
    """``alpha a b + beta c``."""

    def _run(
        self,
        a: NDArray[Any],
        b: NDArray[Any],
        c: NDArray[Any] | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
        transA: int = 0,  # noqa: N803  ONNX's names
        transB: int = 0,  # noqa: N803
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        dtype = _summing(a.dtype)
        left, right = (a.T if transA else a).astype(dtype), (b.T if transB else b).astype(dtype)
        result = self._freedom.disturb(left @ right, freedom.SUM)
        if alpha != 1:
            result = result * dtype_of(alpha, result)
        if c is not None and beta != 0:
            result = result + c * dtype_of(beta, result)
        return (result.astype(a.dtype, copy=False),)


def dtype_of(number: float, array: NDArray[Any]) -> Any:
    """A number in an array's type, so that it does not widen it."""
    return array.dtype.type(number)


CONTRACTIONS: tuple[type[OpRun], ...] = (Conv, ConvTranspose, MatMul, Gemm)
