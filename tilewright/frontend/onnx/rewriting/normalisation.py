"""Rewritings of normalisations."""

from __future__ import annotations

import numpy as np
import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["layer_norm"]


@rewriting("LayerNormalization")
def layer_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """(y, mean, deviation) = LayerNormalization --> y = LayerNormalization, with the others by ReduceMean.

    TVM imports the first output only.
    """
    used = [name for name in node.output[1:] if name]
    shape = graph.shape(node.input[0])
    if not used or shape is None or graph.elem_type(node.input[0]) != onnx.TensorProto.FLOAT:
        return False
    attributes, data = read_attributes(node), node.input[0]
    first = attributes.get("axis", -1)
    assert isinstance(first, int)
    axes = np.arange(first % len(shape), len(shape))
    new = copy_node(node)
    del new.output[1:]
    graph.add(new)
    mean = graph.op("ReduceMean", data, axes, out=node.output[1] if len(node.output) > 1 else "", keepdims=1)
    if len(node.output) > 2 and node.output[2]:
        centred = graph.op("Sub", data, mean)
        variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes, keepdims=1)
        bounded = graph.op("Add", variance, graph.like(data, attributes.get("epsilon", 1e-5)))
        graph.op("Reciprocal", graph.op("Sqrt", bounded), out=node.output[2])
    return True
