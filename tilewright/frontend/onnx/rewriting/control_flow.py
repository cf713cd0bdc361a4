"""Rewritings of If, Loop and Scan, if conditions and numbers of iterations are known before the network runs.

The nodes of a branch or a body are copied to the main graph, once for each iteration, with new names. Both branches of
an If with a computed condition are copied if they are small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tilewright.frontend.onnx.rewriting.graph import Graph, read_attributes, read_ints
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.values import DOMAINS

__all__ = ["inline_if", "unroll_loop", "unroll_scan"]

#: The most iterations that are unrolled: a choice.
_MOST_ITERATIONS = 32
#: The most nodes that replace one operator: a choice.
_MOST_NODES = 4096
#: The most nodes of a branch that is computed even if it is not taken (a choice), and the element types of its results.
_MOST_CHOSEN = 16
_CHOSEN = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8)


@rewriting("If")
def inline_if(graph: Graph, node: onnx.NodeProto) -> bool:
    """If(constant) --> the nodes of the branch that is taken."""
    condition = graph.array(node.input[0])
    if condition is None:
        return _choose(graph, node)
    branch = read_attributes(node)["then_branch" if bool(condition.any()) else "else_branch"]
    assert isinstance(branch, onnx.GraphProto)
    results = _write(graph, branch, {})
    for name, result in zip(node.output, results, strict=True):
        if name:
            graph.op("Identity", result, out=name)
    return True


def _choose(graph: Graph, node: onnx.NodeProto) -> bool:
    """If(condition) --> Where(condition, results of then, results of else), if both branches are small."""
    attributes = read_attributes(node)
    branches = [attributes["then_branch"], attributes["else_branch"]]
    results: list[list[str]] = []
    for branch in branches:
        assert isinstance(branch, onnx.GraphProto)
        if len(branch.node) > _MOST_CHOSEN or any(_has_effect(inner) for inner in branch.node):
            return False
    for branch in branches:
        assert isinstance(branch, onnx.GraphProto)
        results.append(_write(graph, branch, {}))
    pairs = list(zip(*results, strict=True))
    types = [[graph.fixed(name) for name in pair] for pair in pairs]
    if any(a is None or a != b or a.elem_type not in _CHOSEN for a, b in types):
        return False
    for name, (yes, no) in zip(node.output, pairs, strict=True):
        if name:
            graph.op("Where", node.input[0], yes, no, out=name)
    return True


def _has_effect(node: onnx.NodeProto) -> bool:
    """Whether an operator must not run if its branch is not taken: it divides, is random, or has inner graphs."""
    inner = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    return inner or node.op_type in ("Div", "Mod") or node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))


@rewriting("Loop")
def unroll_loop(graph: Graph, node: onnx.NodeProto) -> bool:
    """Loop(8) --> its body 8 times, if the number of iterations is constant and the condition is always true."""
    body = read_attributes(node)["body"]
    assert isinstance(body, onnx.GraphProto)
    times = graph.ints(node.input[0]) if node.input[0] else None
    first = graph.array(node.input[1]) if len(node.input) > 1 and node.input[1] else np.asarray(True)
    if first is None or (first.any() and (not times or not _goes_on(graph, body))):
        return False
    count = min(times[0], 1 << 31) if times and first.any() else 0
    carried, scanned = list(node.input[2:]), len(node.output) - (len(node.input) - 2)
    if count > _MOST_ITERATIONS or count * len(body.node) > _MOST_NODES or (scanned and count <= 0):
        return False
    names = [value.name for value in body.input]
    parts: list[list[str]] = [[] for _ in range(scanned)]
    for step in range(count):
        known = {names[0]: graph.constant(np.asarray(step, np.int64)), names[1]: graph.constant(np.asarray(True))}
        results = _write(graph, body, known | dict(zip(names[2:], carried, strict=True)))
        carried = results[1 : 1 + len(carried)]
        for part, result in zip(parts, results[1 + len(carried) :], strict=True):
            part.append(result)
    for name, value in zip(node.output, carried, strict=False):
        if name:
            graph.op("Identity", value, out=name)
    for name, part in zip(node.output[len(carried) :], parts, strict=True):
        if name:
            _stack(graph, part, 0, name)
    return True


def _goes_on(graph: Graph, body: onnx.GraphProto) -> bool:
    """Whether the condition that a body computes is its own input, or a constant that is true."""
    makers = {name: node for node in body.node for name in node.output}
    constants = {tensor.name: tensor for tensor in body.initializer}
    name = body.output[0].name
    while name in makers and makers[name].op_type in ("Identity", "Cast"):
        name = makers[name].input[0]
    if name == body.input[1].name:
        return True
    if name in constants:
        return bool(numpy_helper.to_array(constants[name]).any())
    maker = makers.get(name)
    if maker is None:
        found = graph.array(name)
        return found is not None and bool(found.any())
    if maker.op_type != "Constant":
        return False
    value = read_attributes(maker).get("value")
    return isinstance(value, onnx.TensorProto) and bool(numpy_helper.to_array(value).any())


@rewriting("Scan")
def unroll_scan(graph: Graph, node: onnx.NodeProto) -> bool:
    """Scan(x) --> its body once for each slice of x, if there are at most 32."""
    attributes = read_attributes(node)
    body, count = attributes["body"], attributes["num_scan_inputs"]
    assert isinstance(body, onnx.GraphProto)
    assert isinstance(count, int)
    states = len(node.input) - count
    scanned, outputs = list(node.input[states:]), len(node.output) - states
    axes = read_ints(attributes.get("scan_input_axes"), [0] * count)
    shapes = [graph.shape(name) for name in scanned]
    if any(shape is None for shape in shapes):
        return False
    places = [axis % len(shape) for axis, shape in zip(axes, shapes, strict=True) if shape]
    steps = {shape[place] for shape, place in zip(shapes, places, strict=True) if shape}
    if len(places) != count or len(steps) != 1:
        return False
    (length,) = steps
    if not 1 <= length <= _MOST_ITERATIONS or length * len(body.node) > _MOST_NODES:
        return False
    backwards = read_ints(attributes.get("scan_input_directions"), [0] * count)
    reversed_outputs = read_ints(attributes.get("scan_output_directions"), [0] * outputs)
    names = [value.name for value in body.input]
    carried = list(node.input[:states])
    parts: list[list[str]] = [[] for _ in range(outputs)]
    for step in range(length):
        slices = [
            graph.op("Gather", name, np.asarray(length - 1 - step if back else step, np.int64), axis=place)
            for name, place, back in zip(scanned, places, backwards, strict=True)
        ]
        results = _write(graph, body, dict(zip(names, [*carried, *slices], strict=True)))
        carried = results[:states]
        for part, result in zip(parts, results[states:], strict=True):
            part.append(result)
    for name, value in zip(node.output, carried, strict=False):
        if name:
            graph.op("Identity", value, out=name)
    out_axes = read_ints(attributes.get("scan_output_axes"), [0] * outputs)
    for place, name in enumerate(node.output[states:]):
        if name:
            part = parts[place]
            _stack(graph, part[::-1] if reversed_outputs[place] else part, out_axes[place], name)
    return True


def _stack(graph: Graph, parts: Sequence[str], axis: int, out: str) -> None:
    """Join tensors along a new axis."""
    where = np.asarray([axis], np.int64)
    graph.op("Concat", *(graph.op("Unsqueeze", part, where) for part in parts), out=out, axis=axis)


def _write(graph: Graph, body: onnx.GraphProto, known: Mapping[str, str]) -> list[str]:
    """Copy the nodes of an inner graph to the main graph.

    Args:
        graph: the main graph.
        body: the inner graph.
        known: the names of its inputs in the main graph.

    Returns:
        the names of its outputs in the main graph.
    """
    names = dict(known)
    for tensor in body.initializer:
        names[tensor.name] = graph.constant(numpy_helper.to_array(tensor))
    for inner in body.node:
        node = onnx.NodeProto()
        node.CopyFrom(inner)
        node.input[:] = [names.get(name, name) for name in inner.input]
        for name in filter(None, inner.output):
            names[name] = graph.new_name(inner.op_type.lower())
        node.output[:] = [names[name] if name else "" for name in inner.output]
        node.name = next(filter(None, node.output), "")
        for attribute in node.attribute:
            for deeper in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(deeper, names)
        if not _take_constant(graph, node):
            graph.add(node)
    return [names.get(value.name, value.name) for value in body.output]


def _take_constant(graph: Graph, node: onnx.NodeProto) -> bool:
    """Constant --> an initializer, whose values other rewritings can read in the same round."""
    if node.op_type != "Constant" or node.domain not in DOMAINS or node.attribute[0].name != "value":
        return False
    graph.constant(numpy_helper.to_array(node.attribute[0].t), node.output[0])
    return True


def _rename(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename, in place, the tensors that a graph inside a body reads from outside."""
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {name for node in body.node for name in node.output}
    outer = {name: new for name, new in names.items() if name not in own}
    for node in body.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for attribute in node.attribute:
            for deeper in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(deeper, outer)
    for value in body.output:
        if value.name in outer:
            # An inner graph must compute each of its outputs by a node of its own.
            copy = f"{value.name}__{outer[value.name]}"
            body.node.append(onnx.helper.make_node("Identity", [outer[value.name]], [copy]))
            value.name = copy
