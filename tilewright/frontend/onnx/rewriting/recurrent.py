"""Rewritings of recurrent operators."""

from __future__ import annotations

import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node, read_attributes
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["swap_batch"]

#: The orders of axes that turn steps and batch of the data, batch and directions of a state, and a result back.
_DATA, _STATE, _RESULT = (1, 0, 2), (1, 0, 2), (2, 0, 1, 3)
#: The places of the inputs that have the axes of a state.
_STATES = (5, 6)


@rewriting("LSTM", "GRU", "RNN")
def swap_batch(graph: Graph, node: onnx.NodeProto) -> bool:
    """LSTM(x, layout=1) --> Transpose(LSTM(Transpose(x))). ONNX Runtime refuses a model with this layout."""
    if not read_attributes(node).get("layout", 0):
        return False
    new = copy_node(node, ("layout",))
    new.input[0] = graph.op("Transpose", node.input[0], perm=_DATA)
    for place in _STATES:
        if place < len(node.input) and node.input[place]:
            new.input[place] = graph.op("Transpose", node.input[place], perm=_STATE)
    names = [graph.new_name("swapped") if name else "" for name in node.output]
    new.output[:] = names
    graph.add(new)
    for number, (name, out) in enumerate(zip(names, node.output, strict=True)):
        if out:
            graph.op("Transpose", name, out=out, perm=_STATE if number else _RESULT)
    return True
