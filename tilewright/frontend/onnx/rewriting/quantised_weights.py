"""Rewritings that make floating-point weights of constants in bytes, or in a few bits."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.integer_weights import find_integer_weights
from tilewright.frontend.onnx.rewriting.nibbles import find_nibbles, has_nibbles
from tilewright.frontend.onnx.rewriting.quantisation import MICROSOFT, input_name
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["fold_weights"]

_Number = TypeVar("_Number", bound=np.generic)

#: Element types of less than a byte, and for each the type of a byte that can hold its numbers.
_NARROW = {
    TensorProto.INT4: np.int8,
    TensorProto.UINT4: np.uint8,
    getattr(TensorProto, "INT2", -1): np.int8,
    getattr(TensorProto, "UINT2", -1): np.uint8,
}


@rewriting("DequantizeLinear")
def fold_weights(graph: Graph, node: onnx.NodeProto) -> bool:
    """DequantizeLinear(weight) --> a floating-point weight, so that its product has the fastest kernels.

    Weights of operators on quantised data stay as they are.
    """
    x, scale = graph.array(node.input[0]), graph.array(node.input[1])
    if x is None or scale is None or not _is_integer(graph, node.input[0]):
        return False
    if node.output[0] in graph.remember(find_integer_weights) or node.output[0] in graph.remember(find_nibbles):
        return False
    zero = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None and len(node.input) > 2 and node.input[2]:
        return False
    attributes = read_attributes(node)
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    assert isinstance(axis, int)
    assert isinstance(block, int)
    steps = _spread(scale.astype(np.float32), x.shape, axis, block)
    moved = np.zeros((), np.int32) if zero is None else _spread(zero.astype(np.int32), x.shape, axis, block)
    values = (x.astype(np.int32) - moved).astype(np.float32) * steps
    to = attributes.get("output_dtype") or graph.elem_type(node.input[1])
    if to == TensorProto.FLOAT:
        graph.constant(values, node.output[0]) if not _is_output(graph, node) else graph.op(
            "Identity", values, out=node.output[0]
        )
    else:
        assert isinstance(to, int)
        graph.op("Cast", values.astype(np.float32), out=node.output[0], to=to)
    return True


def _is_integer(graph: Graph, name: str) -> bool:
    kind = graph.elem_type(name)
    return kind in (
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.UINT16,
        TensorProto.INT32,
        *_NARROW,
    )


def _is_output(graph: Graph, node: onnx.NodeProto) -> bool:
    return any(value.name == node.output[0] for value in graph.model.graph.output)


def _spread(values: NDArray[_Number], shape: tuple[int, ...], axis: int, block: int) -> NDArray[_Number]:
    """Scales or zero points in a shape that broadcasts over a tensor of ``shape``."""
    if values.size == 1:
        return values.reshape(())
    if block:
        repeated = np.repeat(values, block, axis=axis)
        return np.asarray(repeated[tuple(slice(extent) for extent in shape)])
    column = [1] * len(shape)
    column[axis if len(shape) > 1 else 0] = values.size
    return values.reshape(column)


@rewriting("MatMulNBits", domain=MICROSOFT)
def _narrow_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """MatMulNBits(a, b) --> MatMul(a, weight) + bias, with the weight in float32.

    Each row of the packed weight has blocks of numbers of a few bits, with the lowest bits first. Weights of 4 bits
    stay as they are, if a converter serves them.
    """
    if has_nibbles(graph, node):
        return False
    a, packed, scales, zeros, order, bias = (input_name(node, place) for place in range(6))
    attributes = read_attributes(node)
    k, n, bits, block = (attributes.get(name, 0) for name in ("K", "N", "bits", "block_size"))
    values, steps = graph.array(packed), graph.array(scales)
    levels = graph.array(zeros) if zeros else None
    if values is None or steps is None or order or (zeros and levels is None) or steps.dtype != np.float32:
        return False
    assert isinstance(k, int)
    assert isinstance(n, int)
    assert isinstance(bits, int)
    assert isinstance(block, int)
    count = -(-k // block)
    numbers = _unpack(values.reshape(n, -1), bits)[:, : count * block].reshape(n, count, block)
    if levels is None:
        middle = np.full((n, count), 1 << (bits - 1), np.float32)
    elif levels.dtype == np.uint8:
        middle = _unpack(levels.reshape(n, -1), bits)[:, :count].astype(np.float32)
    else:
        middle = levels.reshape(n, count).astype(np.float32)
    weight = (numbers.astype(np.float32) - middle[..., None]) * steps.astype(np.float32).reshape(n, count, 1)
    product = graph.op(
        "MatMul", a, np.ascontiguousarray(weight.reshape(n, -1)[:, :k].T), out="" if bias else node.output[0]
    )
    if bias:
        graph.op("Add", product, bias, out=node.output[0])
    return True


def _unpack(values: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Unpack numbers of a few bits from rows of bytes: an array of shape ``(rows, bytes * 8 / bits)``."""
    bytes_ = values.astype(np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (bytes_[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(len(bytes_), -1)
