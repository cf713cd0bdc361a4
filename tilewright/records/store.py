"""The contract of a store of measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tilewright.measure.outcome import Measurement
from tilewright.task import Task

__all__ = ["Query", "Store", "Summary"]


@dataclass(frozen=True)
class Query:
    """Which measurements to scan: those that agree with every field that is not None."""

    task: str | None = None
    target: str | None = None
    template: str | None = None


@dataclass(frozen=True)
class Summary:
    """What a store holds of one task on one target with one template.

    Attributes:
        task: ``Task.key``.
        target: ``Target.key``.
        template: name and version of the template.
        name: the task's name for people; empty where the task was never described.
        flop: floating-point operations of one call; None where the task was never described.
        count: number of measurements.
        ok: number of those that have a latency.
        best_seconds: the lowest latency; None where ``ok`` is 0.
        last_time: POSIX time of the latest measurement in seconds.
    """

    task: str
    target: str
    template: str
    name: str
    flop: float | None
    count: int
    ok: int
    best_seconds: float | None
    last_time: float


class Store(Protocol):
    """Keeps measurements. Many processes may use one store at once."""

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep ``measurements``, all or none; they are durable when this returns. Raises ``RecordsError``."""
        ...

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest ``count`` OK measurements with different configs, fastest first, the older of equals first."""
        ...

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match, in the order they were added."""
        ...

    def describe(self, task: Task) -> None:
        """Remember the task behind a key, for those who read the records later.

        Its name, kind and FLOP count replace those told before. So does its ``ir``, unless it is empty: a key stands
        for one function, and what is known of it is not forgotten.
        """
        ...

    def tasks(self) -> list[Task]:
        """The tasks that were described with their ``ir``, ordered by key."""
        ...

    def close(self) -> None:
        """Release what the store holds. Further calls are errors."""
        ...
