"""What the local pool keeps in mind: about the batch in its hands, and about all of its time."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tilewright.measure.outcome import Measurement, robust_seconds
from tilewright.space.space import DesignSpace

__all__ = ["GRACE", "Batch", "PoolStatistics"]

#: Seconds that work in progress may take beyond the deadline before its worker is killed.
GRACE = 1.0


@dataclass
class PoolStatistics:
    """Where the pool's time and memory went.

    Attributes:
        building: wall-clock seconds in which candidates were built.
        timing: wall-clock seconds in which candidates were timed.
        measured: number of measurements.
        disturbed: how many candidates something else on the machine disturbed while they were timed.
        remeasured: how many of them were therefore timed again.
        causes: what disturbed, as :class:`tilewright.measure.disturbance.Watch` calls it, and how many candidates.
        replaced: number of workers that died or were killed and made room for another.
        longest_gap: the longest time in seconds for which fewer workers than wanted were there to build, after one
            was lost.
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
        """What timing one candidate has taken on average, in seconds."""
        return self.timing / max(1, self.measured)

    def disturbance(self) -> dict[str, Any]:
        """What disturbed the measurements, ready for JSON: ``disturbed``, ``remeasured``, ``causes``."""
        causes = dict(sorted(self.causes.items()))
        return {"disturbed": self.disturbed, "remeasured": self.remeasured, "causes": causes}


@dataclass
class Batch:
    """One call of ``measure`` or ``race``: what is to be done, and what has been.

    Attributes:
        space: of the configs.
        configs: the candidates, which are known by their numbers here.
        best: the latency to beat in seconds.
        deadline: reading of ``time.monotonic()``.
        builders: how many workers build.
        queue: candidates to build.
        losses: how often a candidate was lost with its worker.
        spent: seconds that building and timing took.
        pending: latencies of candidates that were disturbed, and have another turn.
        turns: how often a candidate was timed.
        done: what has been measured.
        failed_prepares: workers that died over the task while no other had turned to it.
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

    def __post_init__(self) -> None:
        self.queue.extend(range(len(self.configs)))

    @cached_property
    def default(self) -> tuple[int, ...]:
        """The space's default config."""
        return tuple(int(index) for index in self.space.default())

    def late(self, reserve: float = 0.0) -> bool:
        """Whether the deadline is over, or will be in ``reserve`` seconds."""
        return time.monotonic() + reserve >= self.deadline

    def limit(self, seconds: float) -> float:
        """``seconds``, but not so long that the deadline is passed by more than the grace."""
        return max(0.0, min(seconds, self.deadline + GRACE - time.monotonic()))

    def faster(self, index: int, repeats: tuple[float, ...]) -> tuple[float, ...]:
        """``repeats``, or those of an earlier turn that was disturbed, if they are faster."""
        return min(repeats, self.pending.get(index, repeats), key=robust_seconds)

    def note_anchor(self, indices: Iterable[int], anchors: Iterable[float]) -> None:
        """Say of some measurements how long the default took meanwhile: readings in seconds, 0 where there is none."""
        # The lowest: what disturbed the default for a moment must not make the others fast.
        anchor = min((seconds for seconds in anchors if seconds > 0.0), default=0.0)
        self.done |= {index: replace(self.done[index], anchor=anchor) for index in indices}
