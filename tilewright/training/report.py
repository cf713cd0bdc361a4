"""What became of a model in training: which parts run in our kernels, and what stays with PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.training.backend import sessions

if TYPE_CHECKING:
    import torch

    from tilewright.training.live import State
    from tilewright.training.session import Kind

__all__ = ["GraphReport", "PartReport", "TrainingReport", "report"]


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
    """

    name: str
    state: State
    reason: str
    operators: tuple[str, ...]
    ours: int
    theirs: int
    copies: int


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
            GraphReport(
                graph.kind,
                graph.steps,
                tuple(
                    PartReport(
                        part.name,
                        part.state,
                        part.reason,
                        part.part.operators,
                        part.counts.ours,
                        part.counts.theirs,
                        part.counts.copies,
                    )
                    for part in graph.parts
                ),
                graph.operators,
            )
            for graph in session.graphs
        ]
    return TrainingReport(tuple(found))
