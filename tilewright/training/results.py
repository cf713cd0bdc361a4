"""What a training reports: frozen dataclasses, whose fields are the keys of :meth:`TrainingReport.write_json`.

Durations are in seconds. NaN, or None, stands for what is not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from tilewright.errors import OutputError
from tilewright.jsonable import JsonObject, finite, to_json_object
from tilewright.names import printable
from tilewright.wording import counted
from tilewright.writing import replace_file

__all__ = [
    "FORMAT",
    "TOLERANCE",
    "ChangeReport",
    "GraphReport",
    "KernelShare",
    "Kind",
    "PartReport",
    "ProofReport",
    "SlotReport",
    "State",
    "StepsReport",
    "TrainingReport",
]

#: What a graph of a step computes.
Kind: TypeAlias = Literal["forward", "backward", "inference"]
#: How a part of a graph runs now (:mod:`tilewright.training.live`).
State: TypeAlias = Literal["waiting", "ready", "running", "left"]

#: The largest difference between a result of ours and of PyTorch, relative to the largest number of that result. One
#: that is larger is right only if rounding errors explain it (:mod:`tilewright.training.proof`).
TOLERANCE = 1e-4
#: What the file of a report says that it is.
FORMAT = "tilewright training report"
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
        task: what it computes, for people; empty: not known.
        calls: in a step.
        flop: floating-point operations of all its calls; None: not known.
        touched_bytes: bytes that all its calls read or write, each once a call; None: not known.
        possible_seconds: that the machine's roofline allows for all its calls; None: not known.
    """

    name: str
    seconds: float
    share: float
    task: str = ""
    calls: int = 1
    flop: float | None = None
    touched_bytes: float | None = None
    possible_seconds: float | None = None


@dataclass(frozen=True)
class ProofReport:
    """How the results of a part compared with PyTorch's before our kernels were used.

    Attributes:
        right: whether rounding errors explain all differences.
        worst: the largest difference, relative to the largest number of its result; NaN: a number was missing.
        passed_over: steps before that, whose results were not all finite.
        in_step: whether the step itself was compared; otherwise another process did it with copies of what a step took.
        earlier: whether an earlier training has compared it, whose records are used.
    """

    right: bool
    worst: float = math.nan
    passed_over: int = 0
    in_step: bool = False
    earlier: bool = False


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
        proof: of its executable; None: it was not proven yet.
    """

    name: str
    state: State
    reason: str
    operators: tuple[str, ...]
    ours: int
    theirs: int
    copies: int
    our_seconds: float = math.nan
    their_seconds: float = math.nan
    slower: bool = False
    kernels: tuple[KernelShare, ...] = ()
    proof: ProofReport | None = None

    @property
    def in_ours(self) -> bool:
        """Whether our kernels run it at present."""
        return self.state == "running" and not self.slower


@dataclass(frozen=True)
class StepsReport:
    """Steps that followed each other.

    Attributes:
        begin, end: seconds since the first step.
        steps: how many they are.
        seconds: the median length of a step, without slots.
        shortest, longest: the extremes.
        ours: parts that ran in our kernels at the end.
        given: seconds that were given to tuning up to the end.
    """

    begin: float
    end: float
    steps: int
    seconds: float
    shortest: float
    longest: float
    ours: int = 0
    given: float = 0.0


@dataclass(frozen=True)
class ChangeReport:
    """A part runs in another way from a step on.

    Attributes:
        t: seconds since the first step.
        part: its name.
        state: ``running`` in our kernels, ``slower`` (PyTorch's kernels run it, because they are faster), or ``left``.
    """

    t: float
    part: str
    state: str


@dataclass(frozen=True)
class GraphReport:
    """A graph of a step.

    Attributes:
        kind: ``forward``, ``backward`` or ``inference``.
        steps: how often it ran.
        parts: the parts that are compiled.
        operators: how many further operators PyTorch runs.
        rest: how often each of these is in the graph, by name.
        course: the times of its steps; empty for a backward pass, which belongs to the step of a forward pass.
        changes: when its parts, and those of its backward pass, began to run in another way.
    """

    kind: Kind
    steps: int
    parts: tuple[PartReport, ...]
    operators: int
    rest: Mapping[str, int] = field(default_factory=dict)
    course: tuple[StepsReport, ...] = ()
    changes: tuple[ChangeReport, ...] = ()


@dataclass(frozen=True)
class SlotReport:
    """What the training gave to tuning. Models that are compiled with the same options share it.

    Attributes:
        seconds: of all slots.
        slots: how many there were.
        trials: candidates that were timed in real steps.
        generations: of candidates.
        ended: whether the budget is spent.
    """

    seconds: float = 0.0
    slots: int = 0
    trials: int = 0
    generations: int = 0
    ended: bool = False


@dataclass(frozen=True)
class TrainingReport:
    """What runs where in a model, and how its training went. As text, it is a list for people.

    Attributes:
        graphs: the graphs that the model ran.
        format: says what a file with this report is.
        model: the name of its class.
        machine: the name of the processor.
        cores: the threads that kernels run on.
        date: of the report, such as ``2026-11-30``.
        versions: of Tilewright and PyTorch, by name.
        options: of the backend, by name.
        before_seconds, now_seconds: the usual length of a step in PyTorch's kernels, and at present; NaN: not known.
        slots: what tuning got.
        roofline: the limits of the machine; None: they were not measured.
    """

    graphs: tuple[GraphReport, ...]
    format: str = FORMAT
    model: str = ""
    machine: str = ""
    cores: int = 0
    date: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    before_seconds: float = math.nan
    now_seconds: float = math.nan
    slots: SlotReport = field(default_factory=SlotReport)
    roofline: JsonObject | None = None

    def __str__(self) -> str:
        """A line for each graph, part and heavy kernel."""
        if not self.graphs:
            return _NO_GRAPHS
        return "\n".join(line for graph in self.graphs for line in _list_graph(graph))

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        from tilewright.notebook import html_table

        rows = [
            (part.name, _state(part), _milliseconds(part.our_seconds), _milliseconds(part.their_seconds), part.reason)
            for graph in self.graphs
            for part in graph.parts
        ]
        step = f"a step takes {_milliseconds(self.now_seconds)} ms, {_milliseconds(self.before_seconds)} in PyTorch"
        note = step if self.graphs else _NO_GRAPHS
        head = ("part", "state", "ms in our kernels", "ms in PyTorch", "why")
        return html_table(self.model or "a training", head, rows, note)

    @property
    def parts(self) -> tuple[PartReport, ...]:
        """The parts of all graphs."""
        return tuple(part for graph in self.graphs for part in graph.parts)

    def write_html(self, path: str | Path) -> None:
        """Write the page about the training: one HTML file that needs no network.

        Args:
            path: of the file.

        Raises:
            OutputError: the file cannot be written.
        """
        from tilewright.report.training_page import render_training

        _write(Path(path), render_training(self))

    def write_json(self, path: str | Path) -> None:
        """Write the report as JSON, of which ``tilewright report FILE`` makes a page later.

        Args:
            path: of the file.

        Raises:
            OutputError: the file cannot be written.
        """
        _write(Path(path), json.dumps(finite(to_json_object(self)), indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        with replace_file(path) as part:
            part.write_bytes(text.encode("utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"the report {printable(str(path))} cannot be written: {why}; name another file") from error


def _list_graph(graph: GraphReport) -> Iterator[str]:
    """The lines of a graph."""
    steps = counted(graph.steps, "run")
    yield f"{graph.kind} pass: {steps}, {counted(graph.operators, 'operator')} beside the parts in PyTorch"
    for part in graph.parts:
        yield from _list_part(part)


def _list_part(part: PartReport) -> Iterator[str]:
    """The lines of a part."""
    ours, theirs = counted(part.ours, "run"), counted(part.theirs, "run")
    ours, theirs = f"{ours}{_time(part.our_seconds)}", f"{theirs}{_time(part.their_seconds)}"
    operators = counted(len(part.operators), "operator")
    yield f"  {part.name}: {_state(part)}, {operators}; {ours} in our kernels, {theirs} in PyTorch"
    if part.reason:
        yield f"    {part.reason}"
    for kernel in part.kernels[:_SHOWN]:
        yield f"    {100 * kernel.share:3.0f} % {kernel.name or 'copies'}"


def _state(part: PartReport) -> str:
    return "PyTorch is faster" if part.slower and part.state == "running" else part.state


def _time(seconds: float) -> str:
    """A time in brackets; empty: not known."""
    return "" if math.isnan(seconds) else f" ({1e3 * seconds:.3g} ms)"


def _milliseconds(seconds: float) -> str:
    return "\u2013" if math.isnan(seconds) else f"{1e3 * seconds:.3g}"
