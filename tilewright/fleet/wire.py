"""What the head of a fleet and its nodes send each other: plain data.

Work    -> entries of a Report: each measurement as it is made, then Done
hello   -> Announcement
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.measure.batch import PoolStatistics
from tilewright.measure.limits import Limits
from tilewright.measure.outcome import Measurement
from tilewright.ops.generic.generation import Generated
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tilewright.fleet.canary import CanaryAnswer

__all__ = ["Announcement", "Done", "Entry", "Report", "Versions", "Work", "kind_of"]


def kind_of(target: Target) -> str:
    """The kind of a machine: the key of its target, whatever caches candidates are timed with."""
    return replace(target, caches="warm").key


@dataclass(frozen=True)
class Versions:
    """What must agree between the head and a node."""

    tilewright: str
    python: str

    @classmethod
    def here(cls) -> Versions:
        """Those of this process."""
        return cls(metadata.version("tilewright"), ".".join(platform.python_version_tuple()[:2]))


@dataclass(frozen=True)
class Announcement:
    """What a node says of itself when it joins.

    Attributes:
        name: of the machine, for people.
        target: of the machine.
        limits: what its cores reached.
        canary: its answer to a question with a known answer.
        versions: of what is installed on it.
        builder: whether it compiles candidates for other nodes, and measures none.
        architecture: of its processor, as ``platform.machine()`` says.
    """

    name: str
    target: Target
    limits: Limits
    canary: CanaryAnswer
    versions: Versions
    builder: bool = False
    architecture: str = field(default_factory=platform.machine)

    @property
    def kind(self) -> str:
        """The kind of machine."""
        return kind_of(self.target)


@dataclass(frozen=True)
class Work:
    """Some candidates of one task, for one node.

    Attributes:
        number: of this work; no other work of the session has it.
        session: whose work it is.
        task: the task of the candidates.
        template: of their design space.
        default: the default config of the design space.
        configs: the candidates, ``(n, knobs)`` int32.
        target: what is measured for.
        best: the latency to beat in seconds; inf: none.
        seconds: after which no further candidate is started, from the arrival of the work on; inf: no limit.
        race: whether the candidates are timed by turns.
        generated: what MetaSchedule's generator made of the task; None: the task needs none.
        build: whether the candidates are compiled only, for another node of the target.
        built: where the candidates that a builder has compiled can be fetched, as :attr:`Done.built`; None: nowhere.
    """

    number: int
    session: str
    task: Task
    template: str
    default: tuple[int, ...]
    configs: NDArray[np.int32]
    target: Target
    best: float
    seconds: float
    race: bool = False
    generated: Generated | None = None
    build: bool = False
    built: object = None


@dataclass(frozen=True)
class Done:
    """A work is finished.

    Attributes:
        measurements: as the pool returned them.
        statistics: where the time of this work went.
        error: why the node cannot measure, or build, or empty.
        built: where the candidates that were compiled can be fetched; the crew knows how. None: none was compiled.
        compiled: how many that are.
    """

    measurements: tuple[Measurement, ...]
    statistics: PoolStatistics = field(default_factory=PoolStatistics)
    error: str = ""
    built: object = None
    compiled: int = 0


#: The number of a work, and what became of a candidate or of the whole work.
Entry: TypeAlias = tuple[int, Measurement | Done]


@dataclass(frozen=True)
class Report:
    """News of a node for one session.

    Attributes:
        life: names the process of the node: another life has forgotten the works of the one before.
        last: the number of the last entry; the next report begins after it.
        entries: in the order they were made.
    """

    life: str
    last: int
    entries: tuple[Entry, ...]
