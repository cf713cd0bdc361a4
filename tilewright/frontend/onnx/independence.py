"""Proves that a model computes each element along a dimension independently, so that inputs may be padded along it.

A proof is about one dimension, which is called *watched*. For each tensor of the graph, one of these must hold:

- It does not depend on the watched inputs.
- Exactly one of its axes has the watched extent. Along this axis, element ``i`` depends only on the elements ``i`` of
  the watched inputs.
- It is a shape that was computed from such tensors.

``independence_rules`` and ``independence_shapes`` have a rule for each operator, which holds for any extent. If an
operator has no rule, or its rule does not apply, there is no proof, and nothing is padded.

The proof uses the model before shapes are folded into constants. Otherwise it would not notice constants that depend on
the extent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import helper

from tilewright.frontend.network import PaddedAxes
from tilewright.frontend.onnx.independence_nodes import Extent, Node, Tensor, Unproven, read_tensor
from tilewright.frontend.onnx.independence_rules import RULES
from tilewright.frontend.onnx.values import DOMAINS, find_fixed, infer_types, read_names
from tilewright.frontend.shapes import Declared, Shapes

__all__ = ["find_paddings", "prove_independence"]

#: Operators whose results are computed, if their inputs are known small vectors of integers.
_FOLLOWED = frozenset(
    ["Shape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Cast", "Slice", "Identity", "Add", "Sub", "Mul", "Div"]
)
#: The most repetitions of shape inference, each with more constants.
_MOST_INFERENCES = 4


def find_paddings(
    model: onnx.ModelProto, declared: Declared, buckets: Sequence[Shapes]
) -> tuple[tuple[PaddedAxes, ...], ...]:
    """For each bucket, the axes along which smaller inputs may be padded to it.

    Args:
        model: the model.
        declared: the dimensions of its inputs that the model declares.
        buckets: the shapes of the inputs.
    """
    found = []
    for bucket in buckets:
        proofs: list[PaddedAxes] = []
        types = infer_types(_with_shapes(model, bucket))
        for axes in _list_groups(declared):
            proof = prove_independence(model, bucket, axes, types)
            if proof is not None and not any(set(axes) & set(other.inputs) for other in proofs):
                proofs.append(proof)
        found.append(tuple(proofs))
    return tuple(found)


def _list_groups(declared: Declared) -> Iterator[dict[str, int]]:
    """Groups of axes that might be the same dimension, with at most one axis of each input. Likely groups come first.

    Axes with the same name are a group. Those first axes of inputs that have no name are a group, and so is each alone.
    """
    named: dict[str, dict[str, int]] = {}
    twice: set[str] = set()  # an input that has a dimension twice cannot be padded along one axis
    nameless: dict[str, int] = {}
    for name, dimensions in declared.items():
        for axis, dimension in enumerate(dimensions or ()):
            if isinstance(dimension, int) and dimension:
                continue
            if dimension and name in named.get(dimension, {}):
                twice.add(dimension)
            elif dimension:
                named.setdefault(dimension, {})[name] = axis
            elif axis == 0:
                nameless[name] = axis
    yield from (axes for dimension, axes in named.items() if dimension not in twice)
    if nameless:
        yield nameless
    if len(nameless) > 1:
        yield from ({name: axis} for name, axis in nameless.items())


def prove_independence(
    model: onnx.ModelProto, shapes: Shapes, axes: Mapping[str, int], types: Mapping[str, onnx.TypeProto] | None = None
) -> PaddedAxes | None:
    """The axes along which a model computes each element independently; None if that is not proven.

    Args:
        model: the model. Weights may be in other files.
        shapes: the shapes of its inputs in all other dimensions.
        axes: the watched axis of each input that has it, by the input's name.
        types: the types of all tensors with these shapes; None: they are inferred.
    """
    try:
        types = infer_types(_with_shapes(model, shapes)) if types is None else types
        known = _Proof(model, shapes, axes, types).run()
    except (
        Unproven,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
    ):  # all but the first: invalid operators
        return None
    outputs: dict[str, int] = {}
    for value in model.graph.output:
        tensor = known.get(value.name)
        if tensor is None or (tensor.is_watched and tensor.axis is None):
            return None
        if tensor.axis is not None:
            outputs[value.name] = tensor.axis
    return PaddedAxes(dict(axes), outputs)


class _Proof:
    """Applies the rules to all nodes of a graph, in the order of computation.

    Args:
        model: the model.
        shapes: the shapes of its inputs.
        axes: the watched axes.
        types: the types of all tensors.
    """

    def __init__(
        self, model: onnx.ModelProto, shapes: Shapes, axes: Mapping[str, int], types: Mapping[str, onnx.TypeProto]
    ) -> None:
        self._model, self._shapes, self._graph = model, shapes, model.graph
        self._constants = self._inferences = 0
        self._opset = next((o.version for o in model.opset_import if o.domain in DOMAINS), 1)
        self._types = types
        self.known: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            self.known[tensor.name] = read_tensor(tensor)
        for value in model.graph.input:
            if value.name in self.known:
                continue
            shape, axis = shapes.get(value.name), axes.get(value.name)
            if shape is None:
                raise Unproven
            self.known[value.name] = Tensor(_watch(shape, axis), axis)

    def run(self) -> dict[str, Tensor]:
        """All tensors. Raises ``Unproven`` if the graph mixes elements along the watched axes, or might."""
        for node in self._graph.node:
            self._visit(node)
        return self.known

    def _visit(self, node: onnx.NodeProto) -> None:
        names = list(read_names(node))
        if any(name not in self.known for name in names):
            raise Unproven
        if node.op_type == "Constant" and node.domain in DOMAINS:
            self.known[node.output[0]] = self._read_constant(node)
            return
        inputs = [self.known[name] if name else None for name in node.input]
        watched = [self.known[name] for name in names if self.known[name].is_watched]
        rule = RULES.get(node.op_type) if node.domain in DOMAINS else None
        if not watched:
            made = self._free(node, inputs)
        elif rule is None or len(names) > len([name for name in node.input if name]):
            raise Unproven  # an inner graph of the node reads a watched tensor
        else:
            made = rule(Node(node, inputs, self._opset, self._shape_of))
        for name, tensor in zip(node.output, made, strict=False):
            if name:
                self.known[name] = tensor
        if any(name and name not in self.known for name in node.output):
            raise Unproven

    def _read_constant(self, node: onnx.NodeProto) -> Tensor:
        for attribute in node.attribute:
            if attribute.name == "value":
                return read_tensor(attribute.t)
            if attribute.name == "value_int":
                return Tensor((), None, (int(attribute.i),))
            if attribute.name == "value_ints":
                return Tensor((len(attribute.ints),), None, tuple(map(int, attribute.ints)))
        return Tensor(self._shape_of(node.output[0]))

    def _free(self, node: onnx.NodeProto, inputs: Sequence[Tensor | None]) -> list[Tensor]:
        """The results of a node without watched inputs. Their shapes are inferred."""
        rule = RULES.get(node.op_type) if node.domain in DOMAINS else None
        if rule is not None and node.op_type in _FOLLOWED:
            try:  # the values of small shapes are computed
                made = rule(Node(node, list(inputs), self._opset, self._shape_of))
                if all(tensor.extents is not None for tensor in made):
                    return made
            except Unproven:
                pass
        return [Tensor(self._shape_of(name)) for name in node.output]

    def _shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor with the given shapes of inputs; None if it is not known."""
        fixed = find_fixed(self._types.get(name))
        constants = sum(map(_is_constant, self.known.values()))
        if fixed is None and constants > self._constants and self._inferences < _MOST_INFERENCES:
            self._constants, self._inferences = constants, self._inferences + 1
            self._types = infer_types(self._fold())
            fixed = find_fixed(self._types.get(name))
        return None if fixed is None else fixed.shape

    def _fold(self) -> onnx.ModelProto:
        """The model with the integers that were computed as constants, so that more shapes can be inferred."""
        made = _with_shapes(self._model, self._shapes)
        given = {t.name for t in made.graph.initializer} | {value.name for value in made.graph.input}
        found = {name: t for name, t in self.known.items() if _is_constant(t) and name not in given}
        nodes = [node for node in made.graph.node if not all(name in found for name in node.output)]
        del made.graph.node[:]
        made.graph.node.extend(nodes)
        for name, tensor in found.items():
            kind = self._types.get(name, onnx.TypeProto()).tensor_type.elem_type or onnx.TensorProto.INT64
            dims = [extent or 0 for extent in tensor.shape or ()]
            made.graph.initializer.append(helper.make_tensor(name, kind, dims, [e or 0 for e in tensor.extents or ()]))
        return made


def _is_constant(tensor: Tensor) -> bool:
    """Whether a tensor holds integers that are known, and not watched."""
    return tensor.extents is not None and None not in tensor.extents


def _watch(shape: tuple[int, ...], axis: int | None) -> tuple[Extent, ...]:
    """A shape with the watched dimension at ``axis``."""
    return tuple(None if place == axis else extent for place, extent in enumerate(shape))


def _with_shapes(model: onnx.ModelProto, shapes: Shapes) -> onnx.ModelProto:
    """A copy of a model with the given shapes of inputs, and without any other shapes."""
    from tilewright.frontend.onnx.shapes import set_shapes

    made = onnx.ModelProto()
    made.CopyFrom(model)
    set_shapes(made, shapes)
    del made.graph.value_info[:]
    return made
