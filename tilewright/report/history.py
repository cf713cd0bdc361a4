"""The course of a run, from the events of its log."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from tilewright.jsonable import Json
from tilewright.report.decoding import decode
from tilewright.tuning.run_events import (
    END,
    Event,
    KernelsEvent,
    LatencyEvent,
    MachineEvent,
    NetworkEvent,
    PhaseEvent,
    RoundEvent,
    SpaceEvent,
    TaskFunctions,
    Trial,
)

__all__ = ["History", "Phase", "TaskHistory", "best_so_far", "parse_events"]

_KINDS: dict[str, type[Event]] = {kind.event: kind for kind in get_args(Event)}


@dataclass(frozen=True)
class Phase:
    """A phase of the run: its name, and its begin and end in seconds since the start."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@dataclass
class TaskHistory:
    """What was tried for a task.

    Attributes:
        space: its design space; None: not known.
        rounds: in their order.
        choices: of the best config, by knob, for people.
    """

    space: SpaceEvent | None = None
    rounds: list[RoundEvent] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def trials(self) -> list[Trial]:
        """All candidates, in their order."""
        return [trial for each in self.rounds for trial in each.trials]


@dataclass
class History:
    """The course of a run.

    Attributes:
        phases: in their order.
        latencies: seconds since the start, and the estimated latency of the network then.
        tasks: by ``Task.key``.
        machine: what was noted of the machine, in order.
        functions: the tasks of the network that was published, or the latest known.
        kernels: the kernels in their places; None: they were not timed.
        end: seconds since the start of the last event.
        unread: lines that are no events.
    """

    phases: list[Phase] = field(default_factory=list)
    latencies: list[LatencyEvent] = field(default_factory=list)
    tasks: dict[str, TaskHistory] = field(default_factory=dict)
    machine: list[MachineEvent] = field(default_factory=list)
    functions: tuple[TaskFunctions, ...] = ()
    kernels: KernelsEvent | None = None
    end: float = 0.0
    unread: int = 0

    def add(self, event: Event) -> None:
        """Take in the next event."""
        self.end = max(self.end, event.t)
        if isinstance(event, PhaseEvent):
            self._begin(event)
        elif isinstance(event, LatencyEvent):
            self.latencies.append(event)
        elif isinstance(event, NetworkEvent):
            self.functions = event.tasks
        elif isinstance(event, SpaceEvent):
            self._task(event.task).space = event
        elif isinstance(event, RoundEvent):
            task = self._task(event.task)
            task.rounds.append(event)
            task.choices = dict(event.choices) or task.choices
        elif isinstance(event, MachineEvent):
            self.machine.append(event)
        else:
            self.kernels = event

    def running(self) -> Phase | None:
        """The phase that has begun and not ended; None: the run has ended."""
        last = self.phases[-1] if self.phases else None
        return last if last is not None and math.isinf(last.end) else None

    def ended(self) -> list[Phase]:
        """The phases, the one that goes on as if it ended with the last event."""
        return [Phase(p.name, p.begin, min(p.end, self.end)) for p in self.phases]

    def outcomes(self) -> list[tuple[float, Counter[str]]]:
        """How the candidates of each round ended, with the second in which the round ended."""
        rounds = sorted((each for task in self.tasks.values() for each in task.rounds), key=lambda each: each.t)
        return [(each.t, Counter(trial.outcome for trial in each.trials)) for each in rounds if each.trials]

    def _task(self, key: str) -> TaskHistory:
        return self.tasks.setdefault(key, TaskHistory())

    def _begin(self, event: PhaseEvent) -> None:
        if self.phases and math.isinf(self.phases[-1].end):
            last = self.phases[-1]
            self.phases[-1] = Phase(last.name, last.begin, event.t)
        if event.name != END:
            self.phases.append(Phase(event.name, event.t, math.inf))


def parse_events(lines: Iterable[str]) -> History:
    """The course of a run, from the lines of its log. Lines that are no events are counted, and passed over."""
    history = History()
    for line in lines:
        event = _parse(line)
        if event is not None:
            history.add(event)
        elif line.strip():
            history.unread += 1
    return history


def best_so_far(trials: Sequence[Trial]) -> list[float | None]:
    """The lowest latency in seconds up to each candidate; None before the first that worked."""
    best, found = math.inf, []
    for trial in trials:
        best = min(best, trial.seconds if trial.seconds is not None and trial.seconds > 0 else math.inf)
        found.append(best if math.isfinite(best) else None)
    return found


def _parse(line: str) -> Event | None:
    try:
        content: Json = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = _KINDS.get(str(content.get("event"))) if isinstance(content, dict) else None
    if kind is None:
        return None
    event = decode(kind, content)
    return event if math.isfinite(event.t) else None
