"""Mistakes that a compiler could make: each mutator changes an ONNX model in one place.

A mutator takes a :class:`bench._surgery.Surgery` and returns the place of its change, or None if the model has no place
for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from bench._surgery import CONTRACTIONS, NORMS, Anatomy, Mutator, Surgery, attribute, set_attribute, size, spatial
from bench._weight_mutators import WEIGHT_MUTATORS

__all__ = ["MUTATORS", "Mutant", "mutants"]

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


def mutants(model: onnx.ModelProto, seed: int = 0, kinds: Collection[str] = ()) -> Iterator[Mutant]:
    """One mutant of each kind that is possible for ``model``, at a place drawn by chance.

    Args:
        model: the original.
        seed: of the places.
        kinds: of mistakes; all without them.
    """
    anatomy = Anatomy(model)
    for number, (kind, mutate) in enumerate(MUTATORS.items()):
        if kinds and kind not in kinds:
            continue
        surgery = Surgery(model, anatomy, (seed, number))
        site = mutate(surgery)
        if site is not None:
            yield Mutant(kind, site, surgery.model)


def _tensors(s: Surgery, *kinds: str) -> list[str]:
    """Tensors of floats of a known, moderate size that operators of these kinds make."""
    made = [str(node.output[0]) for node in s.nodes if node.op_type in kinds]
    return [t for t in made if t in s.anatomy.floats and 1 < size(s.shape(t)) <= _MOST_ELEMENTS]


def _wrong_tile(s: Surgery) -> str | None:
    found = _tensors(s, *CONTRACTIONS)
    if not found:
        return None
    tensor = found[s.rng.integers(len(found))]
    factors = np.ones(s.shape(tensor), np.float32)
    factors[s.tile(factors.shape)] = 0
    s.multiply(tensor, factors)
    return tensor


def _wrong_output_tile(s: Surgery) -> str | None:
    outputs = [str(o.name) for o in s.model.graph.output]
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
    found = [str(o.name) for o in s.model.graph.output if o.name in s.anatomy.floats and size(s.shape(o.name)) > 1]
    if not found:
        return None
    factors = np.ones(s.shape(found[-1]), np.float32)
    factors[(-1,) * factors.ndim] = 0.9
    s.multiply(found[-1], factors)
    return found[-1]


def _not_a_number(s: Surgery) -> str | None:
    found = [str(o.name) for o in s.model.graph.output if o.name in s.anatomy.floats and s.shape(o.name)]
    if not found:
        return None
    factors = np.ones(s.shape(found[0]), np.float32)
    factors[(0,) * factors.ndim] = np.nan
    s.multiply(found[0], factors)
    return found[0]


def _scaled_output(s: Surgery) -> str | None:
    found = [str(o.name) for o in s.model.graph.output if o.name in s.anatomy.floats]
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
    node = s.find(*NORMS)
    if node is None:
        return None
    set_attribute(node, "epsilon", 0.1)
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
    found = [t for t in _tensors(s, *CONTRACTIONS) if len(s.shape(t)) >= 3 and sum(e > 1 for e in s.shape(t)) > 1]
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


def _input_ignored(s: Surgery) -> str | None:
    """An answer that does not depend on one of the inputs: it was kept from an earlier call."""
    read = {name for node in s.nodes for name in node.input}
    inputs = [i for i in s.model.graph.input if i.name in read and s.weight(i.name) is None]
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
    **WEIGHT_MUTATORS,
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
    "activation lost": _activation_lost,
    "leaky activation": _leaky,
    "stride off by one": _stride_off,
    "dilation lost": _dilation_lost,
    "the other pooling": _other_pooling,
    "padding counted": _counted_padding,
    "softmax along another axis": _softmax_axis,
    "concatenation in another order": _joined_swapped,
    "channels last for channels first": _layout_mixed,
    "input ignored": _input_ignored,
    "pixels in another order": _resized_otherwise,
    "least for most": _least_for_most,
}
