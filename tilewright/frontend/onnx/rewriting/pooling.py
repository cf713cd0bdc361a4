"""Rewritings of pooling: paddings that depend on the shape of the image become constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["pad_pool", "pad_same"]

#: Values of ``auto_pad`` with which the padding depends on the shape of the image.
_SAME = ("SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class _Axis:
    """How a window slides along an axis.

    Attributes:
        size: the extent of the image.
        before: the padding before it.
        after: the padding after it.
        kernel: the taps of the window.
        stride: the distance between two windows.
        dilation: the distance between two taps.
    """

    size: int
    before: int
    after: int
    kernel: int
    stride: int
    dilation: int

    @property
    def span(self) -> int:
        """The extent of a window."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def out(self) -> int:
        """The number of windows with ceil_mode. The last window may reach beyond the padding, but not begin there."""
        count = math.ceil((self.size + self.before + self.after - self.span) / self.stride) + 1
        return count - 1 if (count - 1) * self.stride >= self.size + self.before else count

    @property
    def reach(self) -> int:
        """The padding after the image that the last window needs."""
        return max(0, (self.out - 1) * self.stride + self.span - self.size - self.before)

    def count_taps(self, after: int) -> NDArray[np.int64]:
        """The taps of each window that lie in the image or in its padding, of shape ``(out,)``."""
        places = np.arange(self.out)[:, None] * self.stride + np.arange(self.kernel) * self.dilation - self.before
        return np.asarray((places < self.size + after).sum(axis=1))


def pad_same(axes: Sequence[tuple[int, int, int]], upper: bool, convolves: bool = False) -> list[int]:
    """The padding of auto_pad=SAME: at the beginnings of all axes, then at their ends.

    There is one window for each stride of the image. The padding is negative if windows are smaller than strides. Then
    windows begin inside the image, as in ONNX Runtime.

    Args:
        axes: for each axis, the extents of the image and of a window, and the stride.
        upper: whether the larger half is at the end.
        convolves: whether it is a convolution. ONNX Runtime's negative padding differs between convolution and pooling.
    """
    total = [(math.ceil(size / stride) - 1) * stride + span - size for size, span, stride in axes]
    if convolves:
        total = [t if t >= 0 else t + 1 for t in total]
    begins = [int((t if upper else t + 1) / 2) for t in total]  # int rounds towards zero
    return begins + [t - begin for t, begin in zip(total, begins, strict=True)]


@rewriting("MaxPool", "AveragePool", "LpPool")
def pad_pool(graph: Graph, node: onnx.NodeProto) -> bool:
    """Pool(auto_pad=SAME) --> Pool(pads), and Pool(ceil_mode=1) --> Pool(pads), with padding for the last window.

    Shape inference, in ONNX Runtime and in the onnx package, counts windows that begin after the image.
    """
    attributes, shape = read_attributes(node), graph.shape(node.input[0])
    how = attributes.get("auto_pad", "NOTSET")
    if shape is None or (how not in _SAME and not attributes.get("ceil_mode", 0)):
        return False
    axes = _read(attributes, shape[2:])
    same = how in _SAME
    _correct(graph.model, node, [*shape[:2], *(math.ceil(a.size / a.stride) if same else a.out for a in axes)])
    if same:
        pads = pad_same([(a.size, a.span, a.stride) for a in axes], how == "SAME_UPPER")
        if min(pads[: len(axes)]) >= 0 and _is_allowed(axes, pads):
            graph.add(copy_node(node, ("auto_pad", "ceil_mode"), pads=[max(0, pad) for pad in pads]))
            return True
        if attributes.get("ceil_mode", 0):  # ONNX Runtime ignores it here
            graph.add(copy_node(node, ("ceil_mode",)))
            return True
        return False
    pads = [a.before for a in axes] + [a.reach for a in axes]
    if not _is_allowed(axes, pads):
        return False
    new = copy_node(node, ("auto_pad", "ceil_mode"), pads=pads)
    if node.op_type != "AveragePool" or not attributes.get("count_include_pad", 0):
        graph.add(new)
        return True
    # Elements beyond the declared padding do not count in a mean.
    ratio = np.ones((), np.float64)
    for number, axis in enumerate(axes):
        counts = axis.count_taps(axis.reach) / np.maximum(1, axis.count_taps(axis.after))
        ratio = ratio * counts.reshape(-1, *[1] * (len(axes) - 1 - number))
    if (ratio == 1).all():
        graph.add(new)
        return True
    new.output[0] = graph.new_name("pool")
    graph.add(new)
    graph.op("Mul", new.output[0], graph.like(node.input[0], ratio), out=node.output[0])
    return True


def _is_allowed(axes: Sequence[_Axis], pads: Sequence[int]) -> bool:
    """Whether ONNX Runtime accepts paddings: they must be smaller than the number of taps, whatever the dilation."""
    return all(pad < axis.kernel for pad, axis in zip(pads, [*axes, *axes], strict=True))


def _correct(model: onnx.ModelProto, node: onnx.NodeProto, shape: Sequence[int]) -> None:
    """Correct the declared shape of a node's outputs. Remove other shapes, which may be inferred from it."""
    ends = {value.name: value for value in model.graph.output}
    inner = {value.name: value for value in model.graph.value_info}
    for name in filter(None, node.output):
        value = ends.get(name) or inner.get(name)
        if value is None or not value.type.tensor_type.HasField("shape"):
            continue
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(shape) or all(d.dim_value in (0, size) for d, size in zip(dims, shape, strict=True)):
            continue
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
        del model.graph.value_info[:]


def _read(attributes: dict[str, object], image: Sequence[int]) -> list[_Axis]:
    kernel = read_ints(attributes.get("kernel_shape"), ())
    ones, rank = [1] * len(kernel), len(kernel)
    strides, dilations = read_ints(attributes.get("strides"), ones), read_ints(attributes.get("dilations"), ones)
    pads = read_ints(attributes.get("pads"), [0] * 2 * rank)
    if attributes.get("auto_pad") == "VALID":
        pads = [0] * 2 * rank
    return [_Axis(*entry) for entry in zip(image, pads[:rank], pads[rank:], kernel, strides, dilations, strict=True)]
