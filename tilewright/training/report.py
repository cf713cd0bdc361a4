"""Reports which parts of a model run in our kernels, how fast they are, and what stays with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.training.backend import sessions
from tilewright.wording import counted

if TYPE_CHECKING:
    import torch

    from tilewright.training.live import LivePart, State
    from tilewright.training.session import Kind

__all__ = ["GraphReport", "KernelShare", "PartReport", "TrainingReport", "report"]

#: Kernels of a part that are shown to people.
_SHOWN = 3
#: What is said of a model without a graph.
_NO_GRAPHS = (
    "No graph of this model has reached tilewright: it has not run yet, or PyTorch compiles nothing of it. "
    "That is so for a function that calls an LSTM, a GRU or an RNN; modules that it calls are compiled."
)


@dataclass(frozen=True)
class KernelShare:
    """A kernel, timed in a real step.

    Attributes:
        name: of the kernel; empty: copies.
        seconds: that all its calls in a step take together.
        share: of the time of all kernels of the part, from 0 to 1.
    """

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class PartReport:
    """A part: a piece of a graph that is compiled as a whole.

    Attributes:
        name: of the part.
        state: ``waiting`` for kernels, ``ready`` to be compared with PyTorch, ``running`` in our kernels, or
            ``left`` to PyTorch.
        reason: why it was left to PyTorch; empty: it was not.
        operators: its operators in order.
        ours, theirs: how often it ran in our kernels, and in PyTorch's.
        copies: how many inputs were copied, because kernels read another layout or alignment.
        our_seconds, their_seconds: the shortest of its last runs in our kernels, and in PyTorch's; nan: there are none.
        slower: whether PyTorch's kernels run it at present, because they are faster.
        kernels: its kernels, as they were timed in a real step; the heaviest first.
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
        kind: ``forward``, ``backward`` or ``inference``.
        steps: how often it ran.
        parts: the parts that are compiled.
        operators: how many further operators PyTorch runs.
    """

    kind: Kind
    steps: int
    parts: tuple[PartReport, ...]
    operators: int


@dataclass(frozen=True)
class TrainingReport:
    """What runs where in a model. As text, it is a list for people.

    Attributes:
        graphs: the graphs that the model ran.
    """

    graphs: tuple[GraphReport, ...]

    def __str__(self) -> str:
        """A line for each graph, part and heavy kernel."""
        if not self.graphs:
            return _NO_GRAPHS
        return "\n".join(line for graph in self.graphs for line in _list_graph(graph))


def report(model: torch.nn.Module) -> TrainingReport:
    """Report on a model that was compiled with the backend ``tilewright``.

    Args:
        model: the compiled model, or the one that was compiled. A model that has not run yet has no graphs. Models of
            one class that are compiled with the same options share their graphs.

    Returns:
        what runs where. As text, it is a list for people.

    Raises:
        TilewrightError: it is no module.
    """
    if not hasattr(model, "parameters"):
        raise TilewrightError(f"report() takes the module whose parameters are trained, but got {model!r}")
    parameters = set(model.parameters())
    found = []
    for session in list(sessions):
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


def _list_graph(graph: GraphReport) -> Iterator[str]:
    """The lines of a graph."""
    steps = counted(graph.steps, "run")
    yield f"{graph.kind} pass: {steps}, {counted(graph.operators, 'operator')} beside the parts in PyTorch"
    for part in graph.parts:
        yield from _list_part(part)


def _list_part(part: PartReport) -> Iterator[str]:
    """The lines of a part."""
    state = "PyTorch is faster" if part.slower and part.state == "running" else part.state
    ours, theirs = counted(part.ours, "run"), counted(part.theirs, "run")
    ours, theirs = f"{ours}{_time(part.our_seconds)}", f"{theirs}{_time(part.their_seconds)}"
    operators = counted(len(part.operators), "operator")
    yield f"  {part.name}: {state}, {operators}; {ours} in our kernels, {theirs} in PyTorch"
    if part.reason:
        yield f"    {part.reason}"
    for kernel in part.kernels[:_SHOWN]:
        yield f"    {100 * kernel.share:3.0f} % {kernel.name or 'copies'}"


def _time(seconds: float) -> str:
    """A time in brackets; empty: not known."""
    return "" if math.isnan(seconds) else f" ({1e3 * seconds:.3g} ms)"
