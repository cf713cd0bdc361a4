"""What a store holds, summed up for people: by task, by day, and by run. Large stores are read once.

Records are only ever added. So the sums of those that were read stay, and a later look reads what came since: it takes
milliseconds, however many records there are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import BigInteger, Connection, and_, bindparam, case, cast, exc, func, inspect, literal, select

from tilewright.errors import RecordsFormatError
from tilewright.records.codec import is_key
from tilewright.records.runs import RunRecord, decode_run
from tilewright.records.schema import measurements, runs, tasks
from tilewright.records.sql import SQLStore

__all__ = ["DaySum", "Overview", "TaskSum"]

_DAY = 86400
#: Seconds since 1970 that no measurement has reached: the year 5000.
_LATEST = 1e11

#: The ids that are summed up at a time. Databases sort these in memory.
_TOGETHER = 100_000
# Of the keys, texts that are equal to them. With the keys themselves SQLite goes through the table in the order of an
# index, which is slow where the records lie in another order.
_TASK, _TARGET, _TEMPLATE = (
    (column + "").label(column.key) for column in (measurements.c.task, measurements.c.target, measurements.c.template)
)
# Whole numbers, as databases divide the others in their own ways; of times that are none, the first day.
_SOUND = case((and_(measurements.c.time >= 0, measurements.c.time < _LATEST), measurements.c.time), else_=0.0)
_DAYS = (cast(_SOUND, BigInteger) // _DAY).label("day")
_NEW = and_(measurements.c.id > bindparam("after"), measurements.c.id <= bindparam("until"))
_COUNTS = (func.count(), func.count(measurements.c.seconds))
_BY_TASK = (
    select(
        _TASK,
        _TARGET,
        _TEMPLATE,
        *_COUNTS,
        func.min(measurements.c.seconds),
        func.max(measurements.c.time),
        func.sum(measurements.c.elapsed),
    )
    .where(_NEW)
    .group_by(_TASK, _TARGET, _TEMPLATE)
)
#: The most runs that are kept, the latest, and the most networks of which the tasks are.
_MOST_RUNS, _MOST_NETWORKS = 5000, 500
_OF_RUNS = [column for column in runs.c if column.name not in ("id", "tasks")]
#: The latest run of each network.
_LATEST_RUNS = (
    select(func.max(runs.c.id)).group_by(runs.c.network).order_by(func.max(runs.c.id).desc()).limit(_MOST_NETWORKS)
)
_BY_DAY = select(_TARGET, _DAYS, *_COUNTS).where(_NEW).group_by(_TARGET, _DAYS)


@dataclass(frozen=True)
class TaskSum:
    """The measurements of one task on one target with one template.

    Attributes:
        task, target, template: the keys.
        count: of the measurements.
        ok: those with a latency.
        best_seconds: the lowest latency; inf: there is none.
        last_time: POSIX time of the latest.
        elapsed: seconds that they took together.
    """

    task: str
    target: str
    template: str
    count: int
    ok: int
    best_seconds: float
    last_time: float
    elapsed: float


@dataclass(frozen=True)
class DaySum:
    """The measurements of one target on one day: the day's number since 1970 (UTC), how many, and how many worked."""

    target: str
    day: int
    count: int
    ok: int


class Overview:
    """The sums of a store, which follow it.

    Args:
        store: may be read only.
    """

    def __init__(self, store: SQLStore) -> None:
        self._store = store
        self._last = 0
        self._tasks: dict[tuple[str, str, str], TaskSum] = {}
        self._days: dict[tuple[str, int], DaySum] = {}
        self._names: dict[str, tuple[str, float]] = {}
        self._runs: list[RunRecord] = []
        self._last_run = 0
        self._networks: dict[str, tuple[tuple[str, float], ...]] = {}
        self._lock = threading.Lock()

    @property
    def tasks(self) -> list[TaskSum]:
        """Each task on each target with each template, those measured last first."""
        with self._lock:
            return sorted(self._tasks.values(), key=lambda each: -each.last_time)

    @property
    def days(self) -> list[DaySum]:
        """Each target on each day, the earliest first."""
        with self._lock:
            return sorted(self._days.values(), key=lambda each: (each.day, each.target))

    @property
    def names(self) -> Mapping[str, tuple[str, float]]:
        """The name of each task for people, and its FLOP, by key."""
        return self._names

    @property
    def runs(self) -> list[RunRecord]:
        """The latest runs, the latest first. Their tasks are in :attr:`networks`."""
        with self._lock:
            return self._runs[::-1]

    @property
    def networks(self) -> Mapping[str, tuple[tuple[str, float], ...]]:
        """The tasks of each network in its latest run, by its name: keys and numbers of calls."""
        return self._networks

    def refresh(self) -> None:
        """Read what was added since the last time.

        Raises:
            RecordsError: the store cannot be read.
        """
        with self._lock, self._store.reading() as connection:
            newest = connection.execute(select(func.max(measurements.c.id))).scalar_one_or_none() or 0
            while self._last < newest:
                until = min(self._last + _TOGETHER, newest)
                part = {"after": self._last, "until": until}
                for row in connection.execute(_BY_TASK, part):
                    self._add_task(*row)
                for row in connection.execute(_BY_DAY, part):
                    self._add_day(*row)
                self._last = until
            query_names = select(tasks.c.key, tasks.c.name, tasks.c.flop)
            self._names = {key: (str(name), _number(flop)) for key, name, flop in connection.execute(query_names)}
            # A store of an older version has no runs, and who may read the other tables may not read this newer one.
            with suppress(exc.ProgrammingError):
                if inspect(connection).has_table(runs.name):
                    self._read_runs(connection)

    def _read_runs(self, connection: Connection) -> None:
        newest = connection.execute(select(func.max(runs.c.id))).scalar_one_or_none() or 0
        if newest == self._last_run:
            return
        columns = select(*_OF_RUNS, literal("[]").label("tasks")).where(runs.c.id > self._last_run)
        latest = columns.order_by(runs.c.id.desc()).limit(_MOST_RUNS)
        found = [run for row in connection.execute(latest).mappings() if (run := _decode(dict(row))) is not None]
        self._runs = [*self._runs, *reversed(found)][-_MOST_RUNS:]
        rows = connection.execute(select(runs).where(runs.c.id.in_(_LATEST_RUNS))).mappings()
        named = [run for row in rows if (run := _decode(dict(row))) is not None]
        self._networks = {run.network: run.tasks for run in named}
        self._last_run = newest

    def _add_task(self, *row: object) -> None:
        task, target, template, count, ok, best, last, elapsed = row
        if not (all(map(is_key, (task, target, template))) and isinstance(count, int) and isinstance(ok, int)):
            return
        keys = (str(task), str(target), str(template))
        known = self._tasks.get(keys, TaskSum(*keys, 0, 0, math.inf, 0.0, 0.0))
        self._tasks[keys] = replace(
            known,
            count=known.count + count,
            ok=known.ok + ok,
            best_seconds=min(known.best_seconds, _finite(best, math.inf) or math.inf),
            last_time=max(known.last_time, _finite(last, 0.0)),
            elapsed=known.elapsed + _finite(elapsed, 0.0),
        )

    def _add_day(self, *row: object) -> None:
        target, day, count, ok = row
        if is_key(target) and isinstance(day, int) and isinstance(count, int) and isinstance(ok, int):
            known = self._days.get((str(target), day), DaySum(str(target), day, 0, 0))
            self._days[str(target), day] = replace(known, count=known.count + count, ok=known.ok + ok)


def _number(flop: object) -> float:
    """A count of operations; 0: it is not known, or damaged."""
    return float(flop) if isinstance(flop, int | float) and math.isfinite(flop) else 0.0


def _decode(row: Mapping[str, object]) -> RunRecord | None:
    try:
        return decode_run(row)
    except RecordsFormatError:
        return None


def _finite(value: object, otherwise: float) -> float:
    """A number of a row, which may hold anything."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise
