"""Applies rewritings to a model until none of them changes it any more."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import onnx

from tilewright.frontend.onnx.rewriting import (  # noqa: F401 - importing a family registers its rewritings
    attention,
    contrib,
    contrib_attention,
    control_flow,
    convolutions,
    cropping,
    einsum,
    elementwise,
    indexing,
    nibbles,
    normalisation,
    pooling,
    quantised,
    quantised_products,
    quantised_weights,
    recurrent,
    reductions,
    sampling,
    shapes,
    spectra,
)
from tilewright.frontend.onnx.rewriting.functions import inline_bodies, inline_local_functions
from tilewright.frontend.onnx.rewriting.graph import Graph
from tilewright.frontend.onnx.rewriting.registry import REWRITINGS, Rewriting
from tilewright.frontend.onnx.rewriting.sequences import drop_unused
from tilewright.frontend.onnx.rewriting.upgrade import upgrade
from tilewright.frontend.onnx.values import DOMAINS, read_names

__all__ = ["rewrite"]

#: The most rounds. New operators of one round are rewritten in the next one. No operator is known to need more than 3.
_MOST_ROUNDS = 8


def rewrite(model: onnx.ModelProto, folder: Path | None = None) -> bool:
    """Rewrite the operators of a model's main graph, in place.

    Before that, model-local functions are inlined, and the model is upgraded to an opset that all rewritings and
    converters support.

    Args:
        model: the model, whose input shapes are fixed.
        folder: the directory of weights that are not in the model; None: their values are not read.

    Returns:
        whether anything has changed.
    """
    changed = inline_local_functions(model)
    before = [opset.version for opset in model.opset_import]
    if not upgrade(model):
        return changed
    changed |= before != [opset.version for opset in model.opset_import]
    for _ in range(_MOST_ROUNDS):
        if not any((_domain(node), node.op_type) in REWRITINGS for node in model.graph.node):
            break
        if not _rewrite_once(model, folder):
            break
        changed = True
    return drop_unused(model) or changed


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain in DOMAINS else node.domain


def _rewrite_once(model: onnx.ModelProto, folder: Path | None) -> bool:
    """Try the rewritings of each node. Returns whether a node has changed."""
    graph = Graph(model, folder)
    changed = False
    for node in model.graph.node:
        graph.begin(node)
        if any(_try(function, graph, node) for function in REWRITINGS.get((_domain(node), node.op_type), ())):
            changed = True
        else:
            graph.add(node)
    if changed:
        nodes = list(graph.nodes)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        inline_bodies(model)
        _drop_unused(model)
    return changed


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes whose results are not used."""
    needed = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(read_names(node))
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(reversed(kept))


def _try(function: Rewriting, graph: Graph, node: onnx.NodeProto) -> bool:
    """Try a rewriting on a node. Returns whether it applied. The node stays if it does not apply, or fails."""
    with suppress(LookupError, ValueError, TypeError, ArithmeticError, AssertionError):
        if function(graph, node):
            return True
    graph.undo()
    return False
