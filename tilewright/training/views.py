"""Views of one tensor that the forward pass saves for the backward pass become one saved tensor.

    q, k, v = unbind(qkv); save q, k, v --> attention_backward(q, k, v)
    -->
    q, k, v = unbind(qkv); save qkv --> attention_backward(*unbind(qkv))
In eager mode these views share their memory. What a compiled part gives has memory of its own: it would write the
numbers once more for each view, and in an order in which the backward pass does not read them. A copy counts as a view,
since a compiled part need not make it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tilewright.training.ends import find_ends

if TYPE_CHECKING:
    from torch import fx

__all__ = ["WHOLE", "save_sources"]

#: The key of the ``meta`` of what is saved in the place of views. It lies as these are read, and not in blocks.
WHOLE = "tilewright_whole"
#: Operators whose result is a view or a copy of their first operand, and those whose results are views.
_VIEWS = {"clone", "view", "t", "transpose", "permute", "select", "unsqueeze", "squeeze", "alias", "detach"}
_PARTS = {"unbind", "split", "split_with_sizes"}
#: PyTorch counts the saved tensors with this mark in their ``meta``.
_COUNTED = "saved_tensor_with_no_vc_check"


def save_sources(forward: fx.GraphModule, backward: fx.GraphModule, outputs: int) -> None:
    """Save the source of several saved views in their place, where it is no larger than these. Changes both graphs.

    A source whose dimensions lie in another order than that of memory is saved as a contiguous view of all of it.

    Args:
        forward: gives the results of the model, then what it saves.
        backward: takes what is saved by the same names.
        outputs: how many results the model has.
    """
    output, results, takers = find_ends(forward, backward)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for saved in results[outputs:]:
        if _is_tensor(saved) and saved not in results[:outputs] and _COUNTED not in saved.meta and saved.name in takers:
            groups.setdefault(_find_source(saved), []).append(saved)
    for source, views in groups.items():
        size = sum(view.meta["val"].numel() for view in views)
        order = _find_order(source.meta["val"]) if _is_tensor(source) else None
        if len(views) < 2 or source.op == "placeholder" or order is None or source.meta["val"].numel() > size:
            continue
        turned = order != sorted(order)
        # Later passes know what is saved by its name, which is the same in both graphs.
        name = f"{source.name}_whole" if turned else source.name
        if source in views or any(node.name == name for node in backward.graph.nodes):
            continue
        whole = source
        if turned:
            with forward.graph.inserting_before(output):
                whole = _call(forward.graph, source, order, name)
        results[results.index(views[0])] = whole
        results = [result for result in results if result not in views[1:] and (result is whole or result != views[0])]
        _take(backward.graph, [takers[view.name] for view in views], source, views, whole, order)
    before = output.args[0]
    output.args = (type(before)(results), *output.args[1:])
    for graph in (forward.graph, backward.graph):
        graph.eliminate_dead_code()
        graph.lint()
    forward.recompile()
    backward.recompile()


def _take(
    graph: fx.Graph,
    takers: Sequence[fx.Node],
    source: fx.Node,
    views: Sequence[fx.Node],
    whole: fx.Node,
    order: Sequence[int],
) -> None:
    """Take what is saved in the place of views, and make these of it.

    Args:
        graph: of the backward pass.
        takers: take the views.
        source: of the views, in the forward pass.
        views: in the forward pass.
        whole: what is saved.
        order: of the source's dimensions in memory.
    """
    with graph.inserting_before(takers[0]):
        taker = graph.placeholder(whole.name)
    assert taker.name == whole.name, "names of the backward pass were looked up"
    taker.meta |= {key: value for key, value in whole.meta.items() if key == "val"}
    whole.meta[WHOLE] = True
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        again = taker if whole is source else _call(graph, taker, [order.index(d) for d in range(len(order))], "again")
        made = {source: again}
        for view, old in zip(views, takers, strict=True):
            old.replace_all_uses_with(_repeat(graph, view, made))
            graph.erase_node(old)


def _repeat(graph: fx.Graph, view: fx.Node, made: dict[fx.Node, fx.Node]) -> fx.Node:
    """A view once more, in the graph of the backward pass, of what was made of its source."""
    if view not in made:
        source = view.args[0]
        _repeat(graph, source, made)
        made[view] = graph.node_copy(view, made.__getitem__)
    return made[view]


def _find_source(node: fx.Node) -> fx.Node:
    """What a node is a view of, over any number of views."""
    while True:
        name = _name(node)
        if node.target is operator.getitem and _name(node.args[0]) in _PARTS:
            node = node.args[0].args[0]
        elif name in _VIEWS:
            node = node.args[0]
        else:
            return node


def _find_order(value: torch.Tensor) -> list[int] | None:
    """The dimensions of a tensor as they lie in memory, outermost first; None if there are gaps between elements."""
    if not all(isinstance(extent, int) for extent in (*value.shape, *value.stride())):
        return None
    order = sorted(range(value.dim()), key=lambda d: (-value.stride(d), d))
    return order if value.permute(order).is_contiguous() else None


def _call(graph: fx.Graph, tensor: fx.Node, order: Sequence[int], name: str) -> fx.Node:
    """A permuted view of a tensor."""
    node = graph.create_node("call_function", torch.ops.aten.permute.default, (tensor, list(order)), name=name)
    node.meta["val"] = tensor.meta["val"].permute(order)
    return node


def _is_tensor(node: object) -> bool:
    return isinstance(getattr(node, "meta", {}).get("val"), torch.Tensor)


def _name(node: fx.Node) -> str:
    """The name of an operator of PyTorch without its overload; empty for anything else."""
    return str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.")
