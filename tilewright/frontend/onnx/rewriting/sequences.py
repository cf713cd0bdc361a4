"""Rewritings of sequences and optional values whose elements are known before the network runs.

The operators that made a sequence are looked up. An operator that reads one of its elements gets the tensor instead.
Finally, unused operators are removed.
"""

from __future__ import annotations

import numpy as np
import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.values import DOMAINS, read_names

__all__ = ["drop_unused"]

#: The most elements of a sequence into which a tensor is split: a choice.
_MOST_PARTS = 256
#: Operators that only make sequences, optional values, constants or copies. They are removed if they are not used.
_MAKERS = (
    "Constant",
    "Identity",
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SplitToSequence",
)


def _maker(graph: Graph, name: str) -> onnx.NodeProto | None:
    """The node of the new graph that computes a value; for a copy, the node of the original."""
    for node in reversed(graph.nodes):
        if name in node.output:
            while node.op_type == "Identity":
                return _maker(graph, node.input[0])
            return node
    return None


def _elements(graph: Graph, name: str) -> list[str] | None:
    """The tensors of a sequence; None if they are not known."""
    node = _maker(graph, name)
    if node is None or node.domain not in DOMAINS:
        return None
    if node.op_type == "SequenceConstruct":
        return list(node.input)
    if node.op_type == "SequenceEmpty":
        return []
    if node.op_type in ("Optional", "OptionalGetElement") and node.input:
        return _elements(graph, node.input[0])
    return None


def _place(graph: Graph, name: str, default: int, count: int) -> int | None:
    """A constant position in a sequence, from 0 to ``count``; None if it is computed or outside."""
    if not name:
        return default
    given = graph.ints(name)
    if given is None or len(given) != 1:
        return None
    place = given[0] + count if given[0] < 0 else given[0]
    return place if 0 <= place <= count else None


@rewriting("SequenceInsert")
def _insert(graph: Graph, node: onnx.NodeProto) -> bool:
    """SequenceInsert(SequenceConstruct(a, b), c, 1) --> SequenceConstruct(a, c, b)."""
    parts = _elements(graph, node.input[0])
    if parts is None:
        return False
    place = _place(graph, node.input[2] if len(node.input) > 2 else "", len(parts), len(parts))
    if place is None:
        return False
    graph.ops("SequenceConstruct", *parts[:place], node.input[1], *parts[place:], outs=node.output)
    return True


@rewriting("SequenceErase")
def _erase(graph: Graph, node: onnx.NodeProto) -> bool:
    """SequenceErase(SequenceConstruct(a, b), 0) --> SequenceConstruct(b)."""
    parts = _elements(graph, node.input[0])
    if not parts or len(parts) < 2:
        return False
    place = _place(graph, node.input[1] if len(node.input) > 1 else "", len(parts) - 1, len(parts))
    if place is None or place == len(parts):
        return False
    graph.ops("SequenceConstruct", *parts[:place], *parts[place + 1 :], outs=node.output)
    return True


@rewriting("SequenceAt")
def _at(graph: Graph, node: onnx.NodeProto) -> bool:
    """SequenceAt(SequenceConstruct(a, b), 1) --> b."""
    parts = _elements(graph, node.input[0])
    place = None if parts is None else _place(graph, node.input[1], 0, len(parts))
    if parts is None or place is None or place >= len(parts):
        return False
    graph.op("Identity", parts[place], out=node.output[0])
    return True


@rewriting("SequenceLength")
def _length(graph: Graph, node: onnx.NodeProto) -> bool:
    """SequenceLength(SequenceConstruct(a, b)) --> 2."""
    parts = _elements(graph, node.input[0])
    if parts is None:
        return False
    graph.op("Identity", np.asarray(len(parts), np.int64), out=node.output[0])
    return True


@rewriting("ConcatFromSequence")
def _concatenate(graph: Graph, node: onnx.NodeProto) -> bool:
    """ConcatFromSequence(SequenceConstruct(a, b)) --> Concat(a, b)."""
    parts = _elements(graph, node.input[0])
    attributes = read_attributes(node)
    axis = attributes.get("axis")
    if not parts or not isinstance(axis, int):
        return False
    if attributes.get("new_axis", 0):
        where = np.asarray([axis], np.int64)
        parts = [graph.op("Unsqueeze", part, where) for part in parts]
    graph.op("Concat", *parts, out=node.output[0], axis=axis)
    return True


@rewriting("SplitToSequence")
def _split(graph: Graph, node: onnx.NodeProto) -> bool:
    """SplitToSequence(x, sizes) --> SequenceConstruct(Split(x, sizes)), if its elements are used."""
    attributes, shape = read_attributes(node), graph.shape(node.input[0])
    axis, kept = attributes.get("axis", 0), attributes.get("keepdims", 1)
    if shape is None or not isinstance(axis, int) or any(v.name == node.output[0] for v in graph.model.graph.output):
        return False
    size = shape[axis % len(shape)]
    sizes, whole = [1] * size, True
    if len(node.input) > 1 and node.input[1]:
        given, values = graph.ints(node.input[1]), graph.array(node.input[1])
        if given is None or values is None:
            return False
        whole = False
        sizes = given
        if values.ndim == 0:
            step = given[0]
            sizes = [min(step, size - begin) for begin in range(0, size, step)]
    if not 1 <= len(sizes) <= _MOST_PARTS:
        return False
    names = [graph.new_name("part") for _ in sizes]
    parts = graph.ops("Split", node.input[0], np.asarray(sizes, np.int64), outs=names, axis=axis)
    if whole and not kept:
        parts = [graph.op("Squeeze", part, np.asarray([axis], np.int64)) for part in parts]
    graph.ops("SequenceConstruct", *parts, outs=node.output)
    return True


@rewriting("OptionalHasElement")
def _has_element(graph: Graph, node: onnx.NodeProto) -> bool:
    """OptionalHasElement(Optional(x)) --> true; without an element --> false."""
    if not node.input or not node.input[0]:
        graph.op("Identity", np.asarray(False), out=node.output[0])
        return True
    maker = _maker(graph, node.input[0])
    kind = graph.type_of(node.input[0]).WhichOneof("value")
    if maker is not None and maker.op_type == "Optional":
        graph.op("Identity", np.asarray(bool(maker.input and maker.input[0])), out=node.output[0])
        return True
    if kind in ("tensor_type", "sequence_type"):
        graph.op("Identity", np.asarray(True), out=node.output[0])
        return True
    return False


@rewriting("OptionalGetElement")
def _get_element(graph: Graph, node: onnx.NodeProto) -> bool:
    """OptionalGetElement(Optional(x)) --> x."""
    maker = _maker(graph, node.input[0])
    kind = graph.type_of(node.input[0]).WhichOneof("value")
    if maker is not None and maker.op_type == "Optional" and maker.input and maker.input[0]:
        graph.op("Identity", maker.input[0], out=node.output[0])
        return True
    if kind in ("tensor_type", "sequence_type"):
        graph.op("Identity", node.input[0], out=node.output[0])
        return True
    return False


def drop_unused(model: onnx.ModelProto) -> bool:
    """Remove unused operators that only make values, in place. Returns whether there were any."""
    dropped = False
    while True:
        read = {name for node in model.graph.node for name in read_names(node)}
        read |= {value.name for value in model.graph.output}
        kept = [
            node
            for node in model.graph.node
            if node.op_type not in _MAKERS or node.domain not in DOMAINS or any(name in read for name in node.output)
        ]
        if len(kept) == len(model.graph.node):
            return dropped
        dropped = True
        made = onnx.GraphProto()
        made.node.extend(kept)
        del model.graph.node[:]
        model.graph.node.extend(made.node)
