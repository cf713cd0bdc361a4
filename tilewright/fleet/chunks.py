"""What a runner of a fleet remembers of its batches, and of the works that they are cut into."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Job

__all__ = ["Batch", "Chunk"]


@dataclass
class Batch:
    """A job that was submitted.

    Attributes:
        job: what was asked for.
        rows: the configs of its candidates.
        measured: what is known of them, by their places.
        open: how many works of it are not finished.
        best: the latency to beat in seconds.
        possible: seconds that no kernel of the task goes below.
    """

    job: Job
    rows: list[tuple[int, ...]]
    possible: float
    measured: dict[int, Measurement] = field(default_factory=dict)
    open: int = 0
    best: float = math.inf

    @cached_property
    def default(self) -> tuple[int, ...]:
        """The default config of its design space."""
        return tuple(int(index) for index in self.job.space.default())


@dataclass
class Chunk:
    """What one work measures.

    Attributes:
        ticket: of the batch.
        places: of the candidates in the batch.
        losses: how many nodes were lost with it.
        avoid: the node that must not measure it, because another one's word is wanted.
        offered: whether a builder had it: no other one gets it.
        built: where what the builder has compiled can be fetched; None: the node that measures compiles.
    """

    ticket: int
    places: list[int]
    losses: int = 0
    avoid: str = ""
    offered: bool = False
    built: object = None
