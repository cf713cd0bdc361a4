"""Rewrites graphs of PyTorch programs: drops operators that do nothing, and gives norms a form that has a template."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING

from tilewright.frontend.torch.graph import TorchGraph, shape_of

if TYPE_CHECKING:
    from torch import fx

__all__ = [
    "drop_guards",
    "drop_identities",
    "join_deviations",
    "join_selections",
    "order_parts",
    "repeat_late",
    "shape_norms",
]

#: Operators that give their operand if its shape and dtype are those of the result.
_COPIES = "alias clone contiguous detach lift_fresh_copy _to_copy to view _unsafe_view reshape expand slice squeeze"
_COPIES += " unsqueeze dropout"


def drop_identities(graph: TorchGraph) -> None:
    """view(x), clone(x), _to_copy(x), x[:] --> x, where shape and dtype stay the same."""
    for node in graph.calls:
        name = str(getattr(node.target, "overloadpacket", "")).removeprefix("aten.")
        source = node.args[0] if node.args else None
        if name not in _COPIES.split() or source is None or not hasattr(source, "meta"):
            continue
        value, result = source.meta["val"], node.meta["val"]
        same = value.dtype == result.dtype and shape_of(source) == shape_of(node)
        # An output that is an input needs a copy.
        if same and not (source.op == "placeholder" and graph.output in node.users):
            graph.replace(node, source)


def drop_guards(graph: TorchGraph) -> None:
    """_safe_softmax(x + mask) --> softmax(x + mask), if the mask is a constant that masks no whole row.

    PyTorch's attention guards its softmax against rows that are masked altogether.
    """
    import torch

    aten = torch.ops.aten
    for node in graph.calls:
        if node.target is not aten._safe_softmax.default or node.args[1] not in (-1, len(shape_of(node)) - 1):
            continue
        added = node.args[0]
        masks = [graph.weights[a] for a in added.args if a in graph.weights] if added.target is aten.add.Tensor else []
        if len(masks) == 1 and masks[0].dim() and bool((masks[0] > -math.inf).any(-1).all()):
            graph.replace(node, graph.insert(node, aten._softmax.default, added, -1, False))


def join_selections(graph: TorchGraph) -> None:
    """select_backward(a, 0) + select_backward(b, 1) + ... --> stack(a, b, ...), if every index occurs once.

    This is the gradient of a tensor that was taken apart, such as that of query, key and value.
    """
    import torch

    aten = torch.ops.aten
    for node in reversed(list(graph.calls)):
        if node.target is not aten.add.Tensor or not node.users:
            continue
        parts = _find_selections(node)
        if not parts:
            continue
        _, sizes, dim = parts[0].args[:3]
        axis = dim % len(sizes)
        places = {part.args[3] % sizes[axis]: part.args[0] for part in parts}
        alike = all((list(part.args[1]), part.args[2]) == (list(sizes), dim) for part in parts)
        if not alike or len(places) != len(parts) or len(places) != sizes[axis]:
            continue
        raised = [graph.insert(node, aten.unsqueeze.default, places[place], axis) for place in sorted(places)]
        graph.replace(node, graph.insert(node, aten.cat.default, raised, axis))
    graph.drop_dead()


def _find_selections(node: fx.Node) -> list[fx.Node]:
    """The gradients of selections that a tree of additions adds; none if it adds something else."""
    import torch

    aten = torch.ops.aten
    if node.target is aten.select_backward.default:
        return [node]
    if node.target is not aten.add.Tensor or node.kwargs:
        return []
    found = [_find_selections(operand) if hasattr(operand, "target") else [] for operand in node.args]
    return [part for parts in found for part in parts] if all(found) else []


def order_parts(graph: TorchGraph) -> None:
    """permute(stack(a, b, ...), order) --> stack(permute(a), permute(b), ...), along the dimension where it belongs.

    This is the gradient of a projection to query, key and value, whose gradients lie in the order of the result.
    """
    import torch

    aten = torch.ops.aten
    for node in list(graph.calls):
        parts = _find_stacked(node.args[0]) if node.target is aten.permute.default else []
        if not parts:
            continue
        order = [axis % len(node.args[1]) for axis in node.args[1]]
        place, inner = order.index(0), [axis - 1 for axis in order if axis]
        turned = [graph.insert(node, aten.permute.default, part, inner) for part in parts]
        raised = [graph.insert(node, aten.unsqueeze.default, part, place) for part in turned]
        graph.replace(node, graph.insert(node, aten.cat.default, raised, place))
    graph.drop_dead()


def _find_stacked(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node stacks along a new first dimension; none if it does something else, or is read twice."""
    import torch

    aten = torch.ops.aten
    if len(node.users) != 1 or node.target is not aten.view.default:
        return []
    joined, shape = node.args[0], list(node.args[1])
    if joined.target is not aten.cat.default or len(joined.users) != 1 or (*joined.args, 0)[1] != 0:
        return []
    parts = list(joined.args[0])
    alike = all(list(shape_of(part)) == shape[1:] for part in parts)
    return parts if alike and len(parts) == shape[0] else []


def join_deviations(graph: TorchGraph) -> None:
    """rsqrt(v ** -2 - e + e) --> v: the inverse deviation of a batch norm that is computed again."""
    import torch

    aten = torch.ops.aten
    for node in graph.calls:
        if node.target is not aten.rsqrt.default:
            continue
        chain = [node]
        for wanted in (aten.add.Tensor, aten.sub.Tensor, aten.pow.Tensor_Scalar):
            source = chain[-1].args[0]
            if isinstance(source, torch.fx.Node) and source.target is wanted and not source.kwargs:
                chain.append(source)
        if len(chain) == 4 and chain[1].args[1] == chain[2].args[1] and chain[3].args[1] == -2.0:
            graph.replace(node, chain[3].args[0])
    graph.drop_dead()


def repeat_late(graph: TorchGraph) -> None:
    """expand(x) / 49 --> expand(x / 49), and expand(x) + y --> x + y where y has all elements.

    So the gradient of a mean over all pixels is not written for each pixel.
    """
    import torch

    aten = torch.ops.aten
    scaled = (aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar)
    joined = (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor)
    waiting = [node for node in graph.calls if node.target is aten.expand.default]
    while waiting:
        node = waiting.pop()
        source, shape = node.args[0], shape_of(node)
        if len(shape_of(source)) != len(shape):
            continue
        for user in list(node.users):
            first, second = (*user.args, None, None)[:2] if not user.kwargs else (None, None)
            if user.target in scaled and first is node and isinstance(second, int | float):
                small = graph.insert(user, user.target, source, second)
                large = graph.insert(user, aten.expand.default, small, list(shape))
                graph.replace(user, large)
                waiting.append(large)
            elif user.target in joined and first is not second:
                other = second if first is node else first
                if isinstance(other, torch.fx.Node) and shape_of(other) == shape:
                    user.replace_input_with(node, source)
    graph.drop_dead()


def shape_norms(graph: TorchGraph) -> None:
    """layer_norm over several dimensions --> over one; and a missing scale or shift --> ones or zeros."""
    import torch

    aten = torch.ops.aten
    for node in graph.calls:
        if node.target is not aten.native_layer_norm.default:
            continue
        x, extents, *affine = node.args[:4]
        columns = math.prod(extents)
        dtype = node.meta["val"][0].dtype
        made = [
            graph.add_weight(f"{node.name}_{word}", torch.full((columns,), number, dtype=dtype))
            if given is None
            else _flatten(graph, node, given)
            for given, word, number in zip(affine, ("scale", "shift"), (1.0, 0.0), strict=True)
        ]
        if len(extents) == 1:
            node.args = (x, extents, *made, *node.args[4:])
            continue
        shape = shape_of(x)
        rows = graph.insert(node, aten.view.default, x, [*shape[: len(shape) - len(extents)], columns])
        norm = graph.insert(node, aten.native_layer_norm.default, rows, [columns], *made, *node.args[4:])
        for reader in [user for user in node.users if user.args[1] == 0]:
            part = graph.insert(reader, operator.getitem, norm, 0)
            graph.replace(reader, graph.insert(reader, aten.view.default, part, list(shape)))


def _flatten(graph: TorchGraph, before: fx.Node, node: fx.Node) -> fx.Node:
    """A tensor of several dimensions as one of one dimension."""
    import torch

    if len(shape_of(node)) == 1:
        return node
    return graph.insert(before, torch.ops.aten.view.default, node, [math.prod(shape_of(node))])
