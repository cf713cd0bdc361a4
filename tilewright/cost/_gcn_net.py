"""The graph convolutional network in PyTorch; imported where it is used, for loading PyTorch takes seconds."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import torch

from tilewright.cost.ast_graph import NodeKind

with warnings.catch_warnings():
    # PyTorch Geometric 2.8 compiles a few of its functions in a way that PyTorch 2.13 calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.nn import GCNConv

__all__ = ["GraphNetwork"]


class GraphNetwork(torch.nn.Module):  # type: ignore[misc]
    """Nodes embedded by kind and numbers, graph convolutions with skip connections, pooling, and a perceptron.

    The convolution is Kipf and Welling's (arXiv 1609.02907) on each program's own tree: of the one graph that the
    programs of a task are parts of, the absent nodes neither send nor count as neighbours. That needs degrees per
    program, so it is done here around ``GCNConv``, which would have them for the whole graph.

    Nodes come first and programs second, for then a message is one long copy: 4 times as fast as the other way round.

    Args:
        width: numbers of a node.
        extra: numbers of a program.
        hidden: of the embedding and of each convolution after it.
        pooling: ``mean`` of the nodes, or ``attention``: a mean weighted by a softmax over the nodes, for each
            channel its own (Li et al., arXiv 1511.05493, section 3.3, with a softmax instead of a sigmoid).
    """

    def __init__(self, width: int, extra: int, hidden: tuple[int, ...], pooling: str) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(width, hidden[0])
        self.kinds = torch.nn.Embedding(len(NodeKind), hidden[0])
        self.convolutions = torch.nn.ModuleList(
            GCNConv(a, b, normalize=False, bias=False, node_dim=0) for a, b in pairwise(hidden)
        )
        self.biases = torch.nn.ParameterList(torch.zeros(b) for b in hidden[1:])
        self.gate = torch.nn.Linear(hidden[-1], hidden[-1]) if pooling == "attention" else None
        self.head = torch.nn.Sequential(
            torch.nn.Linear(hidden[-1] + extra, hidden[-1]), torch.nn.ReLU(), torch.nn.Linear(hidden[-1], 1)
        )

    def forward(self, kinds: Any, edges: Any, adjacency: Any, numbers: Any, present: Any, extra: Any) -> Any:
        """``(n,)`` scores.

        Args:
            kinds: ``(N,)`` int64.
            edges: ``(2, E)`` int64, both directions, and one from each node to itself.
            adjacency: ``(N, N)`` the same as a matrix of zeros and ones.
            numbers: ``(N, n, width)``, standardised.
            present: ``(N, n)`` zeros and ones.
            extra: ``(n, extra)``, standardised.
        """
        # At an absent node there may be 0 neighbours, itself included.
        scale = (present * (adjacency @ present).clamp(min=1).rsqrt())[:, :, None]
        x = torch.relu(self.embed(numbers) + self.kinds(kinds)[:, None])
        for convolution, bias in zip(self.convolutions, self.biases, strict=True):
            y = torch.relu(convolution(x * scale, edges) * scale + bias)
            x = x + y if x.shape == y.shape else y
        if self.gate is None:
            weights = (present / present.sum(dim=0).clamp(min=1))[:, :, None]
        else:
            weights = torch.softmax(self.gate(x).masked_fill(present[:, :, None] == 0, -torch.inf), dim=0)
        pooled = (x * weights).sum(dim=0)
        return self.head(torch.cat([pooled, extra], dim=1))[:, 0]
