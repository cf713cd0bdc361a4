"""Saves memory: the backward pass finds the largest pixels of pooling windows again, and their indices are not saved.

    y, places = max_pool(x); save x, places --> max_pool_backward(dy, x, places)
    -->
    y = max_pool(x); save x --> max_pool_backward(dy, x, max_pool(x)[1])

The indices (*places*) are int64 numbers in plain layout, which take twice the memory of the pooled image. Tilewright's
kernel of the gradient finds them while it reads ``x`` (:func:`tilewright.ops.window.places.recomputing_gradient`). If
PyTorch runs the backward pass, this is one call more.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch

from tilewright.training.ends import find_ends

if TYPE_CHECKING:
    from torch import fx

__all__ = ["recompute_places"]


def recompute_places(forward: fx.GraphModule, backward: fx.GraphModule, outputs: int) -> None:
    """Compute places in the backward pass if only gradients of pools read them. Changes both graphs.

    Args:
        forward: gives the results of the model, then what it saves.
        backward: takes what is saved by the same names.
        outputs: how many results the model has.
    """
    output, results, takers = find_ends(forward, backward)
    dropped = set()
    for saved in results[outputs:]:
        pool = _find_pool(saved)
        taker = None if pool is None or saved in results[:outputs] else takers.get(saved.name)
        data = None if pool is None else takers.get(pool.args[0].name)
        if taker is None or data is None or not all(_is_gradient(user, data) for user in taker.users):
            continue
        _replace(backward.graph, taker, data, pool)
        dropped.add(saved)
    if not dropped:
        return
    before = output.args[0]
    output.args = (type(before)(result for result in results if result not in dropped), *output.args[1:])
    for graph in (forward, backward):
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.recompile()


def _find_pool(saved: object) -> fx.Node | None:
    """The pool whose places a saved tensor holds; None: it holds something else."""
    if getattr(saved, "target", None) is not operator.getitem or saved.args[1] != 1:  # type: ignore[attr-defined]
        return None
    pool: fx.Node = saved.args[0]  # type: ignore[attr-defined]
    wanted = torch.ops.aten.max_pool2d_with_indices.default
    return pool if pool.target is wanted and pool.args[0].meta["val"].dim() == 4 else None


def _is_gradient(node: fx.Node, data: fx.Node) -> bool:
    """Whether a node is the gradient of a pool of ``data``."""
    return node.target is torch.ops.aten.max_pool2d_with_indices_backward.default and node.args[1] is data


def _replace(graph: fx.Graph, taker: fx.Node, data: fx.Node, pool: fx.Node) -> None:
    """Compute the places of a pool just before their first use.

    Args:
        graph: of the backward pass.
        taker: takes the places.
        data: takes the pool's data.
        pool: in the forward pass.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    with graph.inserting_before(min(taker.users, key=order.__getitem__)):
        again = graph.call_function(pool.target, (data, *pool.args[1:]))
        again.meta["val"] = pool.meta["val"]
        places = graph.call_function(operator.getitem, (again, 1))
        places.meta["val"] = pool.meta["val"][1]
    taker.replace_all_uses_with(places)
    graph.erase_node(taker)
