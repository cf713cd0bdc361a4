"""Finds the outputs of a network that depend on none of its inputs."""

from __future__ import annotations

from typing import Any

from tilewright.frontend.network import Network

__all__ = ["constant_outputs"]


def constant_outputs(network: Network) -> frozenset[int]:
    """The numbers of the outputs that no input's values reach; empty if the graph is not known.

    A shape is known before the network runs, so what is computed from shapes alone is constant.
    """
    if network.program is not None:
        return _constant_results(network.program)
    if network.onnx is None:
        return frozenset()
    graph = network.onnx.graph
    reached = {spec.name for spec in network.inputs}
    for node in graph.node:
        if node.op_type in ("Shape", "Size"):
            continue
        if reached & _read(node):
            reached.update(node.output)
    return frozenset(k for k, output in enumerate(graph.output) if output.name not in reached)


def _read(node: Any) -> set[str]:
    """The names that a node reads, in its branches too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _read(inner)
            names |= {output.name for output in graph.output}
    return names


def _constant_results(program: Any) -> frozenset[int]:
    """Likewise of a PyTorch program."""
    reached = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if any(source.name in reached for source in node.all_input_nodes):
            reached.add(node.name)
    return frozenset(k for k, name in enumerate(program.graph_signature.user_outputs) if name not in reached)
