"""Pooling of ONNX's reference evaluator: one NumPy operation for each place in the window, none for each window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from onnx.reference.op_run import OpRun

from tilewright.tensor import Numbers
from tilewright.verify.attributes import Attributes
from tilewright.verify.contractions import pad_image, same_pads

__all__ = ["WINDOWS"]


@dataclass(frozen=True)
class _Windows:
    """The windows of a pooling operator. Each list has one entry for each spatial axis, but ``pads`` has two.

    Attributes:
        kernel: a window's extents.
        strides: steps from one window to the next.
        dilations: steps from one element of a window to the next.
        pads: at the beginnings of all axes, then at their ends.
        sizes: how many windows there are.
        more: how far the last windows reach beyond the padding.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    sizes: list[int]
    more: list[int]

    @classmethod
    def read(cls, attributes: Attributes, extents: Sequence[int]) -> _Windows:
        """The windows that a node's attributes describe on an image of these spatial ``extents``."""
        kernel = attributes.integers("kernel_shape")
        rank = len(kernel)
        strides = attributes.integers("strides") or [1] * rank
        dilations = attributes.integers("dilations") or [1] * rank
        auto_pad, round_up = attributes.text("auto_pad", "NOTSET"), bool(attributes.integer("ceil_mode", 0))
        pads = attributes.integers("pads")
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(extents, kernel, strides, dilations, auto_pad == "SAME_LOWER")
        elif auto_pad == "VALID" or not pads:
            pads = [0] * (2 * rank)
        sizes, more = [], []
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            room = extents[axis] + pads[axis] + pads[axis + rank] - span
            size = (math.ceil if round_up else math.floor)(room / strides[axis]) + 1
            if round_up and (size - 1) * strides[axis] >= extents[axis] + pads[axis]:
                size -= 1  # this window would begin in the padding after the end
            sizes.append(size)
            more.append(max(0, (size - 1) * strides[axis] - room))
        return cls(kernel, strides, dilations, pads, sizes, more)

    @property
    def all_pads(self) -> list[int]:
        """The padding with which every window is whole."""
        rank = len(self.kernel)
        return [*self.pads[:rank], *(p + m for p, m in zip(self.pads[rank:], self.more, strict=True))]

    def shifts(self, x: Numbers) -> Iterator[Numbers]:
        """For each place in a window, the elements of the padded ``x`` at this place of all windows."""
        for place in itertools.product(*map(range, self.kernel)):
            steps = zip(place, self.dilations, self.strides, self.sizes, strict=True)
            where: tuple[slice | EllipsisType, ...] = (
                ...,
                *(slice(p * d, p * d + s * (n - 1) + 1, s) for p, d, s, n in steps),
            )
            yield x[where]


class MaxPool(OpRun):
    """The largest element of each window. The second output, the indices, is not computed."""

    op_domain = ""

    def _run(self, x: Numbers, **given: object) -> tuple[Numbers]:
        if len(self.onnx_node.output) > 1 and self.onnx_node.output[1]:
            raise NotImplementedError("MaxPool with indices")
        windows = _Windows.read(Attributes(given), x.shape[2:])
        least: float = -np.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype.name).min)
        first, *others = windows.shifts(pad_image(x, windows.all_pads, least))
        result = first.copy()
        for part in others:
            np.maximum(result, part, out=result)
        return (result,)


class AveragePool(OpRun):
    """The mean of each window."""

    op_domain = ""

    def _run(self, x: Numbers, **given: object) -> tuple[Numbers]:
        attributes = Attributes(given)
        windows = _Windows.read(attributes, x.shape[2:])
        rank = len(windows.kernel)
        dtype = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
        whole = pad_image(x.astype(dtype, copy=False), windows.all_pads)
        ones: Numbers = np.ones((1, 1, *x.shape[2:]), dtype=dtype)
        # The model says whether its padding counts. What windows of ceil_mode reach beyond the padding never counts.
        padding = 1.0 if attributes.integer("count_include_pad", 0) else 0.0
        counted = pad_image(pad_image(ones, windows.pads, padding), [*[0] * rank, *windows.more])
        sums, counts = (np.asarray(sum(windows.shifts(array))) for array in (whole, counted))
        return ((sums / counts).astype(x.dtype, copy=False),)


class GlobalMaxPool(OpRun):
    """The largest element of each channel. ONNX's evaluator is right for images only."""

    op_domain = ""

    def _run(self, x: Numbers) -> tuple[Numbers]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


WINDOWS: tuple[type[OpRun], ...] = (MaxPool, AveragePool, GlobalMaxPool)
