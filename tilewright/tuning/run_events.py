"""The events of a run: what its log holds, a line each.

Seconds ``t`` count from the start of the run. :mod:`tilewright.tuning.run_log` writes the events. Whoever shows the
progress may hear them, too (:class:`HearsEvents`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

__all__ = [
    "END",
    "Event",
    "HearsEvents",
    "KernelsEvent",
    "KnobText",
    "LatencyEvent",
    "MachineEvent",
    "NetworkEvent",
    "PhaseEvent",
    "RoundEvent",
    "SpaceEvent",
    "TaskFunctions",
    "Trial",
]

#: What ends the last phase.
END = "end"


@dataclass(frozen=True)
class PhaseEvent:
    """A phase of the run begins.

    Attributes:
        name: of the phase; ``end`` ends the last one.
    """

    event: ClassVar[str] = "phase"
    t: float
    name: str


@dataclass(frozen=True)
class LatencyEvent:
    """The estimated latency of the network changed, in seconds."""

    event: ClassVar[str] = "latency"
    t: float
    seconds: float


@dataclass(frozen=True)
class TaskFunctions:
    """A task of the network.

    Attributes:
        key: ``Task.key``.
        name: for people.
        functions: the names of its functions, with which the names of its kernels begin.
        weight: how often the network calls it.
        flop: floating-point operations of one call.
    """

    key: str
    name: str
    functions: tuple[str, ...]
    weight: float = 1.0
    flop: float = 0.0


@dataclass(frozen=True)
class NetworkEvent:
    """The network was cut into tasks; again if other algorithms were chosen."""

    event: ClassVar[str] = "network"
    t: float
    tasks: tuple[TaskFunctions, ...]


@dataclass(frozen=True)
class KnobText:
    """A knob for people.

    Attributes:
        name: of the knob.
        size: how many choices it has.
        choices: each choice; of a long list the first and the last.
    """

    name: str
    size: int
    choices: tuple[str, ...]


@dataclass(frozen=True)
class SpaceEvent:
    """The design space of a task was made.

    Attributes:
        task: ``Task.key``.
        template: its name and version.
        knobs: in the order of a config.
        recorded: measurements that were known before.
        possible: the latency in seconds that the machine's roofline allows; 0: not known.
        touched: bytes that a call reads or writes, each once; 0: not known.
    """

    event: ClassVar[str] = "space"
    t: float
    task: str
    template: str
    knobs: tuple[KnobText, ...]
    recorded: int
    possible: float = 0.0
    touched: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A candidate: its config, its latency in seconds, and how it ended (``Outcome.value``)."""

    config: tuple[int, ...]
    seconds: float | None
    outcome: str


@dataclass(frozen=True)
class RoundEvent:
    """A round of a task ended.

    Attributes:
        task: ``Task.key``.
        seconds: that it took.
        count: of its candidates.
        best: the best latency in seconds; None: none works so far.
        choices: of the best config, by knob, where it changed.
        trials: its candidates; empty in a log that has grown too large.
    """

    event: ClassVar[str] = "round"
    t: float
    task: str
    seconds: float
    count: int
    best: float | None
    choices: Mapping[str, str]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class MachineEvent:
    """What the workers met so far, and the memory now.

    Attributes:
        disturbed: candidates that were disturbed while they were timed, since the beginning.
        causes: how many each cause disturbed.
        replaced: workers that were lost.
        bytes: of this process.
        worker_bytes: the most that a worker has had.
    """

    event: ClassVar[str] = "machine"
    t: float
    disturbed: int
    causes: Mapping[str, int]
    replaced: int
    bytes: int
    worker_bytes: int


@dataclass(frozen=True)
class KernelsEvent:
    """The kernels of the published executable were timed in their places.

    Attributes:
        names: of the kernel of each call of the plan, in order; empty: a copy.
        seconds: the median of each call.
    """

    event: ClassVar[str] = "kernels"
    t: float
    names: tuple[str, ...]
    seconds: tuple[float, ...]


Event: TypeAlias = PhaseEvent | LatencyEvent | NetworkEvent | SpaceEvent | RoundEvent | MachineEvent | KernelsEvent


@runtime_checkable
class HearsEvents(Protocol):
    """A progress display that is told each event as well."""

    def hear(self, event: Event) -> None:
        """Take in an event, quickly: the run waits for it."""
        ...
