"""Rewritings of convolutions, matrix products and attention on quantised data.

Like ONNX Runtime, the rewritings multiply by the quotient of the scales before they round. Sums of products are exact
integers.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.quantisation import (
    MICROSOFT,
    as_float,
    as_scalar,
    as_scalar_or_vector,
    dequantised,
    input_name,
    quantised,
    rounded,
)
from tilewright.frontend.onnx.rewriting.registry import rewriting


@rewriting("QLinearConv")
def _convolve(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearConv(x, w, b) --> QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), b * scales)).

    Constant weights only: the graph makes an integer convolution of it.
    """
    x, scale, zero, w, w_scale, w_zero, y_scale, y_zero, bias = (input_name(node, place) for place in range(9))
    kind, weight = graph.elem_type(x), graph.array(w)
    scales, w_scales, amounts = graph.array(scale), graph.array(w_scale), graph.array(bias) if bias else None
    if not kind or weight is None or scales is None or w_scales is None or (bias and amounts is None):
        return False
    if scales.size != 1 or not graph.is_constant(w_zero) or not graph.is_constant(y_scale):
        return False
    operands: list[str | NDArray[np.generic]] = [
        dequantised(graph, x, scale, zero),
        graph.op(
            "DequantizeLinear", w, as_scalar_or_vector(graph, w_scale), as_scalar_or_vector(graph, w_zero), axis=0
        ),
    ]
    if amounts is not None:
        products = scales.astype(np.float64).reshape(()) * w_scales.astype(np.float64)
        operands.append((amounts.astype(np.float64) * products).astype(np.float32))
    conv = copy_node(node)
    conv.op_type = "Conv"
    conv.input[:] = [graph.constant(o) if isinstance(o, np.ndarray) else str(o) for o in operands]
    conv.output[:] = [graph.new_name("conv")]
    graph.add(conv)
    quantised(graph, conv.output[0], y_scale, y_zero, node.output[0], kind)
    return True


@rewriting("QLinearMatMul")
def _multiply_matrices(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearMatMul(a, b) --> QuantizeLinear(MatMul(DequantizeLinear(a), DequantizeLinear(b))).

    Constant matrices on the right only: the graph makes an integer product of it.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (input_name(node, place) for place in range(8))
    kind, matrix = graph.elem_type(a), graph.shape(b)
    if not kind or matrix is None or len(matrix) != 2 or not all(map(graph.is_constant, (b, b_scale, b_zero, scale))):
        return False
    if not graph.is_constant(a_scale) or any(graph.shape(name) not in ((), (1,)) for name in (a_scale, scale)):
        return False
    right = graph.op(
        "DequantizeLinear", b, as_scalar_or_vector(graph, b_scale), as_scalar_or_vector(graph, b_zero), axis=1
    )
    product = graph.op("MatMul", dequantised(graph, a, a_scale, a_zero), right)
    quantised(graph, product, scale, zero, node.output[0], kind)
    return True


@rewriting("QGemm", domain=MICROSOFT)
def _gemm(graph: Graph, node: onnx.NodeProto) -> bool:
    """QGemm(a, b, c) --> MatMulInteger(a, b) + c, times the scales; quantised if the result has a scale."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = (input_name(node, place) for place in range(9))
    attributes = read_attributes(node)
    kind = graph.elem_type(a)
    if not kind:
        return False
    if _gemm_of_constants(graph, node):
        return True
    left = graph.op("Transpose", a, perm=[1, 0]) if attributes.get("transA", 0) else a
    right = graph.op("Transpose", b, perm=[1, 0]) if attributes.get("transB", 0) else b
    total = graph.op("MatMulInteger", left, right, as_scalar(graph, a_zero) or None, as_scalar(graph, b_zero) or None)
    if c:
        total = graph.op("Add", total, c)
    factor = graph.op("Mul", as_scalar(graph, a_scale), as_scalar(graph, b_scale))
    alpha = attributes.get("alpha", 1.0)
    assert isinstance(alpha, float)
    if alpha != 1.0:
        factor = graph.op("Mul", factor, np.asarray(alpha, np.float32))
    if not scale:
        graph.op("Mul", as_float(graph, total), factor, out=node.output[0])
        return True
    factor = graph.op("Div", factor, as_scalar(graph, scale))
    rounded(graph, graph.op("Mul", as_float(graph, total), factor), zero, node.output[0], kind)
    return True


def _gemm_of_constants(graph: Graph, node: onnx.NodeProto) -> bool:
    """QGemm(a, b, c) --> QuantizeLinear(Gemm(DequantizeLinear(a), DequantizeLinear(b), c * scales)), if b is constant.

    Of this, the graph makes an integer product.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = (input_name(node, place) for place in range(9))
    attributes = read_attributes(node)
    scales = [graph.array(name) for name in (a_scale, b_scale)]
    amounts = graph.array(c) if c else None
    if not graph.is_constant(b) or not graph.is_constant(b_zero) or (c and amounts is None):
        return False
    if scales[0] is None or scales[1] is None or scales[0].size != 1 or attributes.get("transA", 0):
        return False
    if attributes.get("alpha", 1.0) != 1.0 or (scale and not graph.is_constant(scale)):
        return False
    turned = int(bool(attributes.get("transB", 0)))
    right = graph.op(
        "DequantizeLinear", b, as_scalar_or_vector(graph, b_scale), as_scalar_or_vector(graph, b_zero), axis=1 - turned
    )
    added: NDArray[np.generic] | None = None
    if amounts is not None:
        products = scales[0].astype(np.float64).reshape(()) * scales[1].astype(np.float64)
        added = (amounts.astype(np.float64) * products).astype(np.float32)
    left = dequantised(graph, a, a_scale, a_zero)
    value = graph.op("Gemm", left, right, added, out="" if scale else node.output[0], transB=turned)
    if scale:
        quantised(graph, value, scale, zero, node.output[0], graph.elem_type(a))
    return True


@rewriting("MatMulIntegerToFloat", domain=MICROSOFT)
def _product_to_float(graph: Graph, node: onnx.NodeProto) -> bool:
    """MatMulIntegerToFloat(a, b) --> MatMulInteger(a, b) times the scales, plus the bias."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (input_name(node, place) for place in range(7))
    total = graph.op("MatMulInteger", a, b, as_scalar(graph, a_zero) or None, as_scalar(graph, b_zero) or None)
    factor = graph.op("Mul", as_scalar(graph, a_scale), as_scalar(graph, b_scale))
    value = graph.op("Mul", as_float(graph, total), factor, out="" if bias else node.output[0])
    if bias:
        graph.op("Add", value, bias, out=node.output[0])
    return True


@rewriting("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """DynamicQuantizeMatMul(a, b) --> MatMulInteger(DynamicQuantizeLinear(a), b) times the scales, plus the bias."""
    a, b, b_scale, b_zero, bias = (input_name(node, place) for place in range(5))
    outs = [graph.new_name(what) for what in ("quantised", "scale", "zero")]
    x, scale, zero = graph.ops("DynamicQuantizeLinear", a, outs=outs)
    total = graph.op("MatMulInteger", x, b, zero, as_scalar(graph, b_zero) or None)
    factor = graph.op("Mul", scale, as_scalar(graph, b_scale))
    value = graph.op("Mul", as_float(graph, total), factor, out="" if bias else node.output[0])
    if bias:
        graph.op("Add", value, bias, out=node.output[0])
    return True


@rewriting("QAttention", domain=MICROSOFT)
def _attention(graph: Graph, node: onnx.NodeProto) -> bool:
    """QAttention(x, w) --> Attention(DequantizeLinear(x), DequantizeLinear(w)), which computes in floating point."""
    x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = (input_name(node, place) for place in range(9))
    data = dequantised(graph, x, x_scale, x_zero)
    shape = graph.shape(w_scale)
    if shape in ((), (1,)):
        weight = dequantised(graph, w, w_scale, w_zero)
    else:
        weight = graph.op("DequantizeLinear", w, w_scale, w_zero or None, axis=1)
    new = copy_node(node)
    new.op_type = "Attention"
    inputs = [data, weight, bias, mask, past]
    while not inputs[-1]:
        inputs.pop()
    new.input[:] = inputs
    graph.add(new)
    return True
