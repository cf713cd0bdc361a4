"""Compares the results of a part's executable with PyTorch's, which need not all be there at the same time.

Results that are within 1e-4 of PyTorch's are right. A deep part has others, too: numbers that cancel, such as the
gradient of a bias before a batch norm, are nothing but rounding errors. So PyTorch computes the part twice more: as it
is, and with inputs and weights that are moved by a rounding error. How far its own results move says how much of them
is rounding. If that does not explain a difference, PyTorch computes the part in float64, which takes many times as long
and knows better: PyTorch's sums of many numbers that cancel err always in the same way.
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

__all__ = ["TOLERANCE", "find_difference", "find_worst", "is_rounding"]

#: The largest difference between a result of ours and of PyTorch, relative to the largest number of that result.
TOLERANCE = 1e-4
#: The size of a rounding error by which inputs are moved, relative to each number: two units in the last place.
_MOVE = 2.0**-22
#: How many times as far from PyTorch's results ours may be as these move. (A choice.)
_NOISE = 8.0
#: The same, of a result of which PyTorch has no digit right, such as a mean that is 0. (A choice; 16 were seen.)
_ALL_NOISE = 100.0


def find_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest number; of integers and truth values, the share that differs.

    Numbers that are wanted to be infinite, or no numbers, are not compared. Where two pixels of a window differ by a
    rounding error, the place of the larger one may be either. What is ``found`` may be in blocks.
    """
    if not wanted.numel():
        return 0.0
    found = to_plain(found, wanted.shape)
    if not wanted.dtype.is_floating_point:
        return float((found != wanted).double().mean())
    finite = wanted.isfinite()
    if not finite.all():
        found, wanted = found[finite], wanted[finite]
        if not wanted.numel():
            return 0.0
    largest = float(wanted.abs().max())
    return float((found - wanted).abs_().max()) / (largest or 1.0)


def find_worst(
    module: fx.GraphModule, tensors: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> tuple[float, float, bool]:
    """The largest difference between results and PyTorch's, and the seconds that PyTorch took.

    The difference is that of :func:`find_difference`. The last item says whether all results of PyTorch's are finite.

    A forward pass gives all that it saves, which is most of the memory of a step. So each result is compared as soon as
    PyTorch has it, and is freed when nothing else needs it.

    Args:
        module: the part.
        tensors: what it takes.
        found: what it gave elsewhere. Images may be in blocks.
    """
    comparison = _Comparison(module, found)
    comparison.run(*tensors)
    return comparison.worst, comparison.seconds, comparison.finite


def is_rounding(module: fx.GraphModule, tensors: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Whether results differ from PyTorch's no more than rounding errors explain, or by at most 1e-4.

    PyTorch's results, and those of moved inputs, are computed side by side, and freed as in :func:`find_worst`.

    Args:
        module: the part.
        tensors: what it takes.
        found: what it gave elsewhere. Images may be in blocks.
    """
    for exact in (False, True):
        judge = _Judge(module, found, exact)
        generator = torch.Generator("cpu").manual_seed(0)
        judge.run(*(_Pair.of(tensor, exact, generator) for tensor in tensors))
        if judge.right:
            return True
    return False


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
    finite = True

    def run_node(self, n: fx.Node) -> object:
        """The value of a node, or nothing if no other node reads it."""
        begin = time.perf_counter()
        value = super().run_node(n)
        self.seconds += time.perf_counter() - begin
        for tensor in self._found.get(n.name, ()):
            difference = find_difference(tensor, value)
            self.finite = self.finite and bool(value.isfinite().all())
            self.worst = difference if difference != difference else max(self.worst, difference)
        return value if n.users else None


@dataclass(frozen=True)
class _Pair:
    """A value of PyTorch's, and the same of moved inputs or in float64. tree_map takes it for a leaf."""

    theirs: Any
    other: Any

    @classmethod
    def of(cls, tensor: torch.Tensor, exact: bool, generator: torch.Generator | None = None) -> _Pair:
        """A tensor that is given. ``generator`` draws by how much each number is moved; None: not at all."""
        if exact:
            return cls(tensor, tensor.double() if tensor.dtype == torch.float32 else tensor)
        if generator is None or not tensor.dtype.is_floating_point:
            return cls(tensor, tensor)
        move = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        move.uniform_(1 - _MOVE, 1 + _MOVE, generator=generator)
        return cls(tensor, tensor * move)


class _Judge(_Watching):
    """Computes pairs, of moved inputs or in float64. Once a result is wrong, nothing else is compared."""

    def __init__(self, module: fx.GraphModule, found: Sequence[torch.Tensor], exact: bool) -> None:
        super().__init__(module, found)
        self._exact, self.right = exact, True

    def run_node(self, n: fx.Node) -> object:
        """The pair of a node, or nothing if no other node reads it."""
        value = super().run_node(n)
        for tensor in self._found.get(n.name, ()) if self.right else ():
            wanted, others = (value.other, value.theirs) if self._exact else (value.theirs, value.other)
            self.right = find_difference(tensor, wanted) <= _bound_noise(find_difference(others, wanted))
        return value if n.users else None

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> object:
        """A constant of the part."""
        return _Pair.of(super().get_attr(target, args, kwargs), self._exact)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> object:
        """What an operator gives in both."""
        theirs = tree.tree_map_only(_Pair, lambda pair: pair.theirs, (args, kwargs))
        other = tree.tree_map_only(_Pair, lambda pair: pair.other, (args, kwargs))
        if self._exact:
            other = tree.tree_map_only(torch.dtype, lambda dtype: _WIDER.get(dtype, dtype), other)
        return _Pair(target(*theirs[0], **theirs[1]), target(*other[0], **other[1]))


def _bound_noise(rounding: float) -> float:
    """How much a result may be off, where rounding errors make up so much of it."""
    return max(TOLERANCE, (_NOISE if rounding < 1.0 else _ALL_NOISE) * rounding)


#: What operators that make tensors are asked for in float64.
_WIDER = {torch.float32: torch.float64}
