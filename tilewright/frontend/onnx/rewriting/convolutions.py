"""Rewritings of 1-D convolutions: they become 2-D convolutions of images with one row.

Element-wise operators after such a convolution compute on the images, too. So there is no reshape between two
convolutions.
"""

from __future__ import annotations

import numpy as np
import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["compute_on_rows", "convolve_rows"]

#: Element-wise operators.
_ALONE = (
    *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "HardSigmoid", "HardSwish", "Gelu", "Mish"),
    *("Erf", "Exp", "Log", "Abs", "Neg", "Sqrt", "Reciprocal", "Celu", "Swish", "ThresholdedRelu"),
)


@rewriting("Conv")
def convolve_rows(graph: Graph, node: onnx.NodeProto) -> bool:
    """Conv(x: [N, C, L]) --> Reshape(Conv(Reshape(x): [N, C, 1, L])), which has templates."""
    shape, kernel = graph.shape(node.input[0]), graph.shape(node.input[1])
    result = graph.shape(node.output[0])
    if shape is None or kernel is None or result is None or len(shape) != 3:
        return False
    attributes = read_attributes(node)
    auto = str(attributes.get("auto_pad", "NOTSET"))
    begin, end = read_ints(attributes.get("pads"), (0, 0))
    (stride,), (dilation,) = (read_ints(attributes.get(name), (1,)) for name in ("strides", "dilations"))
    image = _find_image(graph, node.input[0]) or graph.op(
        "Reshape", node.input[0], np.asarray([*shape[:2], 1, shape[2]])
    )
    weight = graph.op("Reshape", node.input[1], np.asarray([*kernel[:2], 1, kernel[2]]))
    made = graph.op(
        "Conv",
        image,
        weight,
        *node.input[2:3],
        kernel_shape=[1, kernel[2]],
        strides=[1, stride],
        dilations=[1, dilation],
        group=read_ints([attributes.get("group", 1)], (1,))[0],
        pads=[0, begin, 0, end] if auto == "NOTSET" else None,
        auto_pad=None if auto == "NOTSET" else auto,
    )
    graph.op("Reshape", made, np.asarray(result), out=node.output[0])
    return True


@rewriting(*_ALONE)
def compute_on_rows(graph: Graph, node: onnx.NodeProto) -> bool:
    """f(Reshape(y: [N, C, 1, L])) --> Reshape(f(y))."""
    image, result = _find_image(graph, node.input[0]), graph.shape(node.output[0])
    if image is None or result is None:
        return False
    node = copy_node(node)
    node.input[0], name = image, node.output[0]
    node.output[0] = graph.new_name()
    graph.add(node)
    graph.op("Reshape", node.output[0], np.asarray(result), out=name)
    return True


def _find_image(graph: Graph, name: str) -> str | None:
    """The tensor ``[N, C, 1, L]`` from which a tensor ``[N, C, L]`` was reshaped; None if there is none."""
    shape = graph.shape(name)
    maker = next((node for node in reversed(graph.nodes) if name in node.output), None)
    if shape is None or len(shape) != 3 or maker is None or maker.op_type != "Reshape":
        return None
    wide = graph.shape(maker.input[0])
    return maker.input[0] if wide == (*shape[:2], 1, shape[2]) else None
