"""Compares the results of a part's executable with PyTorch's, which need not all be there at the same time.

Results that are within 1e-4 of PyTorch's are right. A deep part has others, too: numbers that cancel, such as the
gradient of a bias before a batch norm, are nothing but rounding errors. They are judged by float64. PyTorch's own
distance from it says how much of a result is rounding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as tree

from tilewright.training.saved import to_plain

__all__ = ["TOLERANCE", "find_difference", "find_worst", "is_as_exact"]

#: The largest difference between a result of ours and of PyTorch, relative to the largest number of that result.
TOLERANCE = 1e-4
#: How many times PyTorch's own rounding errors ours may be, where these are all that a result holds. (A choice.)
_NOISE = 8.0
#: The same, of a result of which PyTorch has no digit right, such as a mean that is 0. (A choice; 16 were seen.)
_ALL_NOISE = 100.0


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


def is_as_exact(module: fx.GraphModule, tensors: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Whether results are as near to those in float64 as PyTorch's are, or within 1e-4.

    Both are computed side by side, and compared and freed as in :func:`find_worst`.

    Args:
        module: the part.
        tensors: what it takes.
        found: what it gave elsewhere. Images may be in blocks.
    """
    judge = _Judge(module, found)
    judge.run(*(_Pair.of(tensor) for tensor in tensors))
    return judge.right


class _Watching(fx.Interpreter):  # type: ignore[misc]
    """Runs a module whose results are looked at one by one, and not given."""

    def __init__(self, module: fx.GraphModule, found: Sequence[torch.Tensor]) -> None:
        graph = fx.Graph()
        results = graph.graph_copy(module.graph, {})
        graph.output(())
        super().__init__(fx.GraphModule(module, graph))
        self._found: dict[str, list[torch.Tensor]] = {}
        for node, tensor in zip(results, found, strict=True):
            self._found.setdefault(node.name, []).append(tensor)


class _Comparison(_Watching):
    """Compares each result with what was found."""

    worst = seconds = 0.0

    def run_node(self, n: fx.Node) -> object:
        """The value of a node, or nothing if no other node reads it."""
        begin = time.perf_counter()
        value = super().run_node(n)
        self.seconds += time.perf_counter() - begin
        for tensor in self._found.get(n.name, ()):
            difference = find_difference(tensor, value)
            self.worst = difference if difference != difference else max(self.worst, difference)
        return value if n.users else None


@dataclass(frozen=True)
class _Pair:
    """A value of PyTorch's, and the same in float64. tree_map takes it for a leaf."""

    theirs: Any
    exact: Any

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Pair:
        """A tensor that is given."""
        return cls(tensor, tensor.double() if tensor.dtype == torch.float32 else tensor)


class _Judge(_Watching):
    """Computes pairs. Once a result is wrong, nothing else is compared."""

    right = True

    def run_node(self, n: fx.Node) -> object:
        """The pair of a node, or nothing if no other node reads it."""
        value = super().run_node(n)
        for tensor in self._found.get(n.name, ()) if self.right else ():
            allowed = _bound_noise(find_difference(value.theirs, value.exact))
            self.right = find_difference(tensor, value.exact) <= allowed
        return value if n.users else None

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> object:
        """A constant of the part."""
        return _Pair.of(super().get_attr(target, args, kwargs))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> object:
        """What an operator gives in both."""
        theirs = tree.tree_map_only(_Pair, lambda pair: pair.theirs, (args, kwargs))
        exact = tree.tree_map_only(_Pair, lambda pair: pair.exact, (args, kwargs))
        exact = tree.tree_map_only(torch.dtype, lambda dtype: _WIDER.get(dtype, dtype), exact)
        return _Pair(target(*theirs[0], **theirs[1]), target(*exact[0], **exact[1]))


def _bound_noise(theirs: float) -> float:
    """How much a result may differ from that in float64, of which PyTorch's own differs by ``theirs``."""
    return max(TOLERANCE, (_NOISE if theirs < 1.0 else _ALL_NOISE) * theirs)


#: What operators that make tensors are asked for in float64.
_WIDER = {torch.float32: torch.float64}
