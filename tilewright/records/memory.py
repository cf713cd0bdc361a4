"""A store in memory: for tests, for experiments, and for when no file can be written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from types import TracebackType

from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records.codec import make_storable, normalise
from tilewright.records.runs import RunRecord
from tilewright.records.store import Group, Query, Refused, Summary
from tilewright.task import Task

__all__ = ["MemoryStore"]


class MemoryStore:
    """A store in the memory of this process. A ``Store``.

    Attributes:
        runs: that were added, in order.
    """

    def __init__(self) -> None:
        self._measurements: list[Measurement] = []
        self._tasks: dict[str, Task] = {}
        self.runs: list[RunRecord] = []
        self._closed = False

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep all measurements, or none. Raises ``RecordsError`` if one has an impossible field."""
        self._check_open()
        self._measurements.extend([normalise(measurement) for measurement in measurements])

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest OK measurements with different configs, fastest first, the older of equals first.

        Args:
            task: ``Task.key``.
            target: ``Target.key``.
            template: name and version of the template.
            count: the most measurements to return.
        """
        self._check_open()
        timed = [m for m in self.scan(Query(task, target, template)) if m.ok]
        found: dict[tuple[int, ...], Measurement] = {}
        for measurement in sorted(timed, key=lambda m: m.seconds):
            found.setdefault(measurement.config, measurement)
        return list(islice(found.values(), max(0, count)))

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match ``query``, in the order they were added. Those added later may be missing."""
        self._check_open()
        return (
            measurement
            for measurement in self._measurements[:]
            if query.task in (None, measurement.task)
            and query.target in (None, measurement.target)
            and query.template in (None, measurement.template)
        )

    def describe(self, task: Task) -> None:
        """Keep the ``task`` of a key. An empty ``ir`` does not replace a known one."""
        self._check_open()
        before = self._tasks.get(task.key)
        ir = make_storable(task.ir) or (before.ir if before else "")
        self._tasks[task.key] = replace(task, name=make_storable(task.name), flop=float(task.flop), ir=ir)

    def add_run(self, run: RunRecord) -> None:
        """Keep a run."""
        self._check_open()
        self.runs.append(run)

    def read_runs(self) -> Iterator[RunRecord]:
        """The runs in the order they were added."""
        self._check_open()
        return iter(list(self.runs))

    def tasks(self) -> list[Task]:
        """The tasks with a known ``ir``, ordered by key."""
        self._check_open()
        return sorted((task for task in self._tasks.values() if task.ir), key=lambda task: task.key)

    def summary(self) -> list[Summary]:
        """A summary of each task, target and template, ordered by these three."""
        self._check_open()
        groups: dict[tuple[str, str, str], list[Measurement]] = {}
        for measurement in self._measurements:
            groups.setdefault((measurement.task, measurement.target, measurement.template), []).append(measurement)
        return [self._summarise(key, groups[key]) for key in sorted(groups)]

    def _summarise(self, key: tuple[str, str, str], group: list[Measurement]) -> Summary:
        task = self._tasks.get(key[0])
        name, flop = (task.name, task.flop) if task else ("", None)
        latencies = [m.seconds for m in group if m.ok]
        best, last = min(latencies, default=None), max(m.time for m in group)
        return Summary(*key, name, flop, len(group), len(latencies), best, last)

    def groups(self) -> list[Group | Refused]:
        """The groups of the measurements: of one task, target and template each."""
        return [Group(Query(s.task, s.target, s.template), s.count) for s in self.summary()]

    def read(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match ``query``, as ``scan`` gives them: none in memory is damaged."""
        return self.scan(query)

    def read_tasks(self) -> Iterator[Task]:
        """All tasks."""
        self._check_open()
        return iter(list(self._tasks.values()))

    def identity(self) -> object:
        """This store itself: no other has its memory."""
        return self

    def close(self) -> None:
        """Forget everything. A second close does nothing."""
        self._closed = True
        self._measurements.clear()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RecordsError("a store is used before it is closed, but this was closed; make another")
