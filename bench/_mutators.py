"""Mistakes that a compiler could make of a network: each changes an ONNX model in one place.

A mutator gets a :class:`bench._surgery.Surgery` and returns where it has changed something, or None where the model has
nothing of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from bench._surgery import Anatomy, Surgery, attribute, set_attribute, size, spatial

__all__ = ["MUTATORS", "Mutant", "mutants"]

Mutator: TypeAlias = Callable[[Surgery], str | None]
_CONTRACTIONS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_NORMS = ("LayerNormalization", "BatchNormalization", "InstanceNormalization")
_ACTIVATIONS = ("Relu", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Clip", "Erf", "Softplus")
#: Wider than this a constant of a tensor's own shape costs more than it shows.
_MOST_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Mutant:
    """A model with one mistake.

    Attributes:
        kind: the mistake.
        site: the operator or tensor that has it.
        model: the model.
    """

    kind: str
    site: str
    model: onnx.ModelProto


def mutants(model: onnx.ModelProto, seed: int = 0) -> Iterator[Mutant]:
    """One mutant of each kind that is possible for ``model``, at a place drawn by chance."""
    anatomy = Anatomy(model)
    for number, (kind, mutate) in enumerate(MUTATORS.items()):
        surgery = Surgery(model, anatomy, (seed, number))
        site = mutate(surgery)
        if site is not None:
            yield Mutant(kind, site, surgery.model)


def _of_weight(change: Callable[[Surgery, onnx.NodeProto, NDArray[Any]], NDArray[Any] | None]) -> Mutator:
    """A mutator that changes the weight of a contraction."""

    def mutate(s: Surgery) -> str | None:
        nodes = [n for n in s.nodes if n.op_type in _CONTRACTIONS and s.weight(n.input[1]) is not None]
        for place in s.rng.permutation(len(nodes)):
            node = nodes[place]
            weight = s.weight(node.input[1])
            assert weight is not None
            made = change(s, node, weight)
            if made is not None:
                s.set_weight(node.input[1], made)
                return node.name or node.output[0]
        return None

    return mutate


def _outputs_axis(node: onnx.NodeProto) -> int:
    """Which axis of a weight is that of the outputs."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def _negated(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    return -weight


def _transposed(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    if weight.ndim == 4 and weight.shape[-1] == weight.shape[-2] > 1:
        return weight.swapaxes(-1, -2)
    if weight.ndim == 2:  # as if it lay by columns
        return np.ascontiguousarray(weight.T).reshape(weight.shape)
    return None


def _output_off(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    axis = _outputs_axis(node)
    return np.roll(weight, 1, axis) if weight.ndim > axis and weight.shape[axis] > 1 else None


def _input_off(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    axis = 1 - _outputs_axis(node)
    return np.roll(weight, 1, axis) if weight.ndim >= 2 and weight.shape[axis] > 1 else None


def _channel_lost(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    axis = _outputs_axis(node)
    made = weight.copy()
    made[(slice(None),) * axis + (int(s.rng.integers(weight.shape[axis])),)] = 0
    return made


def _group_off(s: Surgery, node: onnx.NodeProto, weight: NDArray[Any]) -> NDArray[Any] | None:
    groups = int(attribute(node, "group", 1))
    return np.roll(weight, weight.shape[0] // groups, 0) if groups > 1 else None


def _bias(s: Surgery, change: Callable[[NDArray[Any]], NDArray[Any]]) -> str | None:
    """Change a vector that is added."""

    def vector(node: onnx.NodeProto) -> str | None:
        names = node.input[2:3] if node.op_type in ("Conv", "Gemm", "ConvTranspose") else node.input
        for name in names:
            weight = s.weight(name)
            if weight is not None and weight.ndim == 1 and weight.size > 1 and weight.dtype == np.float32:
                return str(name)
        return None

    node = s.find("Conv", "Gemm", "ConvTranspose", "Add", where=lambda n: vector(n) is not None)
    if node is None:
        return None
    name = vector(node)
    assert name is not None
    values = s.weight(name)
    assert values is not None
    s.set_weight(name, change(values))
    return str(node.name or node.output[0])


def _bias_off(s: Surgery) -> str | None:
    return _bias(s, lambda values: np.roll(values, 1))


def _bias_lost(s: Surgery) -> str | None:
    return _bias(s, np.zeros_like)


def _tensors(s: Surgery, *kinds: str) -> list[str]:
    """Tensors of floats of a known, moderate size that operators of these kinds make."""
    made = [node.output[0] for node in s.nodes if node.op_type in kinds]
    return [t for t in made if t in s.anatomy.floats and 1 < size(s.shape(t)) <= _MOST_ELEMENTS]


def _wrong_tile(s: Surgery) -> str | None:
    found = _tensors(s, *_CONTRACTIONS)
    if not found:
        return None
    tensor = found[s.rng.integers(len(found))]
    factors = np.ones(s.shape(tensor), np.float32)
    factors[s.tile(factors.shape)] = 0
    s.multiply(tensor, factors)
    return tensor


def _wrong_output_tile(s: Surgery) -> str | None:
    outputs = [o.name for o in s.model.graph.output]
    tensor = outputs[s.rng.integers(len(outputs))]
    shape = s.shape(tensor)
    if tensor in s.anatomy.floats:
        factors = np.ones(shape, np.float32)
        factors[s.tile(shape)] = 1.5
        s.multiply(tensor, factors)
    else:
        steps = np.zeros(shape, np.int64)
        steps[s.tile(shape)] = 1
        name = s.constant(steps)
        s.after(tensor, lambda old, new: [helper.make_node("Add", [old, name], [new], name="mutant_add")])
    return tensor


def _last_element(s: Surgery) -> str | None:
    found = [o.name for o in s.model.graph.output if o.name in s.anatomy.floats and size(s.shape(o.name)) > 1]
    if not found:
        return None
    factors = np.ones(s.shape(found[-1]), np.float32)
    factors[(-1,) * factors.ndim] = 0.9
    s.multiply(found[-1], factors)
    return found[-1]


def _not_a_number(s: Surgery) -> str | None:
    found = [o.name for o in s.model.graph.output if o.name in s.anatomy.floats and s.shape(o.name)]
    if not found:
        return None
    factors = np.ones(s.shape(found[0]), np.float32)
    factors[(0,) * factors.ndim] = np.nan
    s.multiply(found[0], factors)
    return found[0]


def _scaled_output(s: Surgery) -> str | None:
    found = [o.name for o in s.model.graph.output if o.name in s.anatomy.floats]
    if not found:
        return None
    s.multiply(found[-1], np.asarray(1.01, np.float32))
    return found[-1]


def _wider_output(s: Surgery) -> str | None:
    output = s.model.graph.output[-1]
    kind, wide = output.type.tensor_type.elem_type, onnx.TensorProto.DOUBLE
    other = wide if kind == onnx.TensorProto.FLOAT else onnx.TensorProto.INT32
    s.after(output.name, lambda old, new: [helper.make_node("Cast", [old], [new], name="mutant_cast", to=other)])
    output.type.tensor_type.elem_type = other
    return str(output.name)


def _residual_lost(s: Surgery) -> str | None:
    def sums(node: onnx.NodeProto) -> bool:
        shapes = [s.shape(name) for name in node.input]
        return (
            len(shapes) == 2 and shapes[0] == shapes[1] and not any(s.weight(name) is not None for name in node.input)
        )

    node = s.find("Add", "Sum", where=sums)
    if node is None:
        return None
    s.become(node, "Identity", [node.input[int(s.rng.integers(2))]])
    return str(node.name or node.output[0])


def _swapped_operands(s: Surgery) -> str | None:
    node = s.find("Sub", "Div")
    if node is None:
        return None
    s.become(node, node.op_type, list(node.input)[::-1])
    return str(node.name or node.output[0])


def _padding_off(s: Surgery) -> str | None:
    node = s.find("Conv", "MaxPool", "AveragePool", where=lambda n: all(p > 0 for p in attribute(n, "pads", [0])))
    if node is None:
        return None
    pads = [int(p) for p in attribute(node, "pads")]
    half = len(pads) // 2
    set_attribute(node, "pads", [p - 1 for p in pads[:half]] + [p + 1 for p in pads[half:]])
    return str(node.name or node.output[0])


def _padding_lost(s: Surgery) -> str | None:
    """Zeros around an image taken for its edge: what a border that is not looked at gives."""
    node = s.find("Conv", where=lambda n: all(p > 0 for p in attribute(n, "pads", [0])))
    if node is None or s.anatomy.opset < 11:
        return None
    pads = [int(p) for p in attribute(node, "pads")]
    half = len(pads) // 2
    wide = s.constant(np.asarray([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64))
    padded = f"{node.output[0]}__padded"
    place = s.nodes.index(node)
    made = helper.make_node("Pad", [node.input[0], wide], [padded], name="mutant_pad", mode="edge")
    set_attribute(node, "pads", [0] * len(pads))
    node.input[0] = padded
    s.model.graph.node.insert(place, made)
    return str(node.name or node.output[0])


def _epsilon(s: Surgery) -> str | None:
    node = s.find(*_NORMS)
    if node is None:
        return None
    set_attribute(node, "epsilon", 0.1)
    return str(node.name or node.output[0])


def _norm_off(s: Surgery) -> str | None:
    node = s.find(*_NORMS, where=lambda n: s.weight(n.input[1]) is not None)
    if node is None:
        return None
    values = s.weight(node.input[1])
    assert values is not None
    s.set_weight(node.input[1], np.roll(values, 1))
    return str(node.name or node.output[0])


def _activation_lost(s: Surgery) -> str | None:
    node = s.find(*_ACTIVATIONS)
    if node is None:
        return None
    s.become(node, "Identity", [node.input[0]])
    return str(node.name or node.output[0])


def _leaky(s: Surgery) -> str | None:
    node = s.find("Relu")
    if node is None:
        return None
    s.become(node, "LeakyRelu", [node.input[0]], alpha=0.05)
    return str(node.name or node.output[0])


def _stride_off(s: Surgery) -> str | None:
    """A convolution of stride 2 that steps by 1: it computes a corner of its map at twice the resolution."""
    node = s.find("Conv", "MaxPool", where=lambda n: max(attribute(n, "strides", [1])) > 1 and len(n.output) == 1)
    shape = s.shape(node.output[0]) if node is not None else ()
    if node is None or s.anatomy.opset < 10 or not shape or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    rank = len(shape) - 2
    set_attribute(node, "strides", [1] * rank)
    zeros, ends, axes = ([0] * rank, list(shape[2:]), list(range(2, len(shape))))
    names = [s.constant(np.asarray(values, np.int64)) for values in (zeros, ends, axes)]
    s.after(node.output[0], lambda old, new: [helper.make_node("Slice", [old, *names], [new], name="mutant_slice")])
    return str(node.name or node.output[0])


def _dilation_lost(s: Surgery) -> str | None:
    node = s.find("Conv", where=lambda n: max(attribute(n, "dilations", [1])) > 1)
    weight = s.weight(node.input[1]) if node is not None else None
    if node is None or weight is None:
        return None
    rank = weight.ndim - 2
    steps, pads = spatial(node, "dilations", rank, 1), spatial(node, "pads", 2 * rank, 0)
    less = [(k - 1) * (d - 1) // 2 for k, d in zip(weight.shape[2:], steps, strict=True)] * 2
    set_attribute(node, "dilations", [1] * rank)
    set_attribute(node, "pads", [max(0, p - by) for p, by in zip(pads, less, strict=True)])
    return str(node.name or node.output[0])


def _other_pooling(s: Surgery) -> str | None:
    node = s.find("MaxPool", "AveragePool", where=lambda n: len(n.output) == 1)
    if node is None:
        return None
    node.op_type = "AveragePool" if node.op_type == "MaxPool" else "MaxPool"
    kept = [a for a in node.attribute if a.name not in ("count_include_pad", "dilations", "storage_order")]
    del node.attribute[:]
    node.attribute.extend(kept)
    return str(node.name or node.output[0])


def _counted_padding(s: Surgery) -> str | None:
    node = s.find("AveragePool", where=lambda n: any(attribute(n, "pads", [0])))
    if node is None:
        return None
    set_attribute(node, "count_include_pad", 1 - int(attribute(node, "count_include_pad", 0)))
    return str(node.name or node.output[0])


def _softmax_axis(s: Surgery) -> str | None:
    node = s.find("Softmax", "LogSoftmax", "ArgMax")
    shape = s.shape(node.input[0]) if node is not None else ()
    if node is None or s.anatomy.opset < 13 or node.op_type == "ArgMax":
        return None
    now = int(attribute(node, "axis", -1)) % len(shape)
    others = [axis for axis, extent in enumerate(shape) if axis != now and extent > 1]
    if not others:
        return None
    set_attribute(node, "axis", others[-1])
    return str(node.name or node.output[0])


def _joined_swapped(s: Surgery) -> str | None:
    node = s.find("Concat", where=lambda n: len(n.input) > 1)
    if node is None:
        return None
    s.become(node, "Concat", list(node.input)[::-1], axis=int(attribute(node, "axis")))
    return str(node.name or node.output[0])


def _layout_mixed(s: Surgery) -> str | None:
    """Channels last taken for channels first."""
    found = [t for t in _tensors(s, *_CONTRACTIONS) if len(s.shape(t)) >= 3 and sum(e > 1 for e in s.shape(t)) > 1]
    if not found:
        return None
    tensor = found[s.rng.integers(len(found))]
    shape = s.shape(tensor)
    perm = [0, *range(2, len(shape)), 1]
    name = s.constant(np.asarray(shape, np.int64))

    def make(old: str, new: str) -> list[onnx.NodeProto]:
        turned = helper.make_node("Transpose", [old], [f"{new}__turned"], name="mutant_turn", perm=perm)
        return [turned, helper.make_node("Reshape", [f"{new}__turned", name], [new], name="mutant_shape")]

    s.after(tensor, make)
    return tensor


def _index_off(s: Surgery) -> str | None:
    node = s.find("Gather", where=lambda n: (w := s.weight(n.input[0])) is not None and w.dtype == np.float32)
    table = s.weight(node.input[0]) if node is not None else None
    if node is None or table is None:
        return None
    s.set_weight(node.input[0], np.roll(table, 1, int(attribute(node, "axis", 0))))
    return str(node.name or node.output[0])


def _constant_off(s: Surgery) -> str | None:
    def scalar(node: onnx.NodeProto) -> str | None:
        return next(
            (n for n in node.input if (w := s.weight(n)) is not None and w.size == 1 and w.dtype == np.float32), None
        )

    node = s.find("Mul", "Div", "Add", "Sub", where=lambda n: scalar(n) is not None)
    name = scalar(node) if node is not None else None
    values = s.weight(name) if name is not None else None
    if node is None or name is None or values is None:
        return None
    s.set_weight(name, values * np.float32(1.1))
    return str(node.name or node.output[0])


def _input_ignored(s: Surgery) -> str | None:
    """An answer that does not depend on one of the inputs: it was kept from an earlier call."""
    inputs = [i for i in s.model.graph.input if i.name in s.anatomy.shapes]
    chosen = inputs[s.rng.integers(len(inputs))]
    shape = s.shape(chosen.name)
    floats = chosen.name in s.anatomy.floats
    kept = s.rng.standard_normal(shape).astype(np.float32) if floats else np.ones(shape, np.int64)
    name = s.constant(kept)
    for node in s.model.graph.node:
        node.input[:] = [name if read == chosen.name else read for read in node.input]
    return str(chosen.name)


def _resized_otherwise(s: Surgery) -> str | None:
    node = s.find("Resize", "DepthToSpace")
    if node is None:
        return None
    if node.op_type == "Resize":
        set_attribute(node, "nearest_mode", "ceil")
    else:
        set_attribute(node, "mode", "DCR" if attribute(node, "mode", b"DCR") == b"CRD" else "CRD")
    return str(node.name or node.output[0])


def _least_for_most(s: Surgery) -> str | None:
    node = s.find("ArgMax", "ReduceMax", "Max")
    if node is None:
        return None
    node.op_type = {"ArgMax": "ArgMin", "ReduceMax": "ReduceMin", "Max": "Min"}[node.op_type]
    return str(node.name or node.output[0])


#: Mutators by the name of the mistake.
MUTATORS: dict[str, Mutator] = {
    "negated weights": _of_weight(_negated),
    "transposed weights": _of_weight(_transposed),
    "output channels off by one": _of_weight(_output_off),
    "input channels off by one": _of_weight(_input_off),
    "a channel lost": _of_weight(_channel_lost),
    "groups off by one": _of_weight(_group_off),
    "bias of another channel": _bias_off,
    "bias lost": _bias_lost,
    "one wrong tile": _wrong_tile,
    "one wrong tile of an output": _wrong_output_tile,
    "last element 10 % off": _last_element,
    "one NaN": _not_a_number,
    "output 1 % off": _scaled_output,
    "another dtype": _wider_output,
    "residual lost": _residual_lost,
    "operands swapped": _swapped_operands,
    "padding off by one": _padding_off,
    "edges for zeros": _padding_lost,
    "epsilon of 0.1": _epsilon,
    "scale of another channel": _norm_off,
    "activation lost": _activation_lost,
    "leaky activation": _leaky,
    "stride off by one": _stride_off,
    "dilation lost": _dilation_lost,
    "the other pooling": _other_pooling,
    "padding counted": _counted_padding,
    "softmax along another axis": _softmax_axis,
    "concatenation in another order": _joined_swapped,
    "channels last for channels first": _layout_mixed,
    "index off by one": _index_off,
    "constant 10 % off": _constant_off,
    "input ignored": _input_ignored,
    "pixels in another order": _resized_otherwise,
    "least for most": _least_for_most,
}
