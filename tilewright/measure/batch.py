"""One batch of a pool's candidates, the limits that it has, and where all of the pool's time went."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypedDict

from tilewright.measure.outcome import Measurement, robust_seconds
from tilewright.measure.protocol import Library
from tilewright.space.space import DesignSpace

__all__ = ["GRACE", "Batch", "DisturbanceCounts", "PoolLimits", "PoolStatistics"]

#: Seconds that work in progress may take beyond the deadline before its worker is killed. Most candidates are built
#: and timed in less: building takes 0.04 to 0.5 s, timing 0.01 to 0.1 s.
GRACE = 1.0


@dataclass(frozen=True)
class PoolLimits:
    """What a worker may take.

    Attributes:
        memory: bytes that a worker may have.
        build: seconds that scheduling and compiling one candidate may take.
        run: seconds that checking and timing one candidate may take.
    """

    memory: int
    build: float
    run: float


class DisturbanceCounts(TypedDict):
    """What disturbed a pool's measurements, ready for JSON: see :class:`PoolStatistics`."""

    disturbed: int
    remeasured: int
    causes: dict[str, int]


@dataclass
class PoolStatistics:
    """Where the pool's time and memory went.

    Attributes:
        building: wall-clock seconds in which candidates were built.
        timing: wall-clock seconds in which candidates were timed.
        measured: number of measurements.
        disturbed: how many candidates something else on the machine disturbed while they were timed.
        remeasured: how many of them were therefore timed again.
        causes: how many candidates each cause disturbed, by the names of
            :class:`tilewright.measure.disturbance.Watch`.
        replaced: number of workers that died or were killed and made room for another.
        longest_gap: the longest time in seconds in which a lost worker was missing from those that build.
        peak_rss: the most memory that any one worker has had, in bytes.
    """

    building: float = 0.0
    timing: float = 0.0
    measured: int = 0
    disturbed: int = 0
    remeasured: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    replaced: int = 0
    longest_gap: float = 0.0
    peak_rss: int = 0

    @property
    def timing_each(self) -> float:
        """The mean seconds of timing one candidate."""
        return self.timing / max(1, self.measured)

    def disturbance(self) -> DisturbanceCounts:
        """What disturbed the measurements."""
        causes = dict(sorted(self.causes.items()))
        return {"disturbed": self.disturbed, "remeasured": self.remeasured, "causes": causes}


@dataclass
class Batch:
    """One call of ``measure`` or ``race``: what has to be done, and what has been done.

    Attributes:
        space: the design space of the configs.
        configs: the candidates. Elsewhere a candidate is known by its place in this list.
        best: the latency to beat in seconds.
        deadline: reading of ``time.monotonic()``.
        builders: how many workers build.
        queue: the candidates that have to be built.
        losses: how often each candidate was lost with its worker.
        spent: seconds that building and timing each candidate took.
        pending: latencies of the candidates that were disturbed and have another turn.
        turns: how often each candidate was timed.
        done: the measurement of each candidate that has one.
        failed_prepares: workers that died over the task while no other worker had turned to it.
        libraries: the candidates that another machine has compiled, by their configs.
        compiled: if the candidates are compiled for other machines, and not run: those that are; otherwise None.
    """

    space: DesignSpace
    configs: list[tuple[int, ...]]
    best: float
    deadline: float
    builders: int
    queue: deque[int] = field(default_factory=deque)
    losses: dict[int, int] = field(default_factory=dict)
    spent: dict[int, float] = field(default_factory=dict)
    pending: dict[int, tuple[float, ...]] = field(default_factory=dict)
    turns: Counter[int] = field(default_factory=Counter)
    done: dict[int, Measurement] = field(default_factory=dict)
    failed_prepares: int = 0
    libraries: Mapping[tuple[int, ...], Library] = field(default_factory=dict)
    compiled: dict[tuple[int, ...], Library] | None = None

    def __post_init__(self) -> None:
        self.queue.extend(range(len(self.configs)))

    @property
    def key(self) -> str:
        """The key of the task."""
        return self.space.task.key

    @cached_property
    def default(self) -> tuple[int, ...]:
        """The space's default config."""
        return tuple(int(index) for index in self.space.default())

    @property
    def measurements(self) -> list[Measurement]:
        """What has been measured, in the order of the candidates."""
        return [self.done[index] for index in sorted(self.done)]

    def is_late(self, reserve: float = 0.0) -> bool:
        """Whether the deadline has passed, or will have passed in ``reserve`` seconds."""
        return time.monotonic() + reserve >= self.deadline

    def limit(self, seconds: float) -> float:
        """``seconds``, but not so many that the deadline is passed by more than :data:`GRACE`."""
        return max(0.0, min(seconds, self.deadline + GRACE - time.monotonic()))

    def pick_faster(self, index: int, repeats: tuple[float, ...]) -> tuple[float, ...]:
        """``repeats``, or those of an earlier turn that was disturbed, if they are faster."""
        return min(repeats, self.pending.get(index, repeats), key=robust_seconds)

    def note_anchor(self, indices: Iterable[int], anchors: Iterable[float]) -> None:
        """Write into some measurements how long the default took meanwhile.

        Args:
            indices: the candidates that were measured meanwhile.
            anchors: readings of the default in seconds; 0 where there is none.
        """
        # The lowest: what disturbed the default for a moment must not make the others fast.
        anchor = min((seconds for seconds in anchors if seconds > 0.0), default=0.0)
        self.done |= {index: replace(self.done[index], anchor=anchor) for index in indices}
