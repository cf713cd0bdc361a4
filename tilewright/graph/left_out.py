"""Cuts a network into tasks, and moves operators to segments that TVM imports but cannot cut or compile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import helper

from tilewright.errors import ShapeError, UnsupportedOperatorError
from tilewright.frontend.load import read_model
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.data import copy_without_weights
from tilewright.frontend.onnx.partition import HEAVY, SEGMENT_DOMAIN, Partition
from tilewright.frontend.onnx.values import read_names
from tilewright.graph.tasks import Extraction, extract
from tilewright.target import Target
from tilewright.wording import describe_error

__all__ = ["MOST_DIVISIONS", "extract_all", "find_failing", "leave_out", "leave_out_all"]

#: How often operators move to segments before all of them do: a choice.
MOST_DIVISIONS = 4
#: The fewest operators that can fail only together.
_FEWEST = 2


def extract_all(network: Network, target: Target) -> Extraction:
    """Cut a network into tasks, as :func:`tilewright.graph.tasks.extract` does.

    If that fails, each operator of an ONNX model is tried alone. The operators that fail move to segments, and the rest
    is cut again. If none fails alone, one operator of a group that fails together moves. If that does not help, all
    operators move to one segment. In each case, the ``network`` of the result is another one.

    Args:
        network: the network.
        target: the machine to rewrite it for.

    Raises:
        UnsupportedOperatorError: TVM imports an operator of a network that is no ONNX model, but cannot compile it.
        ShapeError: the values of an input decide the shape of a tensor, in a network that is no ONNX model.
        ResourceError: memory is missing.
    """
    why = "no plan can be made of it, since it calls a library of TVM's"
    try:
        extraction = extract(network, target)
        if extraction.plan is not None or network.partition is None:
            return extraction
    except (UnsupportedOperatorError, ShapeError) as exc:
        if network.partition is None:
            raise
        why = f"the network cannot be compiled ({describe_error(exc.__cause__ or exc)})"
    divided = network
    for _ in range(MOST_DIVISIONS):
        failing = find_failing(divided, lambda part: _try_alone(part, target))
        if not failing:
            break
        divided = leave_out(divided, failing)
        try:
            extraction = extract(divided, target)
            if extraction.plan is not None:
                return extraction
        except (UnsupportedOperatorError, ShapeError) as exc:
            why = f"the network cannot be compiled ({describe_error(exc.__cause__ or exc)})"
    return extract(leave_out_all(network, why), target)


def leave_out(network: Network, more: Mapping[int, str]) -> Network:
    """The network with more operators of its ONNX model in segments.

    Args:
        network: a network that was read from an ONNX model.
        more: for the number of each operator's node, why it moves to a segment.
    """
    assert network.onnx is not None
    assert network.folded is not None
    assert network.partition is not None
    return _divide_again(network, {**network.partition.reasons, **more})


def leave_out_all(network: Network, why: str) -> Network:
    """The network with all operators of its ONNX model in one segment."""
    assert network.onnx is not None
    assert network.folded is not None
    reasons = dict.fromkeys(range(len(network.folded.graph.node)), why)
    return _divide_again(network, reasons)


def _divide_again(network: Network, reasons: Mapping[int, str]) -> Network:
    """The network, divided again: the operators with ``reasons`` are in segments."""
    assert network.onnx is not None
    assert network.folded is not None
    divided = read_model(network.name, network.onnx, network.folded, reasons)
    return dataclasses.replace(divided, signature=network.signature)


def find_failing(network: Network, attempt: Callable[[Network], str]) -> dict[int, str]:
    """Why compiled operators of a network fail alone, by the numbers of their nodes.

    If none fails alone, but several fail together, such as operators that are fused, the result has one of these.

    Args:
        network: a network that was read from an ONNX model.
        attempt: tries a network of some operators. It returns why the network fails; empty if it does not.
    """
    partition = network.partition
    assert partition is not None
    model, types = partition.compiled, partition.types
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    tried: dict[bytes, str] = {}
    found: dict[int, str] = {}
    for place, node in enumerate(model.graph.node):
        if node.domain == SEGMENT_DOMAIN:
            continue
        single = _isolate(model, [place], types, weights)
        key = _signature(single)
        if key not in tried:
            tried[key] = attempt(read_model("part", single, single, {}))
        if tried[key]:
            found[partition.order[place]] = tried[key]
    return found or _find_together(partition, attempt)


def _find_together(partition: Partition, attempt: Callable[[Network], str]) -> dict[int, str]:
    """An operator without which a group of operators no longer fails, by the number of its node; none if none fails.

    Bisection finds the shortest beginning of the graph that fails, and the shortest end of that. If both ends of this
    group may move to a segment, the last operator does, unless it has more work than the first one.
    """
    model, types = partition.compiled, partition.types
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    places = [place for place, node in enumerate(model.graph.node) if node.domain != SEGMENT_DOMAIN]

    def fails(some: Sequence[int]) -> str:
        part = _isolate(model, some, types, weights)
        return attempt(read_model("part", part, part, {}))

    if len(places) < _FEWEST or not fails(places):
        return {}
    low, high = 1, len(places)  # the first ``low`` operators do not fail, but the first ``high`` do
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(places[:middle]) else (middle, high)
    begin, end = 0, high - 1  # from ``begin`` on they fail, but from ``end`` on they do not
    while end - begin > 1:
        middle = (begin + end) // 2
        begin, end = (middle, end) if fails(places[middle:high]) else (begin, middle)
    group = places[begin:high]
    nodes = [model.graph.node[place] for place in group]
    chosen = group[0] if nodes[-1].op_type in HEAVY and nodes[0].op_type not in HEAVY else group[-1]
    names = ", ".join(dict.fromkeys(node.op_type for node in nodes))
    return {partition.order[chosen]: f"it does not compile together with its neighbours {names}: {fails(group)}"}


def _try_alone(part: Network, target: Target) -> str:
    try:
        if extract(part, target).plan is None:
            return "it cannot be compiled without a library of TVM's"
    except (UnsupportedOperatorError, ShapeError) as exc:
        return f"it cannot be compiled ({describe_error(exc.__cause__ or exc)})"
    return ""


def _isolate(
    model: onnx.ModelProto,
    places: Sequence[int],
    types: Mapping[str, onnx.TypeProto],
    weights: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """A model of the nodes at some places. Its outputs are all their results that others read, or that nobody reads."""
    made = copy_without_weights(model)
    for field in ("node", "input", "output", "value_info"):
        del getattr(made.graph, field)[:]
    inside = set(places)
    nodes = [model.graph.node[place] for place in places]
    made.graph.node.extend(nodes)
    results = list(dict.fromkeys(name for node in nodes for name in node.output if name))
    read = list(dict.fromkeys(name for node in nodes for name in read_names(node)))
    elsewhere = {value.name for value in model.graph.output}
    elsewhere |= {n for place, node in enumerate(model.graph.node) if place not in inside for n in read_names(node)}
    for name in read:
        if name in weights:
            made.graph.initializer.append(weights[name])
        elif name not in results:
            made.graph.input.append(helper.make_value_info(name, types[name]))
    ends = [name for name in results if name in elsewhere or name not in read]
    made.graph.output.extend(helper.make_value_info(name, types[name]) for name in ends)
    return made


def _signature(single: onnx.ModelProto) -> bytes:
    """A key of a model of one node. Nodes that differ only in names and large weights have the same key."""
    made = copy_without_weights(single)
    names = {
        name: f"n{i}"
        for i, name in enumerate(dict.fromkeys([*single.graph.node[0].input, *single.graph.node[0].output]))
    }
    node = made.graph.node[0]
    node.name = ""
    node.input[:] = [names[name] if name else "" for name in node.input]
    node.output[:] = [names[name] if name else "" for name in node.output]
    for value in (*made.graph.input, *made.graph.output):
        value.name = names.get(value.name, value.name)
    text: bytes = made.SerializeToString(deterministic=True)
    for tensor in single.graph.initializer:
        text += repr((names.get(tensor.name), list(tensor.dims), tensor.data_type)).encode()
        if tensor.ByteSize() < 1024:
            text += onnx.numpy_helper.to_array(tensor).tobytes()
    return text
