"""Rewritings of element-wise operators."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["gelu_of"]

_INTEGERS = (
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
)
#: The largest exponent of an integer power that becomes a product: a choice.
_MOST_FACTORS = 4


def _number(node: onnx.NodeProto, name: str, default: float) -> float:
    """An attribute that is a number."""
    value = read_attributes(node).get(name, default)
    assert isinstance(value, int | float)
    return value


def _is_float(graph: Graph, name: str) -> bool:
    return graph.elem_type(name) in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@rewriting("ThresholdedRelu")
def thresholded_relu(graph: Graph, node: onnx.NodeProto) -> bool:
    """ThresholdedRelu(x) --> Where(x > alpha, x, 0). TVM multiplies by 0 or 1, and 0 times infinity is NaN."""
    x = node.input[0]
    if not graph.elem_type(x):
        return False
    above = graph.op("Greater", x, graph.like(x, _number(node, "alpha", 1.0)))
    graph.op("Where", above, x, graph.like(x, 0), out=node.output[0])
    return True


@rewriting("Sign")
def sign(graph: Graph, node: onnx.NodeProto) -> bool:
    """Sign(x) --> Cast(Cast(x, to=bool)), if ``x`` has unsigned integers. TVM compares with -1."""
    kind = graph.elem_type(node.input[0])
    if not kind or np.dtype(helper.tensor_dtype_to_np_dtype(kind)).kind != "u":
        return False
    graph.op("Cast", graph.op("Cast", node.input[0], to=TensorProto.BOOL), out=node.output[0], to=kind)
    return True


@rewriting("Sinh", "Cosh")
def hyperbolic(graph: Graph, node: onnx.NodeProto) -> bool:
    """Sinh(x) --> (p - q) * ((p + q) / 2 + 1); Cosh(x) --> (p - q) * ((p - q) / 2) + 1.

    Here, p = e^(x / 2) - 1 and q = e^(-x / 2) - 1.
    TVM's own functions do not compile. Both formulas are precise near zero, and no part overflows before the result.
    """
    x = node.input[0]
    if not _is_float(graph, x):
        return False
    one, half = graph.like(x, 1), graph.op("Mul", x, graph.like(x, 0.5))
    p = graph.op("Sub", graph.op("Exp", half), one)
    q = graph.op("Sub", graph.op("Exp", graph.op("Neg", half)), one)
    twice = graph.op("Sub", p, q)
    if node.op_type == "Sinh":
        other = graph.op("Add", graph.op("Mul", graph.op("Add", p, q), graph.like(x, 0.5)), one)
        graph.op("Mul", twice, other, out=node.output[0])
    else:
        square = graph.op("Mul", twice, graph.op("Mul", twice, graph.like(x, 0.5)))
        graph.op("Add", square, one, out=node.output[0])
    return True


@rewriting("Shrink")
def shrink(graph: Graph, node: onnx.NodeProto) -> bool:
    """Shrink(x) --> Where(x < -lambd, x + bias, Where(x > lambd, x - bias, 0)).

    For integers, TVM rounds both attributes. So the comparison and the sum are computed in float32.
    """
    x = node.input[0]
    kind = graph.elem_type(x)
    if not kind:
        return False
    lambd, bias = _number(node, "lambd", 0.5), _number(node, "bias", 0.0)
    wide = graph.op("Cast", x, to=TensorProto.FLOAT) if kind in _INTEGERS else x
    minus = graph.op("Sub", wide, graph.like(wide, bias))
    plus = graph.op("Add", wide, graph.like(wide, bias))
    above, below = graph.op("Greater", wide, graph.like(wide, lambd)), graph.op("Less", wide, graph.like(wide, -lambd))
    inner = graph.op("Where", above, minus, graph.like(wide, 0))
    if wide == x:
        graph.op("Where", below, plus, inner, out=node.output[0])
    else:
        graph.op("Cast", graph.op("Where", below, plus, inner), out=node.output[0], to=kind)
    return True


@rewriting("Swish")
def swish(graph: Graph, node: onnx.NodeProto) -> bool:
    """Swish(x) --> x * Sigmoid(alpha * x)."""
    x, alpha = node.input[0], _number(node, "alpha", 1.0)
    if not graph.elem_type(x):
        return False
    scaled = x if alpha == 1.0 else graph.op("Mul", x, graph.like(x, alpha))
    graph.op("Mul", x, graph.op("Sigmoid", scaled), out=node.output[0])
    return True


@rewriting("Celu")
def celu(graph: Graph, node: onnx.NodeProto) -> bool:
    """Celu(x) --> Max(x, 0) + alpha * (Exp(Min(x, 0) / alpha) - 1). TVM has no converter for it."""
    x, alpha = node.input[0], _number(node, "alpha", 1.0)
    if not graph.elem_type(x) or alpha <= 0:
        return False
    zero = graph.like(x, 0)
    power = graph.op("Exp", graph.op("Div", graph.op("Min", x, zero), graph.like(x, alpha)))
    below = graph.op("Mul", graph.op("Sub", power, graph.like(x, 1)), graph.like(x, alpha))
    graph.op("Add", graph.op("Max", x, zero), below, out=node.output[0])
    return True


def gelu_of(graph: Graph, x: str, out: str = "", tanh: bool = False) -> str:
    """Write Gelu: x/2 * (1 + Erf(x / sqrt(2))), or its approximation by a hyperbolic tangent. Returns its name."""
    half = graph.op("Mul", x, graph.like(x, 0.5))
    if tanh:
        cube = graph.op("Mul", graph.op("Mul", x, x), x)
        inner = graph.op("Add", x, graph.op("Mul", cube, graph.like(x, 0.044715)))
        bent = graph.op("Tanh", graph.op("Mul", inner, graph.like(x, math.sqrt(2 / math.pi))))
    else:
        bent = graph.op("Erf", graph.op("Mul", x, graph.like(x, math.sqrt(0.5))))
    return graph.op("Mul", half, graph.op("Add", bent, graph.like(x, 1)), out=out)


@rewriting("IsInf")
def is_inf(graph: Graph, node: onnx.NodeProto) -> bool:
    """IsInf(detect_negative=0) --> Equal(x, infinity); likewise detect_positive. TVM ignores both attributes."""
    positive, negative = _number(node, "detect_positive", 1), _number(node, "detect_negative", 1)
    x = node.input[0]
    if (positive and negative) or not _is_float(graph, x):
        return False
    if positive or negative:
        graph.op("Equal", x, graph.like(x, math.inf if positive else -math.inf), out=node.output[0])
    else:
        graph.op("And", graph.op("IsInf", x), np.asarray(False), out=node.output[0])
    return True


@rewriting("Pow")
def power(graph: Graph, node: onnx.NodeProto) -> bool:
    """Pow(x, y) --> a product, if x has integers and y is a small constant; otherwise Cast(Pow(Cast(x), Cast(y))).

    TVM's power takes floating-point numbers of one type only. For integers, ONNX Runtime computes in float64, too.
    """
    x, y = node.input
    kind, exponent = graph.elem_type(x), graph.array(y)
    if not kind or not graph.elem_type(y):
        return False
    if kind in _INTEGERS:
        shape = graph.shape(y)
        if exponent is not None and exponent.size == 1 and shape is not None and len(shape) <= (graph.rank(x) or 0):
            factors = float(exponent.reshape(-1)[0])
            if factors.is_integer() and 2 <= factors <= _MOST_FACTORS:
                name = x
                for number in range(2, int(factors) + 1):
                    name = graph.op("Mul", name, x, out=node.output[0] if number == factors else "")
                return True
        wide = [graph.op("Cast", name, to=TensorProto.DOUBLE) for name in (x, y)]
        graph.op("Cast", graph.op("Pow", *wide), out=node.output[0], to=kind)
        return True
    if graph.elem_type(y) == kind:
        return False
    graph.op("Pow", x, graph.op("Cast", y, to=kind), out=node.output[0])
    return True


@rewriting("CastLike")
def cast_like(graph: Graph, node: onnx.NodeProto) -> bool:
    """CastLike(x, y) --> Cast(x, to=the type of y)."""
    kind = graph.elem_type(node.input[1])
    if not kind:
        return False
    graph.op("Cast", node.input[0], out=node.output[0], to=kind, saturate=_read_saturate(graph, node))
    return True


def _read_saturate(graph: Graph, node: onnx.NodeProto) -> int | None:
    """The attribute ``saturate``; None if the node or the opset does not have it."""
    value = read_attributes(node).get("saturate")
    return value if isinstance(value, int) and graph.opset >= 19 else None


@rewriting("Clip")
def clip(graph: Graph, node: onnx.NodeProto) -> bool:
    """Clip(x) --> Identity(x), if it has no bounds."""
    if any(node.input[1:]):
        return False
    graph.op("Identity", node.input[0], out=node.output[0])
    return True


@rewriting("Mean")
def mean(graph: Graph, node: onnx.NodeProto) -> bool:
    """Mean(a, b, c) --> Sum(a, b, c) / 3. TVM stacks the operands of Mean in memory."""
    first = node.input[0]
    if not _is_float(graph, first):
        return False
    if len(node.input) == 1:
        graph.op("Identity", first, out=node.output[0])
        return True
    total = graph.op("Sum", *node.input)
    graph.op("Div", total, graph.like(first, len(node.input)), out=node.output[0])
    return True


@rewriting("Sum", "Max", "Min")
def chain(graph: Graph, node: onnx.NodeProto) -> bool:
    """Max(a, b, c) --> Max(Max(a, b), c); Min likewise; Sum(a, b, c) --> Add(Add(a, b), c). These are fused.

    TVM stacks the operands in memory, and reduces them.
    """
    if len(node.input) == 1:
        graph.op("Identity", node.input[0], out=node.output[0])
        return True
    kind = "Add" if node.op_type == "Sum" else node.op_type
    if len(node.input) == 2 and kind == node.op_type:
        return False
    left = node.input[0]
    for number, right in enumerate(node.input[1:], 2):
        left = graph.op(kind, left, right, out=node.output[0] if number == len(node.input) else "")
    return True


@rewriting("Equal")
def equal(graph: Graph, node: onnx.NodeProto) -> bool:
    """Equal(a, b) --> Not(Xor(a, b)), if a and b are of bool. TVM's comparison of bool does not compile."""
    if graph.elem_type(node.input[0]) != TensorProto.BOOL:
        return False
    graph.op("Not", graph.op("Xor", *node.input), out=node.output[0])
    return True
