"""Saves memory: the backward pass computes some results of batch norms again, and the forward pass does not save them.

    y = batch_norm(x); z = hardswish(y); save x, y, the mean and the deviation --> hardswish_backward(dz, y)
    -->
    y = batch_norm(x); z = hardswish(y); save x, the mean and the deviation --> hardswish_backward(dz, normalise(x))

The backward pass reads ``x`` anyway, for the gradient of the norm. Where the pass is compiled, ``normalise`` is fused
into what reads it, and the forward pass does not write ``y`` at all. Where PyTorch runs the pass, it is one call more.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from tilewright.training.ends import find_ends

if TYPE_CHECKING:
    from torch import fx

__all__ = ["recompute_norms"]

#: Activations whose gradients need their data. The kernel that writes such an activation reads the data of the norm.
_ACTIVATIONS = ["hardswish", "silu", "gelu", "leaky_relu", "elu", "hardtanh", "hardsigmoid"]


def recompute_norms(forward: fx.GraphModule, backward: fx.GraphModule, outputs: int) -> None:
    """Compute those results of batch norms again that only an activation and its gradient read. Changes both graphs.

    The bias of the norm is saved in the place of its result.

    Args:
        forward: gives the results of the model, then what it saves.
        backward: takes what is saved by the same names.
        outputs: how many results the model has.
    """
    output, results, takers = find_ends(forward, backward)
    for place, saved in enumerate(results):
        result = None if place < outputs or saved in results[:outputs] else _find_result(saved, output)
        if result is None:
            continue
        norm = result.args[0]
        parts = {user.args[1]: user.name for user in norm.users}
        x, weight, bias = norm.args[:3]
        needed = [takers.get(name) for name in (x.name, weight.name, parts.get(1, ""), parts.get(2, ""))]
        taker = takers.get(saved.name)
        if taker is None or None in needed or not taker.users:
            continue
        results[place] = bias
        _replace(backward.graph, taker, bias, [node for node in needed if node is not None], norm.args[6:8])
    before = output.args[0]
    output.args = (type(before)(results), *output.args[1:])
    for copy in (node for node in before if getattr(node, "op", "") == "call_function" and not node.users):
        forward.graph.erase_node(copy)
    for graph in (forward, backward):
        graph.graph.lint()
        graph.recompile()


def _find_result(saved: fx.Node, output: fx.Node) -> fx.Node | None:
    """The result of a norm in training that is saved, if one activation reads it and nothing else does.

    An activation in place saves a copy of its data.
    """
    source = saved
    while getattr(source, "target", None) is torch.ops.aten.clone.default and set(source.users) <= {saved, output}:
        source = source.args[0]
    if getattr(source, "target", None) is not operator.getitem or source.args[1] != 0:
        return None
    norm = source.args[0]
    if norm.target is not torch.ops.aten._native_batch_norm_legit_functional.default or norm.args[5] is not True:
        return None
    readers = [user for user in source.users if user not in (output, saved)]
    if len(readers) != 1 or getattr(readers[0].target, "_opname", "") not in _ACTIVATIONS:
        return None
    return source if all(getattr(vector, "op", "") == "placeholder" for vector in norm.args[1:3]) else None


def _replace(graph: fx.Graph, taker: fx.Node, bias: fx.Node, given: list[fx.Node], numbers: tuple[float, ...]) -> None:
    """Take a bias in the place of a norm's result, which is computed from the norm's data.

    Args:
        graph: of the backward pass.
        taker: takes the norm's result.
        bias: of the norm, in the forward pass.
        given: take the norm's data and scale, the mean, and the inverse deviation.
        numbers: momentum and epsilon of the norm.
    """
    x, weight, mean, deviation = given
    momentum, epsilon = numbers
    aten = torch.ops.aten
    with graph.inserting_before(taker):
        shift = graph.placeholder(f"{bias.name}_again")
    shift.meta |= {key: value for key, value in bias.meta.items() if key == "val"}
    order = {node: place for place, node in enumerate(graph.nodes)}
    with graph.inserting_before(min(taker.users, key=order.__getitem__)):
        inverse = _call(graph, aten.pow.Tensor_Scalar, deviation, -2.0)
        variance = _call(graph, aten.sub.Tensor, inverse, epsilon)
        norm = aten._native_batch_norm_legit_no_training.default
        result = _call(
            graph, operator.getitem, _call(graph, norm, x, weight, shift, mean, variance, momentum, epsilon), 0
        )
    taker.replace_all_uses_with(result)
    graph.erase_node(taker)


def _call(graph: fx.Graph, target: Callable[..., object], *arguments: object) -> fx.Node:
    """A new node, with the value that a trace would have given it."""
    node = graph.call_function(target, arguments)
    node.meta["val"] = target(*(a.meta["val"] if hasattr(a, "meta") else a for a in arguments))
    return node
