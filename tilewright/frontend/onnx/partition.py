"""Divides a graph into operators that are compiled and *segments* that ONNX Runtime runs.

A segment holds operators that have no converter, or whose results have shapes that depend on values. All its operators
run one after the other, with no compiled operator between them. There are as few segments as the order of the operators
allows. Each operator has a *level*: the largest number of changes between compiled and not compiled operators on a path
that leads to it. The operators of one odd level are one segment.

Only tensors of numbers with fixed shapes cross a segment's border, so that their places in memory are known before the
network runs. If anything else would cross from one segment to another, the compiled operators in between join them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import helper

from tilewright.frontend.onnx.conditions import explain_condition
from tilewright.frontend.onnx.data import copy_without_weights
from tilewright.frontend.onnx.values import COMPUTED, FixedTensor, find_fixed, infer_types, read_names

__all__ = ["HEAVY", "SEGMENT", "SEGMENT_DOMAIN", "Partition", "Segment", "divide"]

#: The operator that represents a segment in the compiled graph, and its domain.
SEGMENT, SEGMENT_DOMAIN = "Segment", "tilewright"
#: Operators whose work takes longer than changing from ONNX Runtime to kernels and back.
HEAVY = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulNBits", "LSTM", "GRU", "RNN", "Einsum", "Attention"}
)
#: A group of compiled operators joins the segment next to it if its results have fewer elements together: a choice.
_FEW = 1 << 14


@dataclass(frozen=True)
class Segment:
    """Operators that ONNX Runtime runs, as a model of their own.

    Attributes:
        model: the operators.
        inputs: the names of its inputs that are tensors of numbers with fixed shapes.
        outputs: the names of its outputs that are such tensors.
        given: the names of its other inputs: texts, sequences and tensors of open shape. They are the network's inputs.
        returned: the names of its other outputs. They are the network's outputs.
        tensors: the shapes and element types of ``inputs`` and ``outputs``, by name.
        reasons: why operators are in it, each as ``operator (node): reason``.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    given: tuple[str, ...]
    returned: tuple[str, ...]
    tensors: Mapping[str, FixedTensor] = field(repr=False)
    reasons: tuple[str, ...] = ()

    @property
    def signals(self) -> bool:
        """Whether its call has a tensor of one byte as a further output.

        Without that tensor, nothing in the compiled graph would depend on the call, so it would be removed.
        """
        return not self.outputs or bool(self.returned)

    @property
    def operators(self) -> tuple[str, ...]:
        """The types of its operators, each once."""
        return tuple(dict.fromkeys(node.op_type for node in self.model.graph.node))


@dataclass(frozen=True)
class Partition:
    """A graph that was divided.

    Attributes:
        compiled: the graph whose operators are compiled; a node ``Segment`` represents each segment.
        segments: the segments in the order in which they run. The attribute ``number`` of a ``Segment`` is its index.
        order: for each node of ``compiled``, its number in the graph that was divided; -1 for a segment.
        types: the types of the tensors by name, as far as they are known.
        reasons: why nodes of the graph that was divided are not compiled, by their numbers.
    """

    compiled: onnx.ModelProto
    segments: tuple[Segment, ...]
    order: tuple[int, ...]
    types: Mapping[str, onnx.TypeProto] = field(repr=False, default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)


def divide(model: onnx.ModelProto, foreign: Mapping[int, str]) -> Partition:
    """Divide a model.

    Args:
        model: the model, with fixed input shapes where they are known, in the order of computation.
        foreign: why an operator cannot be compiled, by the number of its node. Further operators cannot be compiled
            either: those with an input or an output that is no tensor of numbers with a fixed shape.
    """
    graph = _Graph(model, infer_types(model))
    reasons = dict(foreign)
    for number, node in enumerate(model.graph.node):
        why = graph.find_obstacle(node)
        if why:
            reasons.setdefault(number, why)
        if number in reasons:
            reasons[number] = explain_condition(model.graph, node) or reasons[number]
    passing = any(v.name not in graph.weights and graph.fixed(v.name) is None for v in model.graph.input)
    if not reasons and not passing:
        return Partition(model, (), tuple(range(len(model.graph.node))), graph.types)
    levels = graph.settle(set(reasons))
    return _write(graph, levels, reasons)


class _Graph:
    """The nodes of a graph, the nodes that compute and read each tensor, and the types of tensors."""

    def __init__(self, model: onnx.ModelProto, types: Mapping[str, onnx.TypeProto]) -> None:
        self.model, self.types = model, types
        self.nodes: Sequence[onnx.NodeProto] = model.graph.node
        self.reads = [list(dict.fromkeys(read_names(node))) for node in self.nodes]
        self.makers = {name: number for number, node in enumerate(self.nodes) for name in node.output if name}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.sparse = {tensor.values.name for tensor in model.graph.sparse_initializer}
        self.before = [[self.makers[name] for name in names if name in self.makers] for names in self.reads]

    def fixed(self, name: str) -> FixedTensor | None:
        """The tensor of that name, if kernels can compute with it."""
        found = find_fixed(self.types.get(name))
        return found if found is not None and found.elem_type in COMPUTED else None

    def find_obstacle(self, node: onnx.NodeProto) -> str:
        """Why a node's inputs or outputs prevent its compilation; empty if they do not."""
        for name in filter(None, node.output):
            if self.fixed(name) is None:
                return f"its result {name!r} is {_describe(self.types.get(name))}"
        for name in filter(None, node.input):
            if name in self.sparse or self.fixed(name) is None:
                return f"its input {name!r} is {_describe(self.types.get(name))}"
        return ""

    def settle(self, foreign: set[int]) -> list[int]:
        """Add all further nodes to ``foreign`` that must be in a segment. Returns the level of each node."""
        while True:
            levels = self._levels(foreign)
            more = self._between(foreign, levels) or self._islands(foreign, levels)
            if not more:
                return levels
            foreign |= more

    def _levels(self, foreign: set[int]) -> list[int]:
        levels: list[int] = []
        for number in range(len(self.nodes)):
            odd = number in foreign
            level = 1 if odd else 0
            for other in self.before[number]:
                level = max(level, levels[other] + (odd != (other in foreign)))
            levels.append(level)
        return levels

    def _between(self, foreign: set[int], levels: Sequence[int]) -> set[int]:
        """Compiled nodes between two segments that exchange something other than a tensor of fixed shape."""
        found: set[int] = set()
        for number in sorted(foreign):
            for name in self.reads[number]:
                maker = self.makers.get(name)
                if maker is None or levels[maker] == levels[number] or self.fixed(name) is not None:
                    continue
                found |= {n for n in self._ancestors(number) if levels[n] > levels[maker] and n not in foreign}
        return found

    def _ancestors(self, number: int) -> set[int]:
        found: set[int] = set()
        waiting = list(self.before[number])
        while waiting:
            other = waiting.pop()
            if other not in found:
                found.add(other)
                waiting += self.before[other]
        return found

    def _islands(self, foreign: set[int], levels: Sequence[int]) -> set[int]:
        """A small group of compiled nodes next to a segment, whose work is less than a change to kernels and back."""
        neighbours: dict[int, set[int]] = {number: set() for number in range(len(self.nodes))}
        for number, others in enumerate(self.before):
            for other in others:
                neighbours[number].add(other)
                neighbours[other].add(number)
        seen: set[int] = set()
        for start in range(len(self.nodes)):
            if start in foreign or start in seen:
                continue
            group, waiting, touches = [], [start], False
            seen.add(start)
            while waiting:
                number = waiting.pop()
                group.append(number)
                for other in neighbours[number]:
                    touches |= other in foreign
                    if other not in foreign and other not in seen:
                        seen.add(other)
                        waiting.append(other)
            if touches and not any(self._is_heavy(number) for number in group):
                elements = sum(self._size(name) for number in group for name in self.nodes[number].output if name)
                if elements < _FEW:
                    return set(group)
        return set()

    def _is_heavy(self, number: int) -> bool:
        return self.nodes[number].op_type in HEAVY

    def _size(self, name: str) -> int:
        fixed = self.fixed(name)
        return fixed.size if fixed is not None else 0


def _describe(kind: onnx.TypeProto | None) -> str:
    """A value that kernels cannot compute with, in words for the report."""
    which = None if kind is None else kind.WhichOneof("value")
    if which != "tensor_type" or kind is None:
        names = {"sequence_type": "a sequence", "optional_type": "an optional value", "map_type": "a map"}
        return names.get(which or "", "of an unknown type")
    elem = kind.tensor_type.elem_type
    if elem == onnx.TensorProto.STRING:
        return "a tensor of texts"
    if elem and elem not in COMPUTED:
        return f"a tensor of {onnx.TensorProto.DataType.Name(elem).lower()}"
    return "a tensor whose shape is decided while it runs"


def _write(graph: _Graph, levels: Sequence[int], reasons: Mapping[int, str]) -> Partition:
    """Write the compiled graph and the segments."""
    model = graph.model
    outputs = [value.name for value in model.graph.output]
    given = {v.name for v in model.graph.input if v.name not in graph.weights and graph.fixed(v.name) is None}
    odd = sorted({level for level in levels if level % 2})
    segments = []
    for level in odd:
        numbers = [n for n, have in enumerate(levels) if have == level]
        segments.append(_cut(graph, numbers, outputs, given, reasons))
    made = copy_without_weights(model)
    del made.graph.node[:]
    del made.graph.value_info[:]
    order: list[int] = []
    for level in range(max(levels, default=-1) + 1):
        if level % 2:
            if level in odd:
                made.graph.node.append(_stand_in(segments[odd.index(level)], odd.index(level)))
                order.append(-1)
            continue
        for number, have in enumerate(levels):
            if have == level:
                made.graph.node.append(graph.nodes[number])
                order.append(number)
    _keep_ends(made, graph, segments, given)
    return Partition(made, tuple(segments), tuple(order), graph.types, reasons)


def _cut(
    graph: _Graph, numbers: Sequence[int], outputs: Sequence[str], given: set[str], reasons: Mapping[int, str]
) -> Segment:
    """The segment of some nodes."""
    model, inside = graph.model, set(numbers)
    made = {name for n in numbers for name in graph.nodes[n].output if name}
    read = list(dict.fromkeys(name for n in numbers for name in graph.reads[n] if name not in made))
    elsewhere = {name for n, names in enumerate(graph.reads) if n not in inside for name in names} | set(outputs)
    leaving = [name for n in numbers for name in graph.nodes[n].output if name and name in elsewhere]
    taken = [name for name in read if name not in graph.weights and name not in graph.sparse]
    tensors = {name: fixed for name in (*taken, *leaving) if (fixed := graph.fixed(name)) is not None}
    part = onnx.ModelProto(ir_version=max(4, model.ir_version), producer_name="tilewright")
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = "segment"
    part.graph.node.extend(graph.nodes[n] for n in numbers)
    part.graph.initializer.extend(graph.weights[name] for name in read if name in graph.weights)
    part.graph.sparse_initializer.extend(s for s in model.graph.sparse_initializer if s.values.name in read)
    for names, values in ((taken, part.graph.input), (leaving, part.graph.output)):
        for name in names:
            kind = graph.types.get(name)
            values.append(helper.make_value_info(name, kind) if kind is not None else onnx.ValueInfoProto(name=name))
    said = [f"{_call(graph.nodes[n])}: {reasons[n]}" for n in numbers if n in reasons]
    return Segment(
        part,
        tuple(name for name in taken if name in tensors and name not in given),
        tuple(name for name in leaving if name in tensors),
        tuple(name for name in taken if name in given),
        tuple(name for name in leaving if name not in tensors),
        tensors,
        tuple(said),
    )


def _call(node: onnx.NodeProto) -> str:
    name = node.name or next(iter(filter(None, node.output)), "")
    return f"{node.op_type} ({name})" if name else node.op_type


def _stand_in(segment: Segment, number: int) -> onnx.NodeProto:
    """The node that represents a segment in the compiled graph."""
    outputs = (*segment.outputs, *([signal_name(number)] if segment.signals else []))
    return helper.make_node(
        SEGMENT, list(segment.inputs), list(outputs), name=f"segment{number}", domain=SEGMENT_DOMAIN, number=number
    )


def signal_name(number: int) -> str:
    """The name of the tensor of one byte that is an output of a segment only to keep its call."""
    return f"tilewright_segment{number}_done"


def _keep_ends(made: onnx.ModelProto, graph: _Graph, segments: Sequence[Segment], given: set[str]) -> None:
    """Give the compiled graph its inputs, outputs and weights."""
    read = {name for node in made.graph.node for name in read_names(node)}
    outputs = {value.name for value in made.graph.output}
    made.graph.initializer.extend(t for name, t in graph.weights.items() if name in read or name in outputs)
    inputs = [value for value in made.graph.input if value.name not in given]
    del made.graph.input[:]
    made.graph.input.extend(inputs)
    returned = {name for segment in segments for name in segment.returned}
    passed = {value.name for value in made.graph.output if value.name in given}  # an input that is an output
    kept = [value for value in made.graph.output if value.name not in returned | passed]
    del made.graph.output[:]
    made.graph.output.extend(kept)
    for number, segment in enumerate(segments):
        if segment.signals:
            signal = helper.make_tensor_value_info(signal_name(number), onnx.TensorProto.UINT8, [1])
            made.graph.output.append(signal)
