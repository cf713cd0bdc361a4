"""The partition of a step into its forward and its backward pass."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from tilewright.training.norms import recompute_norms
from tilewright.training.places import recompute_places
from tilewright.training.saved import mark_saved
from tilewright.training.token_order import save_in_order
from tilewright.training.views import save_sources

__all__ = ["partition"]

_RECOMPUTED = (CheckpointPolicy.MUST_RECOMPUTE, CheckpointPolicy.PREFER_RECOMPUTE)


def partition(
    joint: fx.GraphModule, inputs: Sequence[object], *, num_fwd_outputs: int, **options: object
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Divide a step into its two passes, by PyTorch's min-cut partition of what is saved and what is computed again.

    Args:
        joint: the graph of both passes.
        inputs: what they take.
        num_fwd_outputs: how many results the forward pass has besides what it saves.
        options: further arguments that PyTorch passes to a partition function.
    """
    from functorch.compile import min_cut_rematerialization_partition  # type: ignore[import-untyped]

    _part_statistics(joint)
    passes: tuple[fx.GraphModule, fx.GraphModule] = min_cut_rematerialization_partition(
        joint, inputs, num_fwd_outputs=num_fwd_outputs, **options
    )
    recompute_norms(*passes, num_fwd_outputs)
    recompute_places(*passes, num_fwd_outputs)
    save_sources(*passes, num_fwd_outputs)
    save_in_order(*passes, num_fwd_outputs)
    mark_saved(*passes, num_fwd_outputs)
    return passes


def _part_statistics(joint: fx.GraphModule) -> None:
    """Separate the running statistics of batch norms from what is computed again in the backward pass.

    A norm inside ``torch.utils.checkpoint`` is computed twice. The second time, its running statistics have been
    written to, and PyTorch refuses to read them. They matter to the new statistics only, so these get operators of
    their own.
    """
    wanted = torch.ops.aten._native_batch_norm_legit_functional.default
    for node in list(joint.graph.nodes):
        if node.target is wanted and node.args[5] is True and node.meta.get("recompute") in _RECOMPUTED:
            _part(joint.graph, node)
    joint.graph.lint()
    joint.recompile()


def _part(graph: fx.Graph, node: fx.Node) -> None:
    """One training-mode norm --> a norm without running statistics, and the new statistics from its results."""
    x, weight, bias, mean, var, training, momentum, epsilon = node.args
    count = x.meta["val"].numel() // x.meta["val"].shape[1]
    aten = torch.ops.aten
    with graph.inserting_before(node):
        norm = _add(graph, aten._native_batch_norm_legit.no_stats, (x, weight, bias, training, momentum, epsilon))
        norm.meta |= {key: value for key, value in node.meta.items() if key != "val"}
        picked = [_pick(graph, norm, place) for place in range(3)]
        squared = _add(graph, aten.mul.Tensor, (picked[2], picked[2]))
        own = _add(graph, aten.sub.Tensor, (_add(graph, aten.reciprocal.default, (squared,)), epsilon))
        unbiased = _add(graph, aten.mul.Tensor, (own, count / max(1, count - 1)))
        new = [_mix(graph, mean, picked[1], momentum), _mix(graph, var, unbiased, momentum)]
    for user in list(node.users):
        user.replace_all_uses_with((*picked, *new)[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(node)


def _add(graph: fx.Graph, target: Callable[..., object], arguments: tuple[object, ...]) -> fx.Node:
    """A new node, with the value that a trace would have given it."""
    node = graph.call_function(target, arguments)
    node.meta["val"] = target(*(a.meta["val"] if isinstance(a, fx.Node) else a for a in arguments))
    return node


def _pick(graph: fx.Graph, node: fx.Node, place: int) -> fx.Node:
    """One result of a node that has several; it is computed again where the node is."""
    picked = _add(graph, operator.getitem, (node, place))
    picked.meta |= {key: value for key, value in node.meta.items() if key != "val"}
    return picked


def _mix(graph: fx.Graph, old: fx.Node, new: fx.Node, momentum: float) -> fx.Node:
    """The running statistics after this step."""
    aten = torch.ops.aten
    kept = _add(graph, aten.mul.Tensor, (old, 1 - momentum))
    return _add(graph, aten.add.Tensor, (kept, _add(graph, aten.mul.Tensor, (new, momentum))))
