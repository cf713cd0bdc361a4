"""The rules of :mod:`tilewright.frontend.onnx.independence` for operators that compute.

A rule takes a node with a watched input, and returns its outputs. Element ``i`` of an output along the watched axis
must depend only on the elements ``i`` of the watched inputs, for any extent. Otherwise, the rule raises ``Unproven``. A
rule reads only extents of other dimensions. These stay the same when the watched extent changes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import onnx

from tilewright.frontend.onnx.independence_nodes import (
    Extent,
    Node,
    Rule,
    Tensor,
    along,
    broadcast,
    inferred,
    need,
    normal,
    without,
)
from tilewright.frontend.onnx.independence_shapes import SHAPE_RULES

__all__ = ["RULES"]

#: The element types of integers whose values a proof computes.
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
#: The operators of arithmetic on them.
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.floordiv,
}


def _element(node: Node) -> list[Tensor]:
    count = len(node.inputs)
    return [broadcast(*(node.data(place) for place in range(count) if node.inputs[place] is not None))]


def _calculate(node: Node) -> list[Tensor]:
    """An operator of arithmetic. For known small integers, its result is computed."""
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    if len(tensors) != 2 or any(tensor.is_watched for tensor in tensors):
        return _element(node)
    left, right = (tuple(extent or 0 for extent in tensor.extents or ()) for tensor in tensors)
    need(all(tensor.extents for tensor in tensors) and (1 in (len(left), len(right)) or len(left) == len(right)))
    count = max(len(left), len(right))
    pairs = [(left[min(i, len(left) - 1)], right[min(i, len(right) - 1)]) for i in range(count)]
    kind = node.proto.op_type
    need(kind != "Div" or all(a >= 0 and b > 0 for a, b in pairs))
    made = tuple(_ARITHMETIC[kind](a, b) for a, b in pairs)
    scalar = all(tensor.shape == () for tensor in tensors)
    return [Tensor(() if scalar else (count,), None, made)]


def _first_input(node: Node) -> list[Tensor]:
    """An operator whose other inputs are the same for all elements, such as the bounds of Clip."""
    node.need_free(*range(1, len(node.inputs)))
    for place in range(1, len(node.inputs)):
        tensor = node.inputs[place]
        need(tensor is None or (tensor.shape is not None and all(extent == 1 for extent in tensor.shape)))
    return [along(*node.watched())]


def _dropout(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    return [along(shape, axis)] * len(node.proto.output)


def _identity(node: Node) -> list[Tensor]:
    tensor = node.inputs[0]
    need(tensor is not None)
    assert tensor is not None
    return [tensor]


def _cast(node: Node) -> list[Tensor]:
    """Cast: the values of small integers stay known only if the result has an integer type."""
    tensor = _identity(node)[0]
    if tensor.extents is None or node.integer("to", 0) in _INTEGERS:
        return [tensor]
    need(not tensor.is_watched)
    return [Tensor(tensor.shape)]


# Windows, channels and rows ------------------------------------------------------------------------------------------


def _examples(node: Node) -> list[Tensor]:
    """An operator on each example of the first axis, with weights as other inputs, and with a single output."""
    need(node.watched()[1] == 0)
    node.need_free(*range(1, len(node.inputs)))
    need(not any(node.proto.output[1:]))
    return [inferred(node, 0)]


def _batch_norm(node: Node) -> list[Tensor]:
    need(not node.integer("training_mode", 0))
    return _examples(node)


def _resize(node: Node) -> list[Tensor]:
    """Resize and Upsample: for the watched axis, the size is the watched extent, or the scale is 1."""
    shape, axis = node.watched()
    mode = node.get("coordinate_transformation_mode", b"")
    need(node.get("axes") is None and mode != b"tf_crop_and_resize")
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    if sizes is not None:
        need(node.get("keep_aspect_ratio_policy", b"stretch") == b"stretch" and sizes.extents is not None)
        assert sizes.extents is not None
        need(len(sizes.extents) == len(shape) and sizes.extents[axis] is None)
        return [inferred(node, axis)]
    node.need_free(*range(1, len(node.inputs)))
    found = node.inputs[2] if len(node.inputs) > 2 else node.inputs[1] if len(node.inputs) > 1 else None
    scales = node.get("scales") if found is None else found.factors
    need(isinstance(scales, list | tuple))
    assert isinstance(scales, list | tuple)
    need(len(scales) == len(shape) and float(scales[axis]) == 1.0)
    return [inferred(node, axis)]


def _rows(node: Node) -> list[Tensor]:
    """Softmax and norms: they mix elements of all axes from one on. A newer softmax mixes those of one axis only."""
    shape, axis = node.watched()
    node.need_free(*range(1, len(node.inputs)))
    kind = node.proto.op_type
    first = normal(node.integer("axis", 1 if kind != "LayerNormalization" and node.opset < 13 else -1), len(shape))
    if kind in ("Softmax", "LogSoftmax", "Hardmax") and node.opset >= 13:
        need(first != axis)
    else:
        need(axis < first)
    need(not any(node.proto.output[1:]))
    for place in range(1, len(node.inputs)):  # scale and bias belong to the axes that are mixed
        weight = node.inputs[place]
        need(weight is None or (weight.shape is not None and len(weight.shape) <= len(shape) - axis - 1))
    return [along(shape, axis)]


def _reduce(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    axes = node.fixed_integers(1, "axes")
    need(axes is not None and len(axes) > 0)
    return [without(shape, axis, axes or (), bool(node.integer("keepdims", 1)))]


def _arg(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    return [without(shape, axis, (node.integer("axis", 0),), bool(node.integer("keepdims", 1)))]


def _quantize(node: Node) -> list[Tensor]:
    """QuantizeLinear and DequantizeLinear: scales belong to all elements, or to an axis that is not watched."""
    shape, axis = node.watched()
    node.need_free(1, 2)
    scale = node.data(1).shape or ()
    several = len(scale) == 1 and scale != (1,)
    need(len(scale) <= 1 and not (several and normal(node.integer("axis", 1), len(shape)) == axis))
    return [along(shape, axis)]


# Products ------------------------------------------------------------------------------------------------------------


def _matmul(node: Node) -> list[Tensor]:
    left, right = node.data(0), node.data(1)
    assert left.shape is not None
    assert right.shape is not None
    rank_left, rank_right = len(left.shape), len(right.shape)
    need(rank_left >= 2 and rank_right >= 2)
    need(left.axis != rank_left - 1 and right.axis != rank_right - 2)  # the axes that are summed over
    rows, columns = left.shape[-2], right.shape[-1]
    if left.axis == rank_left - 2 or right.axis == rank_right - 1:
        need(left.axis is None or right.axis is None)
        batches = _shape_of_batches(left.shape[:-2], right.shape[:-2])
        axis = len(batches) + (left.axis is None)
        return [along((*batches, rows, columns), axis)]
    batch = broadcast(Tensor(left.shape[:-2], left.axis), Tensor(right.shape[:-2], right.axis))
    assert batch.shape is not None
    assert batch.axis is not None
    return [along((*batch.shape, rows, columns), batch.axis)]


def _shape_of_batches(left: Sequence[Extent], right: Sequence[Extent]) -> tuple[Extent, ...]:
    rank = max(len(left), len(right))
    wide = [(1,) * (rank - len(shape)) + tuple(shape) for shape in (left, right)]
    for a, b in zip(*wide, strict=True):
        need(a == b or 1 in (a, b))
    return tuple(b if a == 1 else a for a, b in zip(*wide, strict=True))


def _gemm(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    need(len(shape) == 2 and axis == node.integer("transA", 0))
    node.need_free(1, 2)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    need(bias is None or (bias.shape is not None and (len(bias.shape) < 2 or bias.shape[0] == 1)))
    weight = node.data(1).shape or ()
    return [along((None, weight[0 if node.integer("transB", 0) else 1]), 0)]


def _einsum(node: Node) -> list[Tensor]:
    """The letter of the watched axes is in the output, and no other operand has it."""
    equation = node.get("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    terms, _, result = text.partition("->")
    operands = terms.split(",")
    need(bool(result) and "." not in text and len(operands) == len(node.inputs))
    letters: dict[str, Extent] = {}
    watched = set()
    for place, term in enumerate(operands):
        tensor = node.data(place)
        assert tensor.shape is not None
        need(len(term) == len(tensor.shape) and len(set(term)) == len(term))
        if tensor.axis is not None:
            watched.add(term[tensor.axis])
        for letter, extent in zip(term, tensor.shape, strict=True):
            need(letters.setdefault(letter, extent) == extent)
    need(len(watched) == 1 and len(set(result)) == len(result))
    letter = watched.pop()
    need(letter in result)
    return [along([letters[each] for each in result], result.index(letter))]


def _recurrent(node: Node) -> list[Tensor]:
    """LSTM, GRU and RNN with the examples on the second axis."""
    need(node.watched()[1] == 1 and not node.integer("layout", 0))
    node.need_free(1, 2, 3, 7)
    for place, axis in ((4, 0), (5, 1), (6, 1)):  # lengths, and the first states
        tensor = node.inputs[place] if place < len(node.inputs) else None
        need(tensor is None or tensor.axis == axis)
    axes = (2, 1, 1)
    return [
        inferred(node, axes[output], output) if name else Tensor(None) for output, name in enumerate(node.proto.output)
    ]


#: The rules by operator.
RULES: dict[str, Rule] = {
    **dict.fromkeys(
        [
            "Abs",
            "Acos",
            "Acosh",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "Ceil",
            "Celu",
            "Cos",
            "Cosh",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "IsInf",
            "IsNaN",
            "LeakyRelu",
            "Log",
            "Mish",
            "Neg",
            "Not",
            "Reciprocal",
            "Relu",
            "Round",
            "Selu",
            "Sigmoid",
            "Sign",
            "Sin",
            "Sinh",
            "Softplus",
            "Softsign",
            "Sqrt",
            "Tan",
            "Tanh",
            "ThresholdedRelu",
            "And",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Max",
            "Mean",
            "Min",
            "Mod",
            "Or",
            "PRelu",
            "Pow",
            "Sum",
            "Where",
            "Xor",
            "BitShift",
            "BitwiseAnd",
            "BitwiseNot",
            "BitwiseOr",
            "BitwiseXor",
        ],
        _element,
    ),
    **dict.fromkeys(["Add", "Sub", "Mul", "Div"], _calculate),
    **dict.fromkeys(("Identity",), _identity),
    "Cast": _cast,
    "Clip": _first_input,
    **dict.fromkeys(["Resize", "Upsample"], _resize),
    "Dropout": _dropout,
    **dict.fromkeys(
        [
            "Conv",
            "ConvTranspose",
            "MaxPool",
            "AveragePool",
            "LpPool",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "GlobalLpPool",
            "LRN",
            "InstanceNormalization",
            "GroupNormalization",
            "DepthToSpace",
            "SpaceToDepth",
        ],
        _examples,
    ),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax", "LayerNormalization", "RMSNormalization"], _rows),
    **dict.fromkeys(
        [
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceSumSquare",
        ],
        _reduce,
    ),
    **dict.fromkeys(["ArgMax", "ArgMin"], _arg),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    **dict.fromkeys(["LSTM", "GRU", "RNN"], _recurrent),
    **dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], _quantize),
    **SHAPE_RULES,
}
