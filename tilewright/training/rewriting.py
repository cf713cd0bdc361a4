"""Rewrites the graph of a step, so that operators that only PyTorch can run cut no part in two."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from tilewright.training.support import is_supported

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["draws", "drop_empty", "split_dropout"]

#: Operators that read the shape of a tensor only, and draw random numbers for it.
_SHAPED = ("aten.bernoulli.p", "aten.rand_like.default", "aten.randn_like.default")


def split_dropout(module: fx.GraphModule) -> None:
    """native_dropout(x, p) --> x * mask / (1 - p), with the same mask as in eager mode.

    PyTorch draws the mask, with its own generator. The product can be compiled.
    All random numbers are drawn first, in their order, so that they cut no part in two. One that depends on the data
    stays where it is, and those after it are drawn after it.

    Args:
        module: the graph of a step, which is changed.
    """
    import torch

    aten, graph = torch.ops.aten, module.graph
    last = next((node for node in reversed(graph.nodes) if node.op == "placeholder"), None)
    for node in [] if last is None else list(graph.nodes):
        if not draws(node):
            continue
        if node.target is not aten.native_dropout.default or not _can_be_split(node):
            last = _draw_early(node, last)
            continue
        x, rate = node.args[:2]
        result, mask = node.meta["val"]
        room = _make_room(graph, last, mask, torch.bool)
        with graph.inserting_after(room):
            last = drawn = graph.call_function(aten.bernoulli_.float, (room, 1.0 - rate))
        with graph.inserting_before(node):
            kept = graph.call_function(aten.mul.Tensor, (x, drawn))
            scaled = graph.call_function(aten.mul.Tensor, (kept, 1.0 / (1.0 - rate)))
        for made, value in ((drawn, mask), (kept, result), (scaled, result)):
            made.meta["val"] = value
        for reader in list(node.users):
            reader.replace_all_uses_with((scaled, drawn)[reader.args[1]])
            graph.erase_node(reader)
        graph.erase_node(node)


def draws(node: fx.Node) -> bool:
    """Whether a node draws random numbers with PyTorch's generator. Attention without dropout does not."""
    import torch

    seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return seeded and node.op == "call_function" and not is_supported(node)


def _draw_early(node: fx.Node, last: fx.Node) -> fx.Node:
    """Draw random numbers after ``last``, if they do not depend on the data. Returns what draws them.

    randn_like(x) --> randn_like(empty_strided(shape of x)), and likewise for what reads only the shape of x
    """
    graph, sources = node.graph, node.all_input_nodes
    values = [source.meta.get("val") for source in sources]
    if sources and (str(node.target) not in _SHAPED or not all(map(_is_fixed, values))):
        return node
    for source, value in zip(sources, values, strict=True):
        last = _make_room(graph, last, value, value.dtype)
        node.replace_input_with(source, last)
        if source.op == "call_function" and not source.users and not draws(source):
            graph.erase_node(source)
    last.append(node)
    return node


def _make_room(graph: fx.Graph, last: fx.Node, value: torch.Tensor, dtype: torch.dtype) -> fx.Node:
    """An empty tensor, made after ``last``.

    In memory, random numbers lie as the data do: that decides which number is drawn for which element.
    """
    import torch

    shape, strides = (tuple(int(n) for n in numbers) for numbers in (value.shape, value.stride()))
    with graph.inserting_after(last):
        room = graph.call_function(torch.ops.aten.empty_strided.default, (shape, strides), {"dtype": dtype})
    room.meta["val"] = value
    return room


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


def _is_fixed(value: object) -> bool:
    """Whether a tensor has a size that is known, and lies on the CPU."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.device.type == "cpu"
        and all(isinstance(extent, int) for extent in (*value.shape, *value.stride()))
    )


def _can_be_split(node: fx.Node) -> bool:
    """Whether a dropout draws a mask, of a shape that is known."""
    rate, trains = node.args[1:3]
    mask = node.meta["val"][1]
    known = all(isinstance(extent, int) for extent in mask.shape)
    return known and mask.numel() > 0 and trains is not False and isinstance(rate, float) and 0.0 <= rate < 1.0
