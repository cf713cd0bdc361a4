"""Rewritings of pooling: paddings that depend on the shape of the image become numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["pad_pool"]

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
        """The number of windows if the last one may reach beyond the padding. It begins in the image or before it."""
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


@rewriting("MaxPool", "AveragePool", "LpPool")
def pad_pool(graph: Graph, node: onnx.NodeProto) -> bool:
    """Pool(auto_pad=SAME) --> Pool(pads), and Pool(ceil_mode=1) --> Pool(pads) that reach as far as the last window.

    Inference of shapes, in ONNX Runtime and in the onnx package, counts windows that begin behind the image.
    """
    attributes, shape = read_attributes(node), graph.shape(node.input[0])
    how = attributes.get("auto_pad", "NOTSET")
    if shape is None or (how not in _SAME and not attributes.get("ceil_mode", 0)):
        return False
    axes = _read(attributes, shape[2:])
    if how in _SAME:
        total = [max(0, (math.ceil(a.size / a.stride) - 1) * a.stride + a.span - a.size) for a in axes]
        less = [t // 2 for t in total]
        more = [t - half for t, half in zip(total, less, strict=True)]
        pads = less + more if how == "SAME_UPPER" else more + less
        graph.add(copy_node(node, ("auto_pad", "ceil_mode"), pads=pads))
        return True
    pads = [a.before for a in axes] + [a.reach for a in axes]
    new = copy_node(node, ("auto_pad", "ceil_mode"), pads=pads)
    if node.op_type != "AveragePool" or not attributes.get("count_include_pad", 0):
        graph.add(new)
        return True
    # What lies beyond the declared padding does not count.
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


def _read(attributes: dict[str, object], image: Sequence[int]) -> list[_Axis]:
    kernel = read_ints(attributes.get("kernel_shape"), ())
    ones, rank = [1] * len(kernel), len(kernel)
    strides, dilations = read_ints(attributes.get("strides"), ones), read_ints(attributes.get("dilations"), ones)
    pads = read_ints(attributes.get("pads"), [0] * 2 * rank)
    if attributes.get("auto_pad") == "VALID":
        pads = [0] * 2 * rank
    return [_Axis(*entry) for entry in zip(image, pads[:rank], pads[rank:], kernel, strides, dilations, strict=True)]
