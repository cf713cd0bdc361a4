"""Compares the results of a part's executable with PyTorch's, one by one.

PyTorch computes each result from the results before it *as our kernels gave them*:

    a = f(x); b = g(a)    ours a, b    -->    compare a with f(x), and b with g(ours a)

So rounding errors do not add up along a deep network, and a wrong result is found where it is made.

Results that are within 1e-4 of PyTorch's are right. A deep part has others, too: numbers that cancel, such as the
gradient of a bias before a batch norm, are nothing but rounding errors. So PyTorch computes those results once more,
from data that are moved by a rounding error. How far its own results move says how much of them is rounding. If that
does not explain a difference, PyTorch computes these results in float64, which takes many times as long and knows
better: PyTorch's sums of many numbers that cancel err always in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as tree

from tilewright.frontend.torch.part import Layout
from tilewright.training.results import TOLERANCE
from tilewright.training.saved import to_plain

__all__ = ["Comparison", "compare", "find_difference", "is_rounding"]

#: The size of a rounding error by which data are moved, relative to each number: two units in the last place.
_MOVE = 2.0**-22
#: How many times as far from PyTorch's results ours may be as these move. (A choice.)
_NOISE = 8.0
#: The same, of a result of which PyTorch has no digit right, such as a mean that is 0. (A choice; 16 were seen.)
_ALL_NOISE = 100.0
#: Numbers that are looked at together: with what is computed of them they stay in a second-level cache.
_PIECE = 1 << 17


@dataclass
class Comparison:
    """What a comparison with PyTorch has found.

    Attributes:
        worst: the largest difference of a result, as :func:`find_difference` has it; nan: a number is missing.
        seconds: that PyTorch took.
        finite: whether all results of PyTorch's are finite.
        doubtful: by their places, PyTorch's results that differ by more than 1e-4.
        strides: by their places, how PyTorch's results lie. Ours may lie without the gaps of a view.
    """

    worst: float = 0.0
    seconds: float = 0.0
    finite: bool = True
    doubtful: dict[int, torch.Tensor] = field(default_factory=dict)
    strides: dict[int, tuple[int, ...]] = field(default_factory=dict)


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
    order = _find_order(wanted)
    found, wanted = _flatten(found, order), _flatten(wanted, order)
    largest = _find_largest(wanted)
    if not largest < float("inf"):
        finite = wanted.isfinite()
        found, wanted = found[finite], wanted[finite]
        if not wanted.numel():
            return 0.0
        largest = _find_largest(wanted)
    return _find_largest(found, wanted) / (largest or 1.0)


def compare(
    module: fx.GraphModule, outputs: Sequence[Layout], tensors: Sequence[torch.Tensor], found: Sequence[torch.Tensor]
) -> Comparison:
    """Compare the results of a part with PyTorch's.

    A forward pass gives all that it saves, which is most of the memory of a step. So each result is compared as soon as
    PyTorch has it, and is freed when nothing else needs it.

    Args:
        module: the part.
        outputs: the layouts of its results.
        tensors: what it takes.
        found: what it gave elsewhere. Images may be in blocks.
    """
    run = _Comparing(module, outputs, found)
    run.run(*tensors)
    run.comparison.seconds = run.seconds
    return run.comparison


def is_rounding(
    module: fx.GraphModule,
    outputs: Sequence[Layout],
    tensors: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    comparison: Comparison,
) -> bool:
    """Whether results differ from PyTorch's no more than rounding errors explain, or by at most 1e-4.

    Only what these results need is computed.

    Args:
        module: the part.
        outputs: the layouts of its results.
        tensors: what it takes.
        found: what it gave elsewhere. Images may be in blocks.
        comparison: of these results.
    """
    doubtful: Mapping[int, torch.Tensor] = comparison.doubtful
    if not doubtful:
        return True
    for kind in (_Moving, _Exact):
        run = kind(module, outputs, found, doubtful, comparison.strides)
        run.run(*tensors)
        doubtful = {place: doubtful[place] for place in run.wrong}
        if not doubtful:
            return True
    return False


def _find_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost; as they are if elements do not lie side by side."""
    order = Layout.of(tensor).order
    return tuple(range(tensor.dim())) if order is None else order


def _flatten(tensor: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """The elements in the order of these dimensions, the outermost first. No copy if they lie so."""
    return tensor.permute(order).reshape(-1)


def _find_largest(numbers: torch.Tensor, others: torch.Tensor | None = None) -> float:
    """The largest absolute value, or difference to ``others``; nan if one is no number. Both have one dimension.

    Pieces that stay in the caches take a fifth of the time of whole tensors.
    """
    ends = []
    for begin in range(0, len(numbers), _PIECE):
        piece = numbers[begin : begin + _PIECE]
        ends += (piece if others is None else piece - others[begin : begin + _PIECE]).aminmax()
    return float(torch.stack(ends).abs().max()) if ends else 0.0


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is infinite or missing."""
    if not tensor.dtype.is_floating_point:
        return True
    return _find_largest(_flatten(tensor, _find_order(tensor))) < float("inf")


def _give(place: int) -> torch.Tensor:
    """Stands in a graph for a result as our kernels gave it."""
    raise NotImplementedError(f"whoever runs the graph gives result {place}")


class _Watching(fx.Interpreter):  # type: ignore[misc]
    """Runs a part whose results are looked at one by one, and not given. What reads a result reads ours.

    Args:
        module: the part.
        outputs: the layouts of its results.
        found: our results.
        places: of the results that are looked at. Only what these need is computed.
        strides: by their places, how PyTorch's results lie, as far as is known.

    Attributes:
        seconds: that PyTorch took.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        outputs: Sequence[Layout],
        found: Sequence[torch.Tensor],
        places: Collection[int],
        strides: dict[int, tuple[int, ...]],
    ) -> None:
        graph = fx.Graph()
        results = graph.graph_copy(module.graph, {})
        order = {node: number for number, node in enumerate(graph.nodes)}
        for node, place in {node: place for place, node in enumerate(results)}.items():
            if node.users and outputs[place].order is not None:
                with graph.inserting_before(min(node.users, key=order.__getitem__)):
                    ours = graph.call_function(_give, (place,))
                node.replace_all_uses_with(ours)
        self._places: dict[str, list[int]] = {}
        for place in sorted(places):
            self._places.setdefault(results[place].name, []).append(place)
        last = graph.output(tuple(results[place] for place in sorted(places)))
        graph.eliminate_dead_code()
        last.args = ((),)
        super().__init__(fx.GraphModule(module, graph))
        self._outputs, self._found, self._strides = outputs, found, strides
        self._given = {node.args[0] for node in self.graph.nodes if node.target is _give}
        self._laid: dict[int, torch.Tensor] = {}
        self.seconds = 0.0

    def run_node(self, n: fx.Node) -> object:
        """The value of a node, or nothing if no other node reads it."""
        if n.target is _give:
            place = n.args[0]
            return self._take(self._laid.pop(place) if place in self._laid else self._lay(place))
        begin = time.perf_counter()
        value = super().run_node(n)
        self.seconds += time.perf_counter() - begin
        for place in self._places.get(n.name, ()):
            self._look(place, value)
        if not n.users:
            return None
        return self._take(value) if n.op in ("placeholder", "get_attr") else value

    def _look(self, place: int, value: torch.Tensor) -> None:
        """Look at a result of PyTorch's."""
        raise NotImplementedError

    def _take(self, tensor: torch.Tensor) -> torch.Tensor:
        """What PyTorch computes with in the place of a tensor that is given."""
        return tensor

    def _lay(self, place: int) -> torch.Tensor:
        """Our result, in the order in which PyTorch's own lies in memory."""
        found, layout = self._found[place], self._outputs[place]
        strides = self._strides.get(place, layout.strides)
        made = torch.empty_strided(layout.shape, strides, dtype=found.dtype, device=found.device)
        if found.shape == made.shape:
            return made.copy_(found)
        made.unflatten(1, (-1, found.shape[-1])).copy_(found.permute(0, 1, 4, 2, 3))
        return made


class _Comparing(_Watching):
    """Compares each result with ours."""

    def __init__(self, module: fx.GraphModule, outputs: Sequence[Layout], found: Sequence[torch.Tensor]) -> None:
        self.comparison = Comparison()
        super().__init__(module, outputs, found, range(len(found)), self.comparison.strides)

    def _look(self, place: int, value: torch.Tensor) -> None:
        """Note how far our result is from PyTorch's."""
        noted, ours = self.comparison, self._found[place]
        if place in self._given:
            if all(stride or extent == 1 for stride, extent in zip(value.stride(), value.shape, strict=True)):
                noted.strides[place] = value.stride()
            ours = self._laid[place] = self._lay(place)
        difference = find_difference(ours, value)
        noted.finite = noted.finite and _is_finite(value)
        noted.worst = difference if difference != difference else max(noted.worst, difference)
        if not difference <= TOLERANCE:
            noted.doubtful[place] = value


class _Moving(_Watching):
    """Computes results from moved data. How far they are from PyTorch's is how far ours may be.

    Args:
        module: the part.
        outputs: the layouts of its results.
        found: our results.
        doubtful: PyTorch's results that are looked at.
        strides: by their places, how PyTorch's results lie.

    Attributes:
        wrong: the places of those results that are farther off.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        outputs: Sequence[Layout],
        found: Sequence[torch.Tensor],
        doubtful: Mapping[int, torch.Tensor],
        strides: dict[int, tuple[int, ...]],
    ) -> None:
        super().__init__(module, outputs, found, doubtful, strides)
        self._doubtful = doubtful
        self._generator = torch.Generator("cpu").manual_seed(0)
        # To draw numbers takes five times as long as to multiply by them, so they are used again.
        self._factors = torch.empty(2 * _PIECE).uniform_(1 - _MOVE, 1 + _MOVE, generator=self._generator)
        self.wrong: list[int] = []

    def _look(self, place: int, value: torch.Tensor) -> None:
        """Judge our result by this one of moved data."""
        theirs = self._doubtful[place]
        self._judge(place, theirs, find_difference(value, theirs))

    def _judge(self, place: int, wanted: torch.Tensor, rounding: float) -> None:
        """Judge our result by what it should be, and by how far another one with rounding errors is from that."""
        bound = max(TOLERANCE, (_NOISE if rounding < 1.0 else _ALL_NOISE) * rounding)
        if not find_difference(self._found[place], wanted) <= bound:
            self.wrong.append(place)

    def _take(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, each of whose numbers is moved by a rounding error."""
        if not tensor.dtype.is_floating_point:
            return tensor
        moved = torch.empty_like(tensor)
        order = _find_order(moved)
        numbers, target = _flatten(tensor, order), _flatten(moved, order)
        for begin in range(0, len(numbers), _PIECE):
            piece = numbers[begin : begin + _PIECE]
            first = int(torch.randint(_PIECE, (), generator=self._generator))
            torch.mul(piece, self._factors[first : first + len(piece)], out=target[begin : begin + _PIECE])
        return moved


class _Exact(_Moving):
    """Computes results in float64, and judges ours by how far PyTorch's are from them."""

    def _look(self, place: int, value: torch.Tensor) -> None:
        """Judge our result by this one."""
        self._judge(place, value, find_difference(self._doubtful[place], value))

    def _take(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in float64."""
        return tensor.double() if tensor.dtype == torch.float32 else tensor

    def call_function(self, target: Any, args: Any, kwargs: Any) -> object:
        """What an operator gives in float64."""
        args, kwargs = tree.tree_map_only(torch.dtype, lambda dtype: _WIDER.get(dtype, dtype), (args, kwargs))
        return super().call_function(target, args, kwargs)


#: What operators that make tensors are asked for in float64.
_WIDER = {torch.float32: torch.float64}
