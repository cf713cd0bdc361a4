"""Pooling without loops over windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from tilewright.verify.contractions import padded, same_pads

__all__ = ["WINDOWS"]


class _Pool(OpRun):
    op_domain = ""

    @staticmethod
    def _frame(
        extents: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        auto_pad: str,
        pads: Sequence[int] | None,
        ceil_mode: int,
    ) -> tuple[list[int], list[int], list[int]]:
        """The padding, the extents of the output, and how much padding more the last windows reach into."""
        rank = len(kernel)
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(extents, kernel, strides, dilations, auto_pad == "SAME_LOWER")
        elif auto_pad == "VALID" or not pads:
            pads = [0] * (2 * rank)
        sizes, more = [], []
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            room = extents[axis] + pads[axis] + pads[axis + rank] - span
            size = (math.ceil if ceil_mode else math.floor)(room / strides[axis]) + 1
            if ceil_mode and (size - 1) * strides[axis] >= extents[axis] + pads[axis]:
                size -= 1  # a window that begins in the padding after the end
            sizes.append(size)
            more.append(max(0, (size - 1) * strides[axis] + span - room - span))
        return list(pads), sizes, more

    @staticmethod
    def _shifts(
        x: NDArray[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], sizes: Sequence[int]
    ) -> Any:
        """For each place in a window, the elements of ``x`` that are there."""
        for place in itertools.product(*map(range, kernel)):
            steps = zip(place, dilations, strides, sizes, strict=True)
            where: tuple[Any, ...] = (..., *(slice(p * d, p * d + s * (n - 1) + 1, s) for p, d, s, n in steps))
            yield x[where]


class MaxPool(_Pool):
    """The largest of each window; of the outputs only the first."""

    def _run(
        self,
        x: NDArray[Any],
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        if len(self.onnx_node.output) > 1 and self.onnx_node.output[1]:
            raise NotImplementedError("MaxPool with indices")
        rank = len(kernel_shape)
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        pads, sizes, more = self._frame(x.shape[2:], kernel_shape, strides, dilations, auto_pad, pads, ceil_mode)
        least: float = -np.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)
        ends = [p + m for p, m in zip(pads[rank:], more, strict=True)]
        whole = padded(x, [*pads[:rank], *ends], least)
        result: NDArray[Any] | None = None
        for part in self._shifts(whole, kernel_shape, strides, dilations, sizes):
            result = part.copy() if result is None else np.maximum(result, part, out=result)
        assert result is not None
        return (result,)


class AveragePool(_Pool):
    """The mean of each window."""

    def _run(
        self,
        x: NDArray[Any],
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        count_include_pad: int = 0,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        rank = len(kernel_shape)
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        pads, sizes, more = self._frame(x.shape[2:], kernel_shape, strides, dilations, auto_pad, pads, ceil_mode)
        dtype = np.float32 if x.dtype == np.float16 else x.dtype
        ends = [p + m for p, m in zip(pads[rank:], more, strict=True)]
        whole = padded(x.astype(dtype, copy=False), [*pads[:rank], *ends])
        ones = np.ones((1, 1, *x.shape[2:]), dtype=dtype)
        # Counted padding is what the model asks for; windows of ceil_mode reach beyond it.
        counted = padded(padded(ones, pads, 1.0 if count_include_pad else 0.0), [*[0] * rank, *more])
        sums, counts = (sum(self._shifts(array, kernel_shape, strides, dilations, sizes)) for array in (whole, counted))
        return ((sums / counts).astype(x.dtype, copy=False),)


WINDOWS: tuple[type[OpRun], ...] = (MaxPool, AveragePool)
