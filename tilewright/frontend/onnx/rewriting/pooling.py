"""Rewritings of pooling and of transposed convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["pad_pool", "pad_transposed_convolution"]

#: Values of ``auto_pad`` with which the padding depends on the shape of the image.
_SAME = ("SAME_UPPER", "SAME_LOWER")


def _pads(total: Sequence[int], upper: bool) -> list[int]:
    """The padding at the beginning of each axis, then at its end. If ``upper``, the larger half is at the end."""
    begins = [t // 2 if upper else t - t // 2 for t in total]
    return begins + [t - b for t, b in zip(total, begins, strict=True)]


@rewriting("MaxPool", "AveragePool", "LpPool")
def pad_pool(graph: Graph, node: onnx.NodeProto) -> bool:
    """Pool(auto_pad=SAME) --> Pool(pads). TVM computes negative padding if the kernel is smaller than the stride."""
    attributes, shape = read_attributes(node), graph.shape(node.input[0])
    if attributes.get("auto_pad") not in _SAME or shape is None:
        return False
    kernel = read_ints(attributes.get("kernel_shape"), ())
    ones = [1] * len(kernel)
    strides, dilations = read_ints(attributes.get("strides"), ones), read_ints(attributes.get("dilations"), ones)
    total = [
        max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        for size, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True)
    ]
    pads = _pads(total, attributes["auto_pad"] == "SAME_UPPER")
    graph.add(copy_node(node, ("auto_pad",), pads=pads))
    return True


@rewriting("ConvTranspose")
def pad_transposed_convolution(graph: Graph, node: onnx.NodeProto) -> bool:
    """ConvTranspose(output_shape) --> ConvTranspose(pads, output_padding). TVM ignores ``output_shape``."""
    attributes = read_attributes(node)
    shape, weight = graph.shape(node.input[0]), graph.shape(node.input[1])
    if "output_shape" not in attributes or shape is None or weight is None:
        return False
    wanted = read_ints(attributes["output_shape"], ())[-(len(shape) - 2) :]
    kernel, ones = read_ints(attributes.get("kernel_shape"), weight[2:]), [1] * len(wanted)
    strides, dilations = read_ints(attributes.get("strides"), ones), read_ints(attributes.get("dilations"), ones)
    extra = read_ints(attributes.get("output_padding"), [0] * len(wanted))
    total = [
        s * (size - 1) + o + (k - 1) * d + 1 - w
        for size, k, s, d, o, w in zip(shape[2:], kernel, strides, dilations, extra, wanted, strict=True)
    ]
    # What the kernel does not reach is filled with zeros at the end.
    extra = [o + max(0, -t) for o, t in zip(extra, total, strict=True)]
    # Since opset 11 the larger half of the padding goes to the end with SAME_UPPER only.
    pads = _pads([max(0, t) for t in total], attributes.get("auto_pad") == "SAME_UPPER")
    graph.add(copy_node(node, ("auto_pad", "output_shape"), pads=pads, output_padding=extra))
    return True
