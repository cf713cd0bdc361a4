"""Telling people how tuning goes: a live display on a terminal, lines elsewhere, or nothing. Writes to stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from tilewright.wording import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from tilewright.tuning.report import NodeReport

__all__ = ["PlainProgress", "Progress", "RichProgress", "SilentProgress", "TuneState", "describe_state", "progress_for"]

#: The nodes of a kind that are shown with their trials.
_MOST_NODES = 6


@dataclass(frozen=True)
class TuneState:
    """How far tuning a network has come.

    Attributes:
        phase: the step of the command, such as ``reading`` or ``rounds``; empty: it is not known.
        remaining: seconds left; inf without a time limit.
        trials: candidates measured.
        trials_left: trials left; inf without a limit of trials.
        trials_per_second: of the time since tuning began.
        estimated_latency: of the network in seconds, the sum of weight x best; None while a task has no latency.
        failures: number of failed trials by the outcome's name.
        task: what is being tuned, for people; empty: none.
        tasks_done: how many tasks have had their first round.
        tasks: how many there are.
        tasks_without_success: how many have no working candidate so far, though they were tried.
        nodes: of the fleet that measures; empty: this machine does.
    """

    phase: str = ""
    remaining: float = math.inf
    trials: int = 0
    trials_left: float = math.inf
    trials_per_second: float = 0.0
    estimated_latency: float | None = None
    failures: Mapping[str, int] = field(default_factory=dict)
    task: str = ""
    tasks_done: int = 0
    tasks: int = 0
    tasks_without_success: int = 0
    nodes: tuple[NodeReport, ...] = ()


class Progress(Protocol):
    """Is shown how tuning goes. A context manager: a display begins on entering and ends on leaving."""

    def __enter__(self) -> Progress: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def update(self, state: TuneState) -> None:
        """Show ``state``. Called at the start of each phase, and before and after each round."""
        ...

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Show what stays on the screen, such as the plan; ``detail``: only where the user asked for details."""
        ...


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, state: TuneState) -> None:
        """Do nothing."""

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Do nothing."""


class PlainProgress:
    """One line for each phase, and every few seconds, for logs.

    Args:
        stream: where to; by default stderr.
        interval: seconds between two lines, at least.
        clock: gives seconds.
        verbose: whether details are shown.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        interval: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        verbose: bool = False,
    ) -> None:
        self._verbose = verbose
        self._stream = sys.stderr if stream is None else stream
        self._interval = interval
        self._clock = clock
        self._next = -math.inf
        self._hidden: TuneState | None = None
        self._phase = ""

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the last state, if it was not."""
        if self._hidden is not None:
            self._write(self._hidden)

    def update(self, state: TuneState) -> None:
        """Write a line, unless one of the same phase was just written."""
        self._hidden = state
        if self._clock() >= self._next or state.phase != self._phase:
            self._write(state)

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Write ``lines``; details only where ``verbose``."""
        for line in lines if self._verbose or not detail else ():
            print(line, file=self._stream, flush=True)

    def _write(self, state: TuneState) -> None:
        self._next = self._clock() + self._interval
        self._hidden, self._phase = None, state.phase
        print(describe_state(state), file=self._stream, flush=True)


class RichProgress:
    """A live display on a terminal, whose clock goes on between two updates.

    Args:
        console: where to; by default one on stderr.
        clock: gives seconds.
        verbose: whether details are shown.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic, verbose: bool = False
    ) -> None:
        self._verbose = verbose
        if console is None:
            from rich.console import Console

            console = Console(stderr=True)
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._state: TuneState | None = None
        self._since = 0.0

    def __enter__(self) -> RichProgress:
        from rich.live import Live

        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=4)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the display; its last state stays on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, state: TuneState) -> None:
        """Show ``state`` from the next refresh on."""
        self._state, self._since = state, self._clock()

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Print ``lines`` above the display; details only where ``verbose``."""
        for line in lines if self._verbose or not detail else ():
            self._console.print(line, markup=False, highlight=False)

    def _table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        if self._state is not None:
            for name, value in _rows(self._state, self._clock() - self._since):
                # As text: a task's name may hold brackets, which Rich would take for markup.
                table.add_row(Text(name, style="dim"), Text(value))
        return table


def progress_for(stream: TextIO | None = None, verbose: bool = False) -> Progress:
    """What suits the stream (by default stderr): a display on a terminal, else lines."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        return PlainProgress(stream, verbose=verbose)
    from rich.console import Console

    return RichProgress(Console(file=stream), verbose=verbose)


def describe_state(state: TuneState) -> str:
    """A state in one line."""
    return "; ".join(f"{name} {value}" for name, value in _rows(state, 0.0))


def _rows(state: TuneState, passed: float) -> list[tuple[str, str]]:
    """What is shown: name and value; ``passed`` seconds after the state was taken."""
    left = "no limit"
    if math.isfinite(state.remaining):
        left = _duration(max(0.0, state.remaining - passed))
    begun = [("phase", state.phase)] if state.phase else []
    begun.append(("time left", left))
    if not state.tasks and state.phase:  # nothing is tuned yet
        return begun
    trials = f"{state.trials} ({state.trials_per_second:.1f} per second)"
    if math.isfinite(state.trials_left):
        trials += f", {state.trials_left:.0f} left"
    latency = "not known yet" if state.estimated_latency is None else f"{1e3 * state.estimated_latency:.3f} ms"
    if state.tasks_without_success:
        latency += f" (without {counted(state.tasks_without_success, 'task')} with no working candidate)"
    failures = ", ".join(f"{kind} {count}" for kind, count in sorted(state.failures.items()) if count)
    rows = [
        *begun,
        ("trials", trials),
        ("estimated latency", latency),
        ("tasks", f"{state.tasks_done} of {state.tasks} begun"),
        ("failures", failures or "none"),
    ]
    rows += _node_rows(state.nodes)
    return [*rows, ("now", state.task)] if state.task else rows


def _node_rows(nodes: Sequence[NodeReport]) -> list[tuple[str, str]]:
    """The nodes of each kind, with their trials; and how many are lost or excluded."""
    rows = []
    for kind in dict.fromkeys(node.kind for node in nodes if node.state == "measuring"):
        found = [node for node in nodes if node.kind == kind and node.state == "measuring"]
        each = ", ".join(f"{node.name} {node.trials}" for node in found[:_MOST_NODES])
        more = f" and {len(found) - _MOST_NODES} more" if len(found) > _MOST_NODES else ""
        rows.append(("nodes", f"{len(found)} of kind {kind} ({each}{more})"))
    if builders := [node for node in nodes if node.state == "building"]:
        rows.append(("builders", f"{len(builders)} (built {sum(node.built for node in builders)})"))
    gone = {state: sum(node.state == state for node in nodes) for state in ("lost", "excluded")}
    if any(gone.values()):
        rows.append(("gone", ", ".join(f"{counted(count, 'node')} {state}" for state, count in gone.items() if count)))
    return rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
