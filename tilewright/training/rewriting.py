"""Rewrites the graph of a step, so that what only PyTorch can do cuts no part in two."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx

__all__ = ["drop_empty", "split_dropout"]


def split_dropout(module: fx.GraphModule) -> None:
    """native_dropout(x, p) --> x * mask / (1 - p), with the same mask as in eager mode.

    PyTorch draws the mask, with its own generator. The product can be compiled.
    All masks are drawn first, in their order. So they cut no part in two.

    Args:
        module: the graph of a step, which is changed.
    """
    import torch

    aten, graph = torch.ops.aten, module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.nodes):
        if node.target is not aten.native_dropout.default or not _can_be_split(node):
            continue
        x, rate = node.args[:2]
        result, mask = node.meta["val"]
        # In memory, the mask lies as the data do: that decides which number is drawn for which element.
        shape, strides = (tuple(int(n) for n in numbers) for numbers in (mask.shape, mask.stride()))
        with graph.inserting_after(last):
            room = graph.call_function(aten.empty_strided.default, (shape, strides), {"dtype": torch.bool})
        with graph.inserting_after(room):
            last = drawn = graph.call_function(aten.bernoulli_.float, (room, 1.0 - rate))
        with graph.inserting_before(node):
            kept = graph.call_function(aten.mul.Tensor, (x, drawn))
            scaled = graph.call_function(aten.mul.Tensor, (kept, 1.0 / (1.0 - rate)))
        for made, value in ((room, mask), (drawn, mask), (kept, result), (scaled, result)):
            made.meta["val"] = value
        for reader in list(node.users):
            reader.replace_all_uses_with((scaled, drawn)[reader.args[1]])
            graph.erase_node(reader)
        graph.erase_node(node)


def drop_empty(module: fx.GraphModule) -> None:
    """batch_norm(...)[1] --> empty(0), where a norm that is frozen has no statistics to save.

    Args:
        module: the graph of a step, which is changed.
    """
    import torch

    graph = module.graph
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.target is operator.getitem and isinstance(value, torch.Tensor) and tuple(value.shape) == (0,):
            with graph.inserting_before(node):
                empty = graph.call_function(torch.ops.aten.empty.memory_format, ([0],), {"dtype": value.dtype})
            empty.meta["val"] = value
            node.replace_all_uses_with(empty)
            graph.erase_node(node)


def _can_be_split(node: fx.Node) -> bool:
    """Whether a dropout draws a mask, of a shape that is known."""
    rate, trains = node.args[1:3]
    mask = node.meta["val"][1]
    known = all(isinstance(extent, int) for extent in mask.shape)
    return known and mask.numel() > 0 and trains is not False and isinstance(rate, float) and 0.0 <= rate < 1.0
