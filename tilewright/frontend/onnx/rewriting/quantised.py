"""Rewritings of quantised operators of ONNX Runtime, and of operators with weights of a few bits.

Like ONNX Runtime, the rewritings multiply by the quotient of the scales before they round. Sums of products are exact
integers.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.integer_weights import find_integer_weights
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["MICROSOFT", "fold_weights"]

_Number = TypeVar("_Number", bound=np.generic)

#: The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"
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
    if node.output[0] in graph.remember(find_integer_weights):
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


def _name(node: onnx.NodeProto, place: int) -> str:
    """The name of an input; empty if it is absent."""
    return str(node.input[place]) if place < len(node.input) else ""


def _float(graph: Graph, name: str) -> str:
    """A tensor of integers as float32."""
    return graph.op("Cast", name, to=TensorProto.FLOAT)


def _scalar(graph: Graph, name: str) -> str:
    """A scale or zero point in the shape of a scalar, if it is one."""
    shape = graph.shape(name)
    return (
        name if shape in ((), None) or np.prod(shape or ()) != 1 else graph.op("Reshape", name, np.zeros(0, np.int64))
    )


def _dequantised(graph: Graph, x: str, scale: str, zero: str) -> str:
    """A tensor as real numbers, with one scale for the whole tensor."""
    return graph.op("DequantizeLinear", x, _scalar(graph, scale), _scalar(graph, zero) if zero else None)


def _quantised(graph: Graph, x: str, scale: str, zero: str, out: str, kind: int) -> str:
    """Real numbers as integers of the element type ``kind``."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    zero_point = _scalar(graph, zero) if zero else np.zeros((), dtype)
    return graph.op("QuantizeLinear", x, _scalar(graph, scale), zero_point, out=out)


def _rounded(graph: Graph, x: str, zero: str, out: str, kind: int) -> str:
    """Round numbers in units of the result's scale to integers, and add the zero point."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    zero_point = _scalar(graph, zero) if zero else np.zeros((), dtype)
    return graph.op("QuantizeLinear", x, np.ones((), np.float32), zero_point, out=out)


def _int32(graph: Graph, name: str, zero: str) -> str:
    """A tensor of integers as int32, minus its zero point."""
    wide = graph.op("Cast", name, to=TensorProto.INT32)
    return graph.op("Sub", wide, graph.op("Cast", _scalar(graph, zero), to=TensorProto.INT32)) if zero else wide


@rewriting("QLinearConv")
def _convolve(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearConv(x, w, b) --> QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w), b * scales)).

    Constant weights only: the graph makes an integer convolution of it.
    """
    x, scale, zero, w, w_scale, w_zero, y_scale, y_zero, bias = (_name(node, place) for place in range(9))
    kind, weight = graph.elem_type(x), graph.array(w)
    scales, w_scales, amounts = graph.array(scale), graph.array(w_scale), graph.array(bias) if bias else None
    if not kind or weight is None or scales is None or w_scales is None or (bias and amounts is None):
        return False
    if scales.size != 1 or not graph.is_constant(w_zero) or not graph.is_constant(y_scale):
        return False
    operands: list[str | NDArray[np.generic]] = [
        _dequantised(graph, x, scale, zero),
        graph.op("DequantizeLinear", w, _vector(graph, w_scale), _vector(graph, w_zero), axis=0),
    ]
    if amounts is not None:
        products = scales.astype(np.float64).reshape(()) * w_scales.astype(np.float64)
        operands.append((amounts.astype(np.float64) * products).astype(np.float32))
    conv = copy_node(node)
    conv.op_type = "Conv"
    conv.input[:] = [graph.constant(o) if isinstance(o, np.ndarray) else str(o) for o in operands]
    conv.output[:] = [graph.new_name("conv")]
    graph.add(conv)
    _quantised(graph, conv.output[0], y_scale, y_zero, node.output[0], kind)
    return True


@rewriting("QLinearMatMul")
def _multiply_matrices(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearMatMul(a, b) --> QuantizeLinear(MatMul(DequantizeLinear(a), DequantizeLinear(b))).

    Constant matrices on the right only: the graph makes an integer product of it.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (_name(node, place) for place in range(8))
    kind, matrix = graph.elem_type(a), graph.shape(b)
    if not kind or matrix is None or len(matrix) != 2 or not all(map(graph.is_constant, (b, b_scale, b_zero, scale))):
        return False
    if not graph.is_constant(a_scale) or any(graph.shape(name) not in ((), (1,)) for name in (a_scale, scale)):
        return False
    right = graph.op("DequantizeLinear", b, _vector(graph, b_scale), _vector(graph, b_zero), axis=1)
    product = graph.op("MatMul", _dequantised(graph, a, a_scale, a_zero), right)
    _quantised(graph, product, scale, zero, node.output[0], kind)
    return True


def _vector(graph: Graph, name: str) -> str:
    """A scale or zero point as DequantizeLinear takes it: a scalar if it is one number."""
    return _scalar(graph, name) if graph.shape(name) == (1,) else name


@rewriting("QLinearAdd", domain=MICROSOFT)
def _add(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearAdd(a, b) --> QuantizeLinear(a * ra + (b * rb + shift)). ra, rb: a scale over that of the result.

    Constant scales: QuantizeLinear(DequantizeLinear(a) + DequantizeLinear(b)), of which the graph makes the same.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (_name(node, place) for place in range(8))
    kind = graph.elem_type(a)
    if not kind:
        return False
    if all(graph.is_constant(name) for name in (a_scale, b_scale, scale)):
        total = graph.op("Add", _dequantised(graph, a, a_scale, a_zero), _dequantised(graph, b, b_scale, b_zero))
        _quantised(graph, total, scale, zero, node.output[0], kind)
        return True
    ratios = [graph.op("Div", _scalar(graph, s), _scalar(graph, scale)) for s in (a_scale, b_scale)]
    shift: str | NDArray[np.generic] = np.zeros((), np.float32)
    moved = [
        graph.op("Mul", ratio, _float(graph, _scalar(graph, z)))
        for ratio, z in zip(ratios, (a_zero, b_zero), strict=True)
        if z
    ]
    if moved:
        shift = graph.op("Neg", moved[0] if len(moved) == 1 else graph.op("Add", *moved))
    if zero:
        shift = graph.op("Add", _float(graph, _scalar(graph, zero)), shift)
    right = graph.op("Add", graph.op("Mul", _float(graph, b), ratios[1]), shift)
    total = graph.op("Add", graph.op("Mul", _float(graph, a), ratios[0]), right)
    _rounded(graph, total, "", node.output[0], kind)
    return True


@rewriting("QLinearMul", domain=MICROSOFT)
def _multiply(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearMul(a, b) --> QuantizeLinear((a - za) * (b - zb) * ratio), with the ratio of the scales."""
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = (_name(node, place) for place in range(8))
    kind = graph.elem_type(a)
    if not kind:
        return False
    if all(graph.is_constant(name) for name in (a_scale, b_scale, scale)):
        value = graph.op("Mul", _dequantised(graph, a, a_scale, a_zero), _dequantised(graph, b, b_scale, b_zero))
        _quantised(graph, value, scale, zero, node.output[0], kind)
        return True
    product = graph.op("Mul", _int32(graph, a, a_zero), _int32(graph, b, b_zero))
    ratio = graph.op("Mul", _scalar(graph, a_scale), _scalar(graph, b_scale))
    ratio = graph.op("Div", ratio, _scalar(graph, scale))
    _rounded(graph, graph.op("Mul", _float(graph, product), ratio), zero, node.output[0], kind)
    return True


@rewriting("QLinearSigmoid", "QLinearLeakyRelu", domain=MICROSOFT)
def _activate(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearSigmoid(x) --> QuantizeLinear(Sigmoid(DequantizeLinear(x))), and likewise for LeakyRelu."""
    x, scale, zero, y_scale, y_zero = (_name(node, place) for place in range(5))
    kind = graph.elem_type(x)
    if not kind:
        return False
    attributes = read_attributes(node)
    how = {"alpha": attributes.get("alpha", 0.01)} if node.op_type == "QLinearLeakyRelu" else {}
    value = graph.op(node.op_type.removeprefix("QLinear"), _dequantised(graph, x, scale, zero), **how)  # type: ignore[arg-type]
    _quantised(graph, value, y_scale, y_zero, node.output[0], kind)
    return True


@rewriting("QLinearSoftmax", domain=MICROSOFT)
def _softmax(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearSoftmax(x) --> QuantizeLinear(Softmax(DequantizeLinear(x)))."""
    x, scale, zero, y_scale, y_zero = (_name(node, place) for place in range(5))
    kind, shape = graph.elem_type(x), graph.shape(x)
    attributes = read_attributes(node)
    axis, opset = attributes.get("axis", -1), attributes.get("opset", 13)
    if not kind or shape is None or not isinstance(axis, int) or not isinstance(opset, int):
        return False
    value = _dequantised(graph, x, scale, zero)
    if opset < 13:  # softmax is over all axes from this one on
        value = graph.op("Softmax", graph.op("Flatten", value, axis=axis), axis=-1)
        value = graph.op("Reshape", value, np.asarray(shape, np.int64))
    else:
        value = graph.op("Softmax", value, axis=axis)
    _quantised(graph, value, y_scale, y_zero, node.output[0], kind)
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
        x, x_scale, x_zero = (_name(node, place + k) for k in range(3))
        parts.append(_quantised(graph, _dequantised(graph, x, x_scale, x_zero), scale, zero, "", kind))
    graph.op("Concat", *parts, out=node.output[0], axis=axis)
    return True


@rewriting("QLinearGlobalAveragePool", domain=MICROSOFT)
def _global_average(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearGlobalAveragePool(x) --> QuantizeLinear(ReduceSum(x - zero) * ratio)."""
    x, scale, zero, y_scale, y_zero = (_name(node, place) for place in range(5))
    kind, shape = graph.elem_type(x), graph.shape(x)
    if not kind or shape is None:
        return False
    last = bool(read_attributes(node).get("channels_last", 0))
    if not last and graph.is_constant(scale) and graph.is_constant(y_scale):
        value = graph.op("GlobalAveragePool", _dequantised(graph, x, scale, zero))
        _quantised(graph, value, y_scale, y_zero, node.output[0], kind)
        return True
    axes = list(range(1, len(shape) - 1)) if last else list(range(2, len(shape)))
    size = int(np.prod([shape[axis] for axis in axes]))
    total = graph.op("ReduceSum", _int32(graph, x, zero), np.asarray(axes, np.int64), keepdims=1)
    divisor = graph.op("Mul", _scalar(graph, y_scale), np.asarray(size, np.float32))
    ratio = graph.op("Div", _scalar(graph, scale), divisor)
    _rounded(graph, graph.op("Mul", _float(graph, total), ratio), y_zero, node.output[0], kind)
    return True


@rewriting("QLinearAveragePool", domain=MICROSOFT)
def _average(graph: Graph, node: onnx.NodeProto) -> bool:
    """QLinearAveragePool(x) --> QuantizeLinear(AveragePool(DequantizeLinear(x)) / scale + zero point).

    Here, ONNX Runtime adds the zero point before it rounds.
    """
    x, scale, zero, y_scale, y_zero = (_name(node, place) for place in range(5))
    kind, shape = graph.elem_type(x), graph.shape(x)
    if not kind or shape is None:
        return False
    last, rank = bool(read_attributes(node).get("channels_last", 0)), len(shape)
    value = _dequantised(graph, x, scale, zero)
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
    value = graph.op("Div", value, _scalar(graph, y_scale))
    if y_zero:
        value = graph.op("Add", value, _float(graph, _scalar(graph, y_zero)))
    _rounded(graph, value, "", node.output[0], kind)
    return True


@rewriting("QGemm", domain=MICROSOFT)
def _gemm(graph: Graph, node: onnx.NodeProto) -> bool:
    """QGemm(a, b, c) --> MatMulInteger(a, b) + c, times the scales; quantised if the result has a scale."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = (_name(node, place) for place in range(9))
    attributes = read_attributes(node)
    kind = graph.elem_type(a)
    if not kind:
        return False
    if _gemm_of_constants(graph, node):
        return True
    left = graph.op("Transpose", a, perm=[1, 0]) if attributes.get("transA", 0) else a
    right = graph.op("Transpose", b, perm=[1, 0]) if attributes.get("transB", 0) else b
    total = graph.op("MatMulInteger", left, right, _scalar(graph, a_zero) or None, _scalar(graph, b_zero) or None)
    if c:
        total = graph.op("Add", total, c)
    factor = graph.op("Mul", _scalar(graph, a_scale), _scalar(graph, b_scale))
    alpha = attributes.get("alpha", 1.0)
    assert isinstance(alpha, float)
    if alpha != 1.0:
        factor = graph.op("Mul", factor, np.asarray(alpha, np.float32))
    if not scale:
        graph.op("Mul", _float(graph, total), factor, out=node.output[0])
        return True
    factor = graph.op("Div", factor, _scalar(graph, scale))
    _rounded(graph, graph.op("Mul", _float(graph, total), factor), zero, node.output[0], kind)
    return True


def _gemm_of_constants(graph: Graph, node: onnx.NodeProto) -> bool:
    """QGemm(a, b, c) --> QuantizeLinear(Gemm(DequantizeLinear(a), DequantizeLinear(b), c * scales)), if b is constant.

    Of this, the graph makes an integer product.
    """
    a, a_scale, a_zero, b, b_scale, b_zero, c, scale, zero = (_name(node, place) for place in range(9))
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
    right = graph.op("DequantizeLinear", b, _vector(graph, b_scale), _vector(graph, b_zero), axis=1 - turned)
    added: NDArray[np.generic] | None = None
    if amounts is not None:
        products = scales[0].astype(np.float64).reshape(()) * scales[1].astype(np.float64)
        added = (amounts.astype(np.float64) * products).astype(np.float32)
    left = _dequantised(graph, a, a_scale, a_zero)
    value = graph.op("Gemm", left, right, added, out="" if scale else node.output[0], transB=turned)
    if scale:
        _quantised(graph, value, scale, zero, node.output[0], graph.elem_type(a))
    return True


@rewriting("MatMulIntegerToFloat", domain=MICROSOFT)
def _product_to_float(graph: Graph, node: onnx.NodeProto) -> bool:
    """MatMulIntegerToFloat(a, b) --> MatMulInteger(a, b) times the scales, plus the bias."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (_name(node, place) for place in range(7))
    total = graph.op("MatMulInteger", a, b, _scalar(graph, a_zero) or None, _scalar(graph, b_zero) or None)
    factor = graph.op("Mul", _scalar(graph, a_scale), _scalar(graph, b_scale))
    value = graph.op("Mul", _float(graph, total), factor, out="" if bias else node.output[0])
    if bias:
        graph.op("Add", value, bias, out=node.output[0])
    return True


@rewriting("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """DynamicQuantizeMatMul(a, b) --> MatMulInteger(DynamicQuantizeLinear(a), b) times the scales, plus the bias."""
    a, b, b_scale, b_zero, bias = (_name(node, place) for place in range(5))
    outs = [graph.new_name(what) for what in ("quantised", "scale", "zero")]
    x, scale, zero = graph.ops("DynamicQuantizeLinear", a, outs=outs)
    total = graph.op("MatMulInteger", x, b, zero, _scalar(graph, b_zero) or None)
    factor = graph.op("Mul", scale, _scalar(graph, b_scale))
    value = graph.op("Mul", _float(graph, total), factor, out="" if bias else node.output[0])
    if bias:
        graph.op("Add", value, bias, out=node.output[0])
    return True


@rewriting("QAttention", domain=MICROSOFT)
def _attention(graph: Graph, node: onnx.NodeProto) -> bool:
    """QAttention(x, w) --> Attention(DequantizeLinear(x), DequantizeLinear(w)), which computes in floating point."""
    x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = (_name(node, place) for place in range(9))
    data = _dequantised(graph, x, x_scale, x_zero)
    shape = graph.shape(w_scale)
    if shape in ((), (1,)):
        weight = _dequantised(graph, w, w_scale, w_zero)
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


@rewriting("MatMulNBits", domain=MICROSOFT)
def _narrow_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """MatMulNBits(a, b) --> MatMul(a, weight) + bias, with the weight in float32.

    Each row of the packed weight has blocks of numbers of a few bits, with the lowest bits first.
    """
    a, packed, scales, zeros, order, bias = (_name(node, place) for place in range(6))
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
