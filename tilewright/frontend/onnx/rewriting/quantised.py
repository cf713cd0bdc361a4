"""Rewritings of quantised operators of ONNX Runtime, those with sums of products apart.

Like ONNX Runtime, the rewritings multiply by the quotient of the scales before they round.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.quantisation import (
    MICROSOFT,
    as_float,
    as_int32,
    as_scalar,
    dequantised,
    input_name,
    quantised,
    rounded,
)
from tilewright.frontend.onnx.rewriting.registry import rewriting


@rewriting("QLinearAdd", domain=MICROSOFT)
def _add(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearAdd(a, b) --> QuantizeLinear(a * ra + (b * rb + shift)). ra, rb: a scale over that of the result.

    Constant scales: QuantizeLinear(DequantizeLinear(a) + DequantizeLinear(b)), of which the graph makes the same.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (input_name(node, place) for place in range(8))
    kind = graph.elem_type(a)
    if not kind:
        return False
    if all(graph.is_constant(name) for name in (a_scale, b_scale, scale)):
        total = graph.op("Add", dequantised(graph, a, a_scale, a_zero), dequantised(graph, b, b_scale, b_zero))
        quantised(graph, total, scale, zero, node.output[0], kind)
        return True
    ratios = [graph.op("Div", as_scalar(graph, s), as_scalar(graph, scale)) for s in (a_scale, b_scale)]
    shift: str | NDArray[np.generic] = np.zeros((), np.float32)
    moved = [
        graph.op("Mul", ratio, as_float(graph, as_scalar(graph, z)))
        for ratio, z in zip(ratios, (a_zero, b_zero), strict=True)
        if z
    ]
    if moved:
        shift = graph.op("Neg", moved[0] if len(moved) == 1 else graph.op("Add", *moved))
    if zero:
        shift = graph.op("Add", as_float(graph, as_scalar(graph, zero)), shift)
    right = graph.op("Add", graph.op("Mul", as_float(graph, b), ratios[1]), shift)
    total = graph.op("Add", graph.op("Mul", as_float(graph, a), ratios[0]), right)
    rounded(graph, total, "", node.output[0], kind)
    return True


@rewriting("QLinearMul", domain=MICROSOFT)
def _multiply(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearMul(a, b) --> QuantizeLinear((a - za) * (b - zb) * ratio), with the ratio of the scales.

    Constant scales: QuantizeLinear(DequantizeLinear(a) * DequantizeLinear(b)), of which the graph makes the same.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (input_name(node, place) for place in range(8))
    kind = graph.elem_type(a)
    if not kind:
        return False
    if all(graph.is_constant(name) for name in (a_scale, b_scale, scale)):
        value = graph.op("Mul", dequantised(graph, a, a_scale, a_zero), dequantised(graph, b, b_scale, b_zero))
        quantised(graph, value, scale, zero, node.output[0], kind)
        return True
    product = graph.op("Mul", as_int32(graph, a, a_zero), as_int32(graph, b, b_zero))
    ratio = graph.op("Mul", as_scalar(graph, a_scale), as_scalar(graph, b_scale))
    ratio = graph.op("Div", ratio, as_scalar(graph, scale))
    rounded(graph, graph.op("Mul", as_float(graph, product), ratio), zero, node.output[0], kind)
    return True


@rewriting("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def _activate(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearSigmoid(x) --> QuantizeLinear(Sigmoid(DequantizeLinear(x))), and likewise for LeakyRelu."""
    x, scale, zero, y_scale, y_zero = (input_name(node, place) for place in range(5))
    kind = graph.elem_type(x)
    if not kind:
        return False
    attributes = read_attributes(node)
    how = {"alpha": attributes.get("alpha", 0.01)} if node.op_type == "QLinearLeakyRelu" else {}
    value = graph.op(node.op_type.removeprefix("QLinear"), dequantised(graph, x, scale, zero), **how)  # type: ignore[arg-type]
    quantised(graph, value, y_scale, y_zero, node.output[0], kind)
    return True


@rewriting("QLinearSoftmax", domain=MICROSOFT)
def _softmax(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearSoftmax(x) --> QuantizeLinear(Softmax(DequantizeLinear(x)))."""
    x, scale, zero, y_scale, y_zero = (input_name(node, place) for place in range(5))
    kind, shape = graph.elem_type(x), graph.shape(x)
    attributes = read_attributes(node)
    axis, opset = attributes.get("axis", -1), attributes.get("opset", 13)
    if not kind or shape is None or not isinstance(axis, int) or not isinstance(opset, int):
        return False
    value = dequantised(graph, x, scale, zero)
    if opset < 13:  # softmax is over all axes from this one on
        value = graph.op("Softmax", graph.op("Flatten", value, axis=axis), axis=-1)
        value = graph.op("Reshape", value, np.asarray(shape, np.int64))
    else:
        value = graph.op("Softmax", value, axis=axis)
    quantised(graph, value, y_scale, y_zero, node.output[0], kind)
    return True


@rewriting("QLinearConcat", domain=MICROSOFT)
def _concatenate(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearConcat(a, b) --> Concat of the parts, each quantised with the scale of the result."""
    scale, zero = node.input[0], node.input[1]
    kind = graph.elem_type(zero)
    axis = read_attributes(node).get("axis")
    if not kind or not isinstance(axis, int):
        return False
    parts = []
    for place in range(2, len(node.input), 3):
        x, x_scale, x_zero = (input_name(node, place + k) for k in range(3))
        parts.append(quantised(graph, dequantised(graph, x, x_scale, x_zero), scale, zero, "", kind))
    graph.op("Concat", *parts, out=node.output[0], axis=axis)
    return True


@rewriting("QLinearGlobalAveragePool", domain=MICROSOFT)
def _global_average(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearGlobalAveragePool(x) --> QuantizeLinear(ReduceSum(x - zero) * ratio).

    Constant scales, channels first: QuantizeLinear(GlobalAveragePool(DequantizeLinear(x))).
    """
    x, scale, zero, y_scale, y_zero = (input_name(node, place) for place in range(5))
    kind, shape = graph.elem_type(x), graph.shape(x)
    if not kind or shape is None:
        return False
    last = bool(read_attributes(node).get("channels_last", 0))
    if not last and graph.is_constant(scale) and graph.is_constant(y_scale):
        value = graph.op("GlobalAveragePool", dequantised(graph, x, scale, zero))
        quantised(graph, value, y_scale, y_zero, node.output[0], kind)
        return True
    axes = list(range(1, len(shape) - 1)) if last else list(range(2, len(shape)))
    size = int(np.prod([shape[axis] for axis in axes]))
    total = graph.op("ReduceSum", as_int32(graph, x, zero), np.asarray(axes, np.int64), keepdims=1)
    divisor = graph.op("Mul", as_scalar(graph, y_scale), np.asarray(size, np.float32))
    ratio = graph.op("Div", as_scalar(graph, scale), divisor)
    rounded(graph, graph.op("Mul", as_float(graph, total), ratio), y_zero, node.output[0], kind)
    return True


@rewriting("QLinearAveragePool", domain=MICROSOFT)
def _average(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearAveragePool(x) --> QuantizeLinear(AveragePool(DequantizeLinear(x)) / scale + zero point).

    Here, ONNX Runtime adds the zero point before it rounds.
    """
    x, scale, zero, y_scale, y_zero = (input_name(node, place) for place in range(5))
    kind, shape = graph.elem_type(x), graph.shape(x)
    if not kind or shape is None:
        return False
    last, rank = bool(read_attributes(node).get("channels_last", 0)), len(shape)
    value = dequantised(graph, x, scale, zero)
    if last:
        value = graph.op("Transpose", value, perm=[0, rank - 1, *range(1, rank - 1)])
    pool = copy_node(node, ("channels_last",))
    pool.op_type, pool.domain = "AveragePool", ""
    pool.input[:] = [value]
    pool.output[:] = [graph.new_name("pool")]
    graph.add(pool)
    value = pool.output[0]
    if last:
        value = graph.op("Transpose", value, perm=[0, *range(2, rank), 1])
    value = graph.op("Div", value, as_scalar(graph, y_scale))
    if y_zero:
        value = graph.op("Add", value, as_float(graph, as_scalar(graph, y_zero)))
    rounded(graph, value, "", node.output[0], kind)
    return True
