"""Cuts a network into tasks, and moves operators to segments that TVM imports but cannot cut or compile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import onnx
from onnx import helper

from tilewright.errors import ShapeError, UnsupportedOperatorError
from tilewright.frontend.load import read_model
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.data import copy_without_weights
from tilewright.frontend.onnx.partition import SEGMENT_DOMAIN
from tilewright.frontend.onnx.values import read_names
from tilewright.graph.tasks import Extraction, extract
from tilewright.target import Target

__all__ = ["extract_all", "find_failing", "leave_out", "leave_out_all"]


def extract_all(network: Network, target: Target) -> Extraction:
    """Cut a network into tasks, as :func:`tilewright.graph.tasks.extract` does.

    If that fails, each operator of an ONNX model is tried alone. The operators that fail move to segments, and the rest
    is cut again. If none fails alone, all operators move to one segment. In both cases, the ``network`` of the result
    is another one.

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
        why = str(exc)
    failing = find_failing(network, lambda part: _try_alone(part, target))
    if failing:
        divided = leave_out(network, failing)
        try:
            extraction = extract(divided, target)
            if extraction.plan is not None:
                return extraction
        except (UnsupportedOperatorError, ShapeError) as exc:
            why = str(exc)
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

    Args:
        network: a network that was read from an ONNX model.
        attempt: tries a network of one operator. It returns why the network fails; empty if it does not.
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
        single = _isolate(model, node, types, weights)
        key = _signature(single)
        if key not in tried:
            tried[key] = attempt(read_model("part", single, single, {}))
        if tried[key]:
            found[partition.order[place]] = tried[key]
    return found


def _try_alone(part: Network, target: Target) -> str:
    try:
        if extract(part, target).plan is None:
            return "it cannot be compiled without a library of TVM's"
    except (UnsupportedOperatorError, ShapeError) as exc:
        return f"it cannot be compiled ({exc})"
    return ""


def _isolate(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    weights: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """A model of one node."""
    made = copy_without_weights(model)
    for field in ("node", "input", "output", "value_info"):
        del getattr(made.graph, field)[:]
    made.graph.node.append(node)
    for name in dict.fromkeys(read_names(node)):
        if name in weights:
            made.graph.initializer.append(weights[name])
        else:
            made.graph.input.append(helper.make_value_info(name, types[name]))
    made.graph.output.extend(helper.make_value_info(name, types[name]) for name in node.output if name)
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
