"""Which quantised weights stay integers: those of operators whose data are quantised, too.

    Conv(DequantizeLinear(x), DequantizeLinear(weight))

Such an operator becomes an integer one (:mod:`tilewright.graph.quantised`). The weights of all others become float32,
for which there are the fastest kernels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.values import DOMAINS

__all__ = ["find_integer_weights", "hide_weights", "show_weights"]

#: The element types of quantised data and weights.
_BYTES = (TensorProto.UINT8, TensorProto.INT8)
#: Operators that integers pass through, as their first input.
_THROUGH = {"MaxPool", "Reshape", "Flatten", "Transpose", "Relu", "Clip", "Squeeze", "Unsqueeze", "Identity", "Dropout"}


def find_integer_weights(graph: Graph) -> frozenset[str]:
    """The results of those DequantizeLinear nodes whose weights stay integers."""
    nodes = [node for node in graph.model.graph.node if node.domain in DOMAINS]
    makers = {name: node for node in nodes for name in node.output}
    found = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear" and _is_weight(graph, n)}
    if not found:
        return frozenset()
    kept: set[str] = set()
    results = {value.name for value in graph.model.graph.output}
    for node in graph.model.graph.node:
        for place, name in enumerate(node.input):
            if name in found and place == 1 and _takes_integers(graph, node, makers):
                kept.add(name)
    others = {
        name
        for node in graph.model.graph.node
        for place, name in enumerate(node.input)
        if name in kept and (place != 1 or not _takes_integers(graph, node, makers))
    }
    return frozenset(kept - others - results)


def _is_weight(graph: Graph, node: onnx.NodeProto) -> bool:
    if graph.elem_type(node.input[0]) not in _BYTES or not graph.is_constant(node.input[0]):
        return False
    if read_attributes(node).get("block_size", 0) or not all(graph.is_constant(n) for n in node.input[1:] if n):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    zero = graph.array(node.input[2])
    if zero is None:
        return False
    return not np.any(zero) or graph.elem_type(node.input[0]) == TensorProto.UINT8


def _takes_integers(graph: Graph, node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> bool:
    """Whether an operator becomes one on integers, if its weights are bytes."""
    if node.domain not in DOMAINS:
        return False
    attributes, shape = read_attributes(node), graph.shape(node.input[1])
    if shape is None:
        return False
    if node.op_type == "Conv":
        groups = attributes.get("group", 1)
        fits = len(shape) == 4 and (groups == 1 or (groups == shape[0] and shape[1] == 1))
    elif node.op_type == "MatMul":
        fits = len(shape) == 2 and shape[0] % 4 == 0 and shape[1] > 1
    elif node.op_type == "Gemm":
        turned = bool(attributes.get("transB", 0))
        fits = len(shape) == 2 and shape[turned] % 4 == 0 and attributes.get("alpha", 1.0) == 1.0
        fits = fits and not attributes.get("transA", 0)
    else:
        return False
    maker = makers.get(node.input[0])
    while fits and maker is not None and maker.op_type in _THROUGH:
        maker = makers.get(maker.input[0])
    if not fits or maker is None or maker.op_type != "DequantizeLinear" or graph.is_constant(maker.input[0]):
        return False
    return graph.elem_type(maker.input[0]) in _BYTES and graph.shape(maker.input[1]) in ((), (1,))


def hide_weights(model: onnx.ModelProto, folder: Path) -> list[TensorProto]:
    """Make inputs of the weights that stay integers, so that ONNX Runtime does not compute float32 ones of them.

    Args:
        model: the model, which is changed.
        folder: the directory of weights that are not in the model.

    Returns:
        the weights, for :func:`show_weights`.
    """
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return []
    graph = Graph(model, folder)
    kept = find_integer_weights(graph)
    wanted = {node.input[0] for node in model.graph.node if node.output and node.output[0] in kept}
    hidden = []
    for place in reversed(range(len(model.graph.initializer))):
        tensor = model.graph.initializer[place]
        if tensor.name in wanted:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            hidden.append(copy)
            del model.graph.initializer[place]
            model.graph.input.append(helper.make_tensor_value_info(copy.name, copy.data_type, list(copy.dims)))
    return hidden


def show_weights(model: onnx.ModelProto, hidden: list[TensorProto]) -> None:
    """Make weights again of the inputs that :func:`hide_weights` has made."""
    names = {tensor.name for tensor in hidden}
    for place in reversed(range(len(model.graph.input))):
        if model.graph.input[place].name in names:
            del model.graph.input[place]
    model.graph.initializer.extend(hidden)
