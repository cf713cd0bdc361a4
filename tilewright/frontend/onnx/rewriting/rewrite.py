"""Rewrites a model until no rewriting changes it any more."""

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
    normalisation,
    pooling,
    quantised,
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

#: The most rounds. What a rewriting adds is rewritten in the next round; three are the most that any operator needs.
_MOST_ROUNDS = 8


def rewrite(model: onnx.ModelProto, folder: Path | None = None) -> bool:
    """Rewrite the operators of a model's main graph, in place.

    Model-local functions are inlined first, and the operators are written as those of an opset that all rewritings
    and converters know.

    Args:
        model: the model, whose input shapes are fixed.
        folder: where the weights are that are not in the model; None: they are not needed.

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
    """Offer each node to its rewritings. Returns whether one of them has changed it."""
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
    """Drop the nodes whose results nothing reads."""
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
    """Offer a node to a rewriting. One that the rewriting does not take, or cannot read, stays as it is."""
    with suppress(LookupError, ValueError, TypeError, ArithmeticError, AssertionError):
        if function(graph, node):
            return True
    graph.undo()
    return False
