"""Compares the results of a part's executable with PyTorch's, which need not all be there at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import fx

from tilewright.training.saved import to_plain

__all__ = ["find_difference", "find_worst"]


def find_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest number; of integers and truth values, the share that differs.

    Where two pixels of a window differ by a rounding error, the place of the larger one may be either. What is
    ``found`` may be in blocks.
    """
    if not wanted.numel():
        return 0.0
    found = to_plain(found, wanted.shape)
    if not wanted.dtype.is_floating_point:
        return float((found != wanted).double().mean())
    largest = float(wanted.abs().max())
    return float((found - wanted).abs_().max()) / (largest or 1.0)


def find_worst(
    module: fx.GraphModule, tensors: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> tuple[float, float]:
    """The largest difference between results and PyTorch's, and the seconds that PyTorch took.

    The difference is that of :func:`find_difference`.

    A forward pass gives all that it saves, which is most of the memory of a step. So each result is compared as soon as
    PyTorch has it, and is freed when nothing else needs it.

    Args:
        module: the part.
        tensors: what it takes.
        found: what it gave elsewhere. Images may be in blocks.
    """
    comparison = _Comparison(module, found)
    comparison.run(*tensors)
    return comparison.worst, comparison.seconds


class _Comparison(fx.Interpreter):  # type: ignore[misc]
    """Runs a module whose results are compared, and not given."""

    def __init__(self, module: fx.GraphModule, found: Sequence[torch.Tensor]) -> None:
        graph = fx.Graph()
        results = graph.graph_copy(module.graph, {})
        graph.output(())
        super().__init__(fx.GraphModule(module, graph))
        self.worst = self.seconds = 0.0
        self._found: dict[str, list[torch.Tensor]] = {}
        for node, tensor in zip(results, found, strict=True):
            self._found.setdefault(node.name, []).append(tensor)

    def run_node(self, n: fx.Node) -> object:
        """The value of a node, or nothing if no other node reads it."""
        begin = time.perf_counter()
        value = super().run_node(n)
        self.seconds += time.perf_counter() - begin
        for tensor in self._found.get(n.name, ()):
            difference = find_difference(tensor, value)
            self.worst = difference if difference != difference else max(self.worst, difference)
        return value if n.users else None
