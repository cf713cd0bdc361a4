"""Rewritings of normalisations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import TensorProto

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.shapes import as_shape

__all__ = ["in_float32", "normalise", "root_mean_square"]


def _number(node: onnx.NodeProto, name: str, default: float) -> float:
    value = read_attributes(node).get(name, default)
    assert isinstance(value, int | float)
    return value


def in_float32(graph: Graph, name: str) -> str:
    """The tensor in float32 if it is of float16, otherwise ``name``."""
    if graph.elem_type(name) == TensorProto.FLOAT16:
        return graph.op("Cast", name, to=TensorProto.FLOAT)
    return name


def normalise(graph: Graph, x: str, axes: Sequence[int], epsilon: float) -> tuple[str, str, str]:
    """Write (x - mean) / sqrt(variance + epsilon) over some axes.

    Args:
        graph: the graph.
        x: the tensor, not of float16.
        axes: the axes.
        epsilon: the number that is added to the variance.

    Returns:
        the names of the result, of the mean, and of 1 / sqrt(variance + epsilon), which keep the axes.
    """
    where = as_shape(tuple(axes))
    mean = graph.op("ReduceMean", x, where, keepdims=1)
    centred = graph.op("Sub", x, mean)
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), where, keepdims=1)
    inverse = graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", variance, graph.like(x, epsilon))))
    return graph.op("Mul", centred, inverse), mean, inverse


def root_mean_square(graph: Graph, x: str, axes: Sequence[int], epsilon: float) -> tuple[str, str]:
    """Write x / sqrt(mean of squares + epsilon) over some axes, as :func:`normalise` does.

    Returns:
        the names of the result, and of 1 / sqrt(mean of squares + epsilon).
    """
    square = graph.op("ReduceMean", graph.op("Mul", x, x), as_shape(tuple(axes)), keepdims=1)
    inverse = graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", square, graph.like(x, epsilon))))
    return graph.op("Mul", x, inverse), inverse


def _finish(graph: Graph, node: onnx.NodeProto, normal: str, scale: str, bias: str) -> None:
    """Write normal * scale + bias in the element type of the node's first input."""
    kind = graph.elem_type(node.input[0])
    name = normal
    for what, operand in (("Mul", scale), ("Add", bias)):
        if operand:
            wide = operand if graph.elem_type(operand) == graph.elem_type(name) else _cast(graph, operand, name)
            name = graph.op(what, name, wide)
    if graph.elem_type(name) == kind:
        graph.op("Identity", name, out=node.output[0])
    else:
        graph.op("Cast", name, out=node.output[0], to=kind)


def _cast(graph: Graph, name: str, like: str) -> str:
    return graph.op("Cast", name, to=graph.elem_type(like))


def _optional(node: onnx.NodeProto, place: int) -> str:
    """The name of an input; empty if it is absent."""
    return node.input[place] if place < len(node.input) else ""


@rewriting("LayerNormalization")
def layer_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """(y, mean, deviation) = LayerNormalization --> its operators, if it is more than what TVM imports.

    TVM imports only ``y``, and only if the scale has the shape of the normalised axes. In float32, such a node stays
    for ``y``, and other nodes compute the other outputs.
    """
    x, scale, bias = node.input[0], node.input[1], _optional(node, 2)
    found = graph.fixed(x)
    if found is None or not found.shape:
        return False
    first = int(_number(node, "axis", -1)) % len(found.shape)
    axes, epsilon = range(first, len(found.shape)), _number(node, "epsilon", 1e-5)
    more = [name for name in node.output[1:] if name]
    same = all(graph.shape(name) == found.shape[first:] for name in (scale, bias) if name)
    plain = found.elem_type == TensorProto.FLOAT and same
    if plain and not more:
        return False
    normal, mean, inverse = normalise(graph, in_float32(graph, x), axes, epsilon)
    if plain:
        new = copy_node(node)
        del new.output[1:]
        graph.add(new)
    else:
        _finish(graph, node, normal, scale, bias)
    for name, place in ((mean, 1), (inverse, 2)):
        if place < len(node.output) and node.output[place]:
            graph.op("Identity", name, out=node.output[place])
    return True


@rewriting("RMSNormalization")
def rms_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """RMSNormalization(x, scale) --> x / sqrt(mean(x * x) + epsilon) * scale, in float32 if x is of float16."""
    x, found = node.input[0], graph.fixed(node.input[0])
    if found is None or not found.shape:
        return False
    first = int(_number(node, "axis", -1)) % len(found.shape)
    axes = range(first, len(found.shape))
    same = graph.shape(node.input[1]) == found.shape[first:]
    if found.elem_type == TensorProto.FLOAT and same and first > 0:  # TVM cannot compile the norm over all axes
        return False
    normal, _ = root_mean_square(graph, in_float32(graph, x), axes, _number(node, "epsilon", 1e-5))
    _finish(graph, node, normal, node.input[1], "")
    return True


@rewriting("GroupNormalization")
def group_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """GroupNormalization(x) --> Reshape, normalise each group, Reshape, times scale, plus bias.

    Before opset 21 scale and bias have one element for each group, since then one for each channel.
    """
    x, scale, bias = node.input
    found = graph.fixed(x)
    groups = int(_number(node, "num_groups", 0))
    if found is None or len(found.shape) < 2 or groups < 1 or found.shape[1] % groups or not found.size:
        return False
    batch, channels = found.shape[:2]
    wide = in_float32(graph, x)
    grouped = graph.op("Reshape", wide, as_shape((batch, groups, math.prod(found.shape[1:]) // groups)))
    normal, _, _ = normalise(graph, grouped, [2], _number(node, "epsilon", 1e-5))
    rest = (1,) * (len(found.shape) - 2)
    operands = []
    for name in (scale, bias):
        shape = graph.shape(name)
        if shape == (groups,) and groups != channels:
            column = graph.op("Reshape", name, as_shape((groups, 1)))
            name = graph.op("Expand", column, as_shape((groups, channels // groups)))
        operands.append(graph.op("Reshape", name, as_shape((channels, *rest))))
    _finish(graph, node, graph.op("Reshape", normal, as_shape(found.shape)), operands[0], operands[1])
    return True


@rewriting("InstanceNormalization")
def instance_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """InstanceNormalization(x) --> Reshape, normalise each channel, Reshape, times scale, plus bias.

    Reducing one row for each channel is faster than reducing the axes of an image.
    """
    x, scale, bias = node.input
    found = graph.fixed(x)
    if found is None or len(found.shape) < 3 or not found.size:
        return False
    batch, channels = found.shape[:2]
    rows = graph.op("Reshape", in_float32(graph, x), as_shape((batch, channels, math.prod(found.shape[2:]))))
    normal, _, _ = normalise(graph, rows, [2], _number(node, "epsilon", 1e-5))
    column = as_shape((channels, *(1,) * (len(found.shape) - 2)))
    operands = [graph.op("Reshape", name, column) for name in (scale, bias)]
    _finish(graph, node, graph.op("Reshape", normal, as_shape(found.shape)), operands[0], operands[1])
    return True


@rewriting("LpNormalization")
def lp_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """LpNormalization(x) --> x / norm, and 0 where the norm is 0. TVM has no converter for it."""
    x, found = node.input[0], graph.fixed(node.input[0])
    order = int(_number(node, "p", 2))
    if found is None or order not in (1, 2):
        return False
    axis = as_shape((int(_number(node, "axis", -1)),))
    norm = graph.op("ReduceL1" if order == 1 else "ReduceL2", x, axis, keepdims=1)
    divisor = graph.op("Where", graph.op("Equal", norm, graph.like(x, 0)), graph.like(x, 1), norm)
    graph.op("Div", x, divisor, out=node.output[0])
    return True


@rewriting("MeanVarianceNormalization")
def mean_variance_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """MeanVarianceNormalization(x) --> (x - mean) / sqrt(variance + 1e-9).

    TVM subtracts two large numbers to get the variance, and adds nothing to it.
    """
    x, found = node.input[0], graph.fixed(node.input[0])
    if found is None:
        return False
    axes = read_attributes(node).get("axes", [0, 2, 3])
    assert isinstance(axes, Sequence)
    normal, _, _ = normalise(graph, in_float32(graph, x), [int(axis) for axis in axes], 1e-9)
    _finish(graph, node, normal, "", "")
    return True


@rewriting("BatchNormalization")
def batch_norm(graph: Graph, node: onnx.NodeProto) -> bool:
    """BatchNormalization(x) --> x * factor + shift, if its statistics are computed, or not of float32.

    Constant statistics of float32 are folded later, into a convolution or into two constants.
    """
    x, parameters = node.input[0], list(node.input[1:5])
    found = graph.fixed(x)
    if found is None or len(found.shape) < 2 or any(node.output[1:]):
        return False
    plain = all(graph.elem_type(name) == TensorProto.FLOAT for name in node.input)
    if plain and all(graph.is_constant(name) for name in parameters):
        return False
    column = as_shape((found.shape[1], *(1,) * (len(found.shape) - 2)))
    wide = in_float32(graph, x)
    shaped = []
    for name in parameters:
        operand = in_float32(graph, name)
        if graph.elem_type(operand) != graph.elem_type(wide):
            operand = _cast(graph, operand, wide)
        shaped.append(graph.op("Reshape", operand, column))
    scale, bias, mean, variance = shaped
    bounded = graph.op("Add", variance, graph.like(wide, _number(node, "epsilon", 1e-5)))
    factor = graph.op("Div", scale, graph.op("Sqrt", bounded))
    shift = graph.op("Sub", bias, graph.op("Mul", mean, factor))
    _finish(graph, node, graph.op("Mul", wide, factor), "", shift)
    return True


@rewriting("Softmax", "LogSoftmax")
def softmax(graph: Graph, node: onnx.NodeProto) -> bool:
    """Softmax(x) --> Cast(Softmax(Cast(x))), in float32 if x is of float16, as ONNX Runtime computes it."""
    x = node.input[0]
    if graph.elem_type(x) != TensorProto.FLOAT16:
        return False
    wide = graph.op(node.op_type, in_float32(graph, x), axis=int(_number(node, "axis", -1)))
    graph.op("Cast", wide, out=node.output[0], to=TensorProto.FLOAT16)
    return True
