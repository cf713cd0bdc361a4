"""The graph convolutional network in PyTorch. It is imported where it is used, because PyTorch loads for seconds."""

from __future__ import annotations

import warnings
from itertools import pairwise

import torch

from tilewright.cost.ast_graph import NodeKind

with warnings.catch_warnings():
    # PyTorch Geometric 2.8 compiles some functions in a way that PyTorch 2.13 calls deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.nn import GCNConv

__all__ = ["GraphNetwork"]


class GraphNetwork(torch.nn.Module):  # type: ignore[misc]
    """Embeds nodes by kind and numbers; then come graph convolutions with skip connections, pooling, and a perceptron.

    The convolution is Kipf and Welling's (arXiv 1609.02907) on each program's own tree. The trees of a task are parts
    of one graph. Nodes that are absent from a program send nothing and count as no neighbours. So degrees differ from
    program to program, and the scaling by degrees is done here, around ``GCNConv``, which has one degree a node.

    The first axis of tensors is that of nodes, and the second that of programs. A message is then one long copy, which
    is 4 times as fast as with the axes exchanged.

    Args:
        width: the numbers of a node.
        extra: the numbers of a program.
        hidden: the sizes of the embedding and of each convolution.
        pooling: ``mean`` of the nodes, or ``attention``: for each channel a mean that is weighted by a softmax over the
            nodes (Li et al., arXiv 1511.05493, section 3.3, with a softmax instead of a sigmoid).
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

    def forward(
        self,
        kinds: torch.Tensor,
        edges: torch.Tensor,
        adjacency: torch.Tensor,
        numbers: torch.Tensor,
        present: torch.Tensor,
        extra: torch.Tensor,
    ) -> torch.Tensor:
        """The ``(n,)`` scores of programs.

        Args:
            kinds: ``(N,)`` int64.
            edges: ``(2, E)`` int64, in both directions, and one from each node to itself.
            adjacency: ``(N, N)`` the edges as a matrix of zeros and ones.
            numbers: ``(N, n, width)``, standardised.
            present: ``(N, n)`` zeros and ones.
            extra: ``(n, extra)``, standardised.
        """
        # An absent node may have 0 neighbours, itself included.
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
