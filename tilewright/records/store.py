"""The contract of a store of measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tilewright.measure.outcome import Measurement
from tilewright.task import Task

__all__ = ["Group", "Query", "Refused", "Store", "Summary", "TolerantStore"]


@dataclass(frozen=True)
class Query:
    """Selects the measurements that agree with every field that is not None.

    Attributes:
        task: ``Task.key``.
        target: ``Target.key``.
        template: name and version of the template.
    """

    task: str | None = None
    target: str | None = None
    template: str | None = None


@dataclass(frozen=True)
class Summary:
    """A summary of the measurements of one task on one target with one template.

    Attributes:
        task: ``Task.key``.
        target: ``Target.key``.
        template: name and version of the template.
        name: the task's name for people; empty if the task was never described.
        flop: floating-point operations of one call; None if the task was never described.
        count: the number of measurements.
        ok: the number of measurements with a latency.
        best_seconds: the lowest latency in seconds; None if ``ok`` is 0.
        last_time: the POSIX time of the latest measurement in seconds.
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


@dataclass(frozen=True)
class Group:
    """The measurements of one task on one target with one template.

    Attributes:
        query: selects them. None of its fields is None.
        count: the number of measurements.
    """

    query: Query
    count: int


@dataclass(frozen=True)
class Refused:
    """Rows of a store that are no records.

    Attributes:
        reason: what is wrong with them.
        count: the number of rows.
    """

    reason: str
    count: int = 1


class Store(Protocol):
    """Keeps measurements. Many processes may use one store at once."""

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep all ``measurements``, or none. They are durable when this returns. Raises ``RecordsError``."""
        ...

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest OK measurements with different configs, fastest first, the older of equals first.

        Args:
            task: ``Task.key``.
            target: ``Target.key``.
            template: name and version of the template.
            count: the most measurements to return.
        """
        ...

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match ``query``, in the order they were added."""
        ...

    def describe(self, task: Task) -> None:
        """Keep the ``task`` of a key, for later readers of the records.

        Its name, kind and FLOP count replace earlier ones. So does its ``ir``, unless it is empty: a key stands for one
        function, and a known function is not forgotten.
        """
        ...

    def tasks(self) -> list[Task]:
        """The tasks with a known ``ir``, ordered by key."""
        ...

    def close(self) -> None:
        """Release the store's connections. Further calls are errors."""
        ...


class TolerantStore(Store, Protocol):
    """A store that may come from anywhere: rows that are no records are passed over and counted.

    ``Store.scan`` ends at such a row with an error. ``read`` goes on.
    """

    def groups(self) -> list[Group | Refused]:
        """The groups of the measurements, in any order."""
        ...

    def read(self, query: Query) -> Iterator[Measurement | Refused]:
        """The measurements that match ``query``, in the order they were added, with bounded fields."""
        ...

    def read_tasks(self) -> Iterator[Task | Refused]:
        """All tasks, in any order; ``ir`` is empty where it is not known."""
        ...

    def identity(self) -> object:
        """Identifies the place of the records: equal for two stores that keep them in one place."""
        ...
