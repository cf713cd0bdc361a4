"""Weights of 4 bits in blocks, which stay so: operators ``MatMulNBits``, and what ONNX's own operators say instead."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.quantisation import MICROSOFT, input_name
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["find_nibbles", "has_nibbles"]

#: The lengths of blocks that ONNX Runtime's operator takes.
_BLOCKS = (16, 32, 64, 128, 256)
#: The element types of weights of 4 bits, and what is added to their numbers to make levels of 0 to 15.
_KINDS: dict[int, int] = {TensorProto.UINT4: 0, TensorProto.INT4: 8}
#: The zero point of weights that have none.
_MIDDLE = 8


def has_nibbles(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node ``MatMulNBits`` has weights of 4 bits that the converter serves."""
    a, packed, scales, zeros, order = (input_name(node, place) for place in range(5))
    attributes = read_attributes(node)
    if attributes.get("bits", 4) != 4 or attributes.get("block_size") not in _BLOCKS or order:
        return False
    weights = [name for name in (packed, scales, zeros) if name]
    if not all(map(graph.is_constant, weights)) or graph.shape(a) is None:
        return False
    floats = graph.elem_type(a) == graph.elem_type(scales) == TensorProto.FLOAT
    kinds = (TensorProto.UINT8, TensorProto.FLOAT)
    return floats and graph.elem_type(packed) == kinds[0] and (not zeros or graph.elem_type(zeros) in kinds)


def find_nibbles(graph: Graph) -> frozenset[str]:
    """The results of those DequantizeLinear nodes whose weights of 4 bits stay so: matrices on the right of products.

    ``onnxruntime.quantization.matmul_nbits_quantizer`` writes such nodes if it is asked for the format QDQ.
    """
    found = {node.output[0] for node in graph.model.graph.node if _is_blocked(graph, node)}
    for node in graph.model.graph.node:
        for place, name in enumerate(node.input):
            rows = graph.shape(node.input[0])
            if name in found and (place != 1 or node.op_type != "MatMul" or rows is None or len(rows) < 2):
                found.discard(name)
    return frozenset(found - {value.name for value in graph.model.graph.output})


def _is_blocked(graph: Graph, node: onnx.NodeProto) -> bool:
    attributes = read_attributes(node)
    if node.op_type != "DequantizeLinear" or attributes.get("block_size", 0) not in _BLOCKS:
        return False
    shape, rank = graph.shape(node.input[0]), 2
    if shape is None or len(shape) != rank or attributes.get("axis", 1) not in (0, -rank):
        return False
    if graph.elem_type(node.input[0]) not in _KINDS or graph.elem_type(node.input[1]) != TensorProto.FLOAT:
        return False
    return all(graph.is_constant(name) for name in node.input if name)


@rewriting("MatMul")
def _narrow_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """MatMul(a, DequantizeLinear(weights of 4 bits in blocks)) --> MatMulNBits(a, packed weights)."""
    if node.input[1] not in graph.remember(find_nibbles):
        return False
    maker = next(n for n in graph.model.graph.node if node.input[1] in n.output)
    block = read_attributes(maker)["block_size"]
    assert isinstance(block, int)
    levels, scales = (graph.array(name) for name in maker.input[:2])
    zeros = graph.array(maker.input[2]) if input_name(maker, 2) else None
    assert levels is not None
    assert scales is not None
    moved = _KINDS[graph.elem_type(maker.input[0])]
    depth, outputs = levels.shape
    middle = np.zeros(scales.shape, np.int16) if zeros is None else zeros.astype(np.int16)
    wide = np.zeros((outputs, len(scales) * block), np.uint8)
    wide[:, :depth] = (levels.astype(np.int16) + moved).T
    packed = _pack(wide).reshape(outputs, len(scales), block // 2)
    shifted = (middle + moved).astype(np.uint8).T
    pairs = _pack(np.pad(shifted, ((0, 0), (0, len(scales) % 2)))).reshape(-1)
    if all(opset.domain != MICROSOFT for opset in graph.model.opset_import):
        graph.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    graph.op(
        "MatMulNBits",
        node.input[0],
        packed,
        np.ascontiguousarray(scales.T).reshape(-1),
        None if np.all(shifted == _MIDDLE) else pairs,
        out=node.output[0],
        domain=MICROSOFT,
        K=depth,
        N=outputs,
        bits=4,
        block_size=block,
    )
    return True


def _pack(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two levels in a byte, the first one in its lower bits, along the last axis."""
    return np.ascontiguousarray(levels[..., ::2] | levels[..., 1::2] << 4)
