"""Replaces operators by their function bodies in the onnx package, and inlines the functions of models.

The package can inline operators (``onnx.inliner.inline_selected_functions``), but fails if an optional input is absent,
or if an input is an initializer. So here a body becomes a function of the model. Then the package's inliner of such
functions binds attributes and finds new names.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import onnx
from onnx import helper, inliner

from tilewright.frontend.onnx.rewriting.graph import Graph
from tilewright.frontend.onnx.rewriting.registry import rewriting
from tilewright.frontend.onnx.rewriting.upgrade import OLDEST, upgrade_nodes
from tilewright.frontend.onnx.values import DOMAINS

__all__ = ["BODIES", "inline_bodies", "inline_local_functions"]

#: The domain of the functions that hold bodies until these are inlined.
_BODIES = "tilewright.bodies"

#: Operators that are replaced by their bodies: TVM has no converter for them, or a wrong one. A rewriting of our own
#: is tried first. If it does not apply, the body is used.
BODIES = (
    "NegativeLogLikelihoodLoss",
    "SoftmaxCrossEntropyLoss",
)


def inline_local_functions(model: onnx.ModelProto) -> bool:
    """Inline the model's own functions, in place. Returns whether it has any."""
    if not model.functions:
        return False
    try:
        made = inliner.inline_local_functions(model, convert_version=True)
    except Exception:  # ONNX Runtime says what is wrong with the model when it optimises it
        return False
    model.CopyFrom(made)
    return True


@rewriting(*BODIES)
def take_body(graph: Graph, node: onnx.NodeProto) -> bool:
    """Operator --> the operators of its body in the onnx package."""
    body = find_body(graph, node)
    if body is None:
        return False
    body.domain, body.name = _BODIES, f"{node.op_type}{len(graph.model.functions)}"
    graph.model.functions.append(body)
    call = onnx.NodeProto()
    call.CopyFrom(node)
    call.domain, call.op_type = _BODIES, body.name
    _give_defaults(call, node, graph.opset)
    graph.nodes.append(call)
    return True


def find_body(graph: Graph, node: onnx.NodeProto) -> onnx.FunctionProto | None:
    """The body of an operator, with operators of the graph's opset; None if it has none."""
    schema: Any = onnx.defs.get_schema(node.op_type, graph.opset, "")  # its type annotations lack some attributes
    versions = [v for v in schema.all_function_opset_versions if v <= graph.opset]
    content = b""
    for version in dict.fromkeys((graph.opset, *reversed(versions))):
        # onnx refuses a body if the opset has newer versions of its operators, although these only take more types.
        with suppress(Exception):
            content = _read_body(schema, node, version, graph)
        if content:
            break
    if not content:
        return None
    body = onnx.FunctionProto()
    body.ParseFromString(content)
    written = max((o.version for o in body.opset_import if o.domain in DOMAINS), default=graph.opset)
    if version < OLDEST:
        nodes = upgrade_nodes(body.node, min(version, written))
        if nodes is None:
            return None
        del body.node[:]
        body.node.extend(nodes)
    del body.opset_import[:]
    body.opset_import.append(helper.make_opsetid("", graph.opset))
    return body


def _read_body(schema: Any, node: onnx.NodeProto, version: int, graph: Graph) -> bytes:
    if version in schema.context_dependent_function_opset_versions:
        types = [graph.type_of(name).SerializeToString() for name in node.input]
        return bytes(schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types))
    return bytes(schema.get_function_with_opset_version(version))


def _give_defaults(call: onnx.NodeProto, node: onnx.NodeProto, opset: int) -> None:
    """Give a call the defaults of attributes that its node lacks, since attributes of functions have no defaults."""
    have = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in have and attribute.default_value.name:
            call.attribute.append(attribute.default_value)


def inline_bodies(model: onnx.ModelProto) -> None:
    """Inline the bodies that :func:`take_body` has given the model as functions, in place."""
    if not any(function.domain == _BODIES for function in model.functions):
        return
    model.opset_import.append(helper.make_opsetid(_BODIES, 1))
    model.CopyFrom(inliner.inline_local_functions(model))
    kept = [opset for opset in model.opset_import if opset.domain != _BODIES]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    for index in reversed(range(len(model.functions))):
        if model.functions[index].domain == _BODIES:
            del model.functions[index]
