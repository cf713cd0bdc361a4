"""What became of a model in training: which parts run in our kernels, and what stays with PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.training.backend import sessions

if TYPE_CHECKING:
    import torch

    from tilewright.training.live import LivePart, State
    from tilewright.training.session import Kind

__all__ = ["GraphReport", "KernelShare", "PartReport", "TrainingReport", "report"]


@dataclass(frozen=True)
class KernelShare:
    """A kernel in its place.

    Attributes:
        name: of the kernel; empty: copies.
        seconds: of a step that all its calls take together.
        share: of the time of the part's kernels.
    """

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class PartReport:
    """A part of a graph.

    Attributes:
        name: of the part.
        state: how it runs now.
        reason: why it was left to PyTorch; empty: it was not.
        operators: its operators in order.
        ours, theirs: how often it ran in our kernels, and in PyTorch's.
        copies: inputs that were copied because they did not lie as kernels read them.
        our_seconds, their_seconds: the shortest of its last runs in our kernels, and in PyTorch's; nan: there are none.
        slower: whether PyTorch runs it because it is faster.
        kernels: its kernels as they were timed in their places, those that take longest first.
    """

    name: str
    state: State
    reason: str
    operators: tuple[str, ...]
    ours: int
    theirs: int
    copies: int
    our_seconds: float
    their_seconds: float
    slower: bool
    kernels: tuple[KernelShare, ...]


@dataclass(frozen=True)
class GraphReport:
    """A graph of a step.

    Attributes:
        kind: what it computes.
        steps: how often it ran.
        parts: what is compiled of it.
        operators: how many operators PyTorch runs besides.
    """

    kind: Kind
    steps: int
    parts: tuple[PartReport, ...]
    operators: int


@dataclass(frozen=True)
class TrainingReport:
    """A model in training.

    Attributes:
        graphs: the graphs that it ran.
    """

    graphs: tuple[GraphReport, ...]


def report(model: torch.nn.Module) -> TrainingReport:
    """What became of a model that was compiled with the backend ``tilewright``.

    Args:
        model: as it was compiled, or before. A model that has not run yet has no graphs.
    """
    parameters = set(model.parameters())
    found = []
    for session in sessions:
        if parameters.isdisjoint(session.parameters):
            continue
        found += [
            GraphReport(graph.kind, graph.steps, tuple(map(_describe, graph.parts)), graph.operators)
            for graph in session.graphs
        ]
    return TrainingReport(tuple(found))


def _describe(part: LivePart) -> PartReport:
    counts, kernels = part.counts, part.kernel_seconds
    total = sum(kernels.values()) or 1.0
    return PartReport(
        name=part.name,
        state=part.state,
        reason=part.reason,
        operators=part.part.operators,
        ours=counts.ours,
        theirs=counts.theirs,
        copies=counts.copies,
        our_seconds=min(counts.our_seconds, default=math.nan),
        their_seconds=min(counts.their_seconds, default=math.nan),
        slower=part.slower,
        kernels=tuple(
            KernelShare(name, seconds, seconds / total)
            for name, seconds in sorted(kernels.items(), key=lambda item: -item[1])
        ),
    )
