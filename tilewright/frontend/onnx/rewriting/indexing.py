"""Rewritings of operators that look values up."""

from __future__ import annotations

import onnx

from tilewright.frontend.onnx.rewriting.graph import Graph, copy_node
from tilewright.frontend.onnx.rewriting.registry import rewriting

__all__ = ["one_hot"]

#: What the names of results end in that have not got their type yet.
_UNTYPED = "__untyped"


@rewriting("OneHot")
def one_hot(graph: Graph, node: onnx.NodeProto) -> bool:
    """OneHot --> Cast(OneHot). TVM's result has a Python type instead of the type of the values."""
    dtype = graph.elem_type(node.input[2])
    if not dtype or node.output[0].endswith(_UNTYPED):
        return False
    new = copy_node(node)
    new.output[0] = f"{node.output[0]}{_UNTYPED}"
    graph.add(new)
    graph.op("Cast", new.output[0], out=node.output[0], to=dtype)
    return True
