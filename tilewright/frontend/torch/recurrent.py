"""Recurrent operators of PyTorch: which of them have a kernel, and their weights, stacked as the kernel takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.torch.graph import TorchGraph, name_of

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["RECURRENT", "keep_recurrent", "stack_weights"]

#: The operators that have a kernel.
RECURRENT = ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
#: The arguments of such an operator.
_WEIGHTS, _BIASES, _LAYERS, _BIDIRECTIONAL = 2, 3, 4, 7


def keep_recurrent(name: str) -> Callable[..., object]:
    """What decomposes a recurrent operator: nothing, if it has a kernel; otherwise PyTorch.

    Args:
        name: one of ``RECURRENT``.
    """
    import torch

    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload)
    parts = torch._decomp.get_decompositions([operator])[operator]

    def decompose(x: torch.Tensor, states: object, weights: Sequence[torch.Tensor], *more: object) -> object:
        # Weights of another shape project the states, and the kernels compute in float32.
        plain = len(weights) == (4 if more[0] else 2) * int(str(more[1])) * (2 if more[4] else 1)
        return NotImplemented if plain and x.dtype == torch.float32 else parts(x, states, weights, *more)

    return decompose


def stack_weights(graph: TorchGraph) -> None:
    """The weights of both directions of a layer --> one tensor: of inputs, of states, and both biases.

    The weights of a layer then are ``(D, G * H, I)``, ``(D, G * H, H)`` and twice ``(D, G * H)``, where D is the number
    of directions, G that of the gates, H the units, and I the inputs.
    """
    import torch

    for node in graph.calls:
        if name_of(node).removeprefix("aten.") not in RECURRENT:
            continue
        given = list(node.args[_WEIGHTS])
        directions, kinds = 2 if node.args[_BIDIRECTIONAL] else 1, 4 if node.args[_BIASES] else 2
        stacked: list[fx.Node] = []
        for layer in range(int(node.args[_LAYERS])):
            of_layer = given[layer * directions * kinds : (layer + 1) * directions * kinds]
            for kind in range(kinds):
                parts = [of_layer[kind + kinds * direction] for direction in range(directions)]
                if any(part not in graph.weights for part in parts):
                    raise ValueError("the weights of a recurrent operator are constants")
                tensor = torch.stack([graph.weights[part] for part in parts])
                stacked.append(graph.add_weight(f"{node.name}_weights{layer}_{kind}", tensor))
        node.args = (*node.args[:_WEIGHTS], stacked, *node.args[_WEIGHTS + 1 :])
    graph.drop_dead()
