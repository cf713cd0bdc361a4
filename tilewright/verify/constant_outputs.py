"""Finds the outputs of a network that depend on none of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.frontend.network import Network

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

__all__ = ["find_constant_outputs"]


def find_constant_outputs(network: Network) -> frozenset[int]:
    """The indices of the outputs that the values of no input reach; empty if the network has no graph of its source.

    Shapes are known before the network runs. So an output that is computed from shapes alone is constant.
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
        if reached & _read_names(node):
            reached.update(node.output)
    return frozenset(k for k, output in enumerate(graph.output) if output.name not in reached)


def _read_names(node: onnx.NodeProto) -> set[str]:
    """The names of the tensors that a node reads, in its branches too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _read_names(inner)
            names |= {output.name for output in graph.output}
    return names


def _constant_results(program: ExportedProgram) -> frozenset[int]:
    """The indices of the outputs of a PyTorch program that no input reaches."""
    reached = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if any(source.name in reached for source in node.all_input_nodes):
            reached.add(node.name)
    return frozenset(k for k, name in enumerate(program.graph_signature.user_outputs) if name not in reached)
