"""The store in any database of SQLAlchemy. The modules of the databases add what is special to each."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    bindparam,
    exc,
    func,
    insert,
    inspect,
    select,
    tuple_,
    update,
)

from tilewright.errors import RecordsError, RecordsFormatError
from tilewright.measure.outcome import Measurement
from tilewright.records.codec import (
    LONGEST_KEY,
    check_summary,
    decode,
    decode_list,
    decode_task,
    encode_ir,
    encode_list,
    is_key,
    make_storable,
    normalise,
)
from tilewright.records.runs import RunRecord, decode_run, encode_run
from tilewright.records.schema import measurements, runs, tasks
from tilewright.records.store import Group, Query, Refused, Summary
from tilewright.task import Task

__all__ = ["SQLStore", "Translation"]

#: The rows that a stream fetches at a time: enough to make fetching cheap, and few enough for the memory.
_PAGE = 1000
#: The most configs that a query of best() excludes.
_PASSED_OVER = 500
#: The most characters of a list, a message, and a task's ``ir`` in a store that may be of unknown origin; the rest is
#: not read. Ours are shorter than a tenth of that, and a thousand rows are in memory at once.
_MOST_OF_TEXT, _MOST_OF_IR = 1 << 17, 1 << 23
#: The tasks that are fetched at a time.
_PAGE_OF_TASKS = 8


def _first(column: ColumnElement[str], most: int) -> ColumnElement[str]:
    """The first characters of a column, under its name."""
    return func.substr(column, 1, most + 1).label(column.key)


_KEYS = (measurements.c.task, measurements.c.target, measurements.c.template)
_TEXTS = (measurements.c.config, measurements.c.outcome, measurements.c.repeats, measurements.c.message)
_NUMBERS = (measurements.c.id, measurements.c.time, measurements.c.elapsed)
_BOUNDED_KEYS = [_first(column, LONGEST_KEY) for column in _KEYS]
#: Measurements in the order they were added, with whole texts and with bounded ones.
_ALL = select(measurements).order_by(measurements.c.id)
_BOUNDED = select(*_BOUNDED_KEYS, *(_first(column, _MOST_OF_TEXT) for column in _TEXTS), *_NUMBERS).order_by(
    measurements.c.id
)

_RUNS = select(runs).order_by(runs.c.id)

# The queries of best(). They are made once, because making one takes longer than answering it.
_OF_TASK = select(measurements).where(
    measurements.c.task == bindparam("task"),
    measurements.c.target == bindparam("target"),
    measurements.c.template == bindparam("template"),
    measurements.c.seconds.is_not(None),
)
_FASTEST = _OF_TASK.order_by(measurements.c.seconds, measurements.c.id).limit(bindparam("size"))
_NEXT_FASTEST = _FASTEST.where(
    tuple_(measurements.c.seconds, measurements.c.id) > tuple_(bindparam("last_seconds"), bindparam("last_id")),
    measurements.c.config.not_in(bindparam("often", expanding=True)),
)


@dataclass(frozen=True)
class Translation:
    """Translates a database's errors to those of Tilewright, at one boundary.

    Attributes:
        damaged: a regular expression of the messages which mean that the database is no records store.
        restore: the remedy for these.
        remedies: the remedies for other errors, by a part of the message.
        otherwise: the remedy for all remaining errors.
    """

    damaged: str
    restore: str
    remedies: Mapping[str, str]
    otherwise: str

    @contextmanager
    def __call__(self, where: str) -> Iterator[None]:
        """Translate the errors of the body; ``where`` names the store."""
        try:
            yield
        except UnicodeDecodeError as error:  # the driver reads SQLite's message about a damaged schema
            raise RecordsFormatError(
                f"{where} should be a records store, but its texts are damaged; {self.restore}"
            ) from error
        # SQLAlchemy wraps the errors of drivers, except those of a listener that prepares a connection.
        except (exc.SQLAlchemyError, sqlite3.Error) as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            if re.search(self.damaged, cause):
                raise RecordsFormatError(
                    f"{where} should be a records store, but the database says: {cause}; {self.restore}"
                ) from error
            remedy = next((text for word, text in self.remedies.items() if word in cause), self.otherwise)
            raise RecordsError(f"the records in {where} cannot be read or written: {cause}; {remedy}") from error


class SQLStore:
    """A store in a database with existing tables. ``open_store`` makes one. A ``Store``.

    Args:
        engine: the database. Transactions that write have the execution option ``writes``.
        where: the name of the store in messages.
        translation: of the database's errors.
    """

    def __init__(self, engine: Engine, where: str, translation: Translation) -> None:
        self.where = where
        self._engine = engine
        self._translated = translation
        self._closed = False

    def add(self, new: Sequence[Measurement]) -> None:
        """Keep all measurements, or none, in one transaction. They are durable when this returns.

        Raises:
            RecordsError: a measurement has an impossible field, or the database cannot be written.
        """
        rows = [_row(normalise(measurement)) for measurement in new]
        with self._writing() as connection:
            if rows:
                connection.execute(insert(measurements), rows)

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest ``count`` OK measurements with different configs, fastest first, the older of equals first."""
        self._check_open()
        if not all(map(_may_be, (task, target, template))):
            return []
        wanted: dict[str, object] = {"task": task, "target": target, "template": template}
        found: dict[str, RowMapping] = {}
        seen: Counter[str] = Counter()
        page = _FASTEST
        with self.reading() as connection:
            while len(found) < count:
                size = min(count + len(seen), _PAGE)
                rows = connection.execute(page, {**wanted, "size": size}).mappings().all()
                for row in rows:
                    found.setdefault(row["config"], row)
                seen.update(row["config"] for row in rows)
                if len(rows) < size:
                    break
                # Races of many tunings leave thousands of repeats of a few configs. The database skips them a hundred
                # times faster than Python does.
                page, last = _NEXT_FASTEST, rows[-1]
                wanted |= {"last_seconds": last["seconds"], "last_id": last["id"]}
                wanted["often"] = [config for config, _ in seen.most_common(_PASSED_OVER)]
        best = [_measurement(row) for row in islice(found.values(), max(0, count))]
        if not all(measurement.ok for measurement in best):
            raise RecordsFormatError("a measurement that failed has no latency, but one of these has")
        return best

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match, in the order they were added. Those added later may be missing.

        The stream holds few rows at a time. It reads one state of the database from its first row on.
        """
        self._check_open()
        return self._stream(query) if all(map(_may_be, vars(query).values())) else iter(())

    def _stream(self, query: Query) -> Iterator[Measurement]:
        with closing(self._rows(query)) as rows:
            for row in rows:
                yield _measurement(row)

    def _rows(self, query: Query, bounded: bool = False) -> Generator[RowMapping, None, None]:
        statement = _BOUNDED if bounded else _ALL
        for name in ("task", "target", "template"):
            wanted = getattr(query, name)
            if wanted is not None:
                statement = statement.where(measurements.c[name] == wanted)
        with (
            self.reading() as connection,
            # The rows are closed before their connection, also if the reader stops early.
            connection.execution_options(yield_per=_PAGE).execute(statement) as rows,
        ):
            yield from rows.mappings()

    def groups(self) -> list[Group | Refused]:
        """The groups of the measurements: of one task, target and template each, in any order."""
        query = select(*_BOUNDED_KEYS, func.count().label("count")).group_by(*_KEYS)
        with self.reading() as connection:
            rows = connection.execute(query).all()
        refused = "a measurement's task, target and template are short texts of plain characters, but these are not"
        return [
            Group(Query(*keys), count) if all(map(is_key, keys)) else Refused(refused, count) for *keys, count in rows
        ]

    def read(self, query: Query) -> Iterator[Measurement | Refused]:
        """The measurements that match, in the order they were added; rows that are none are passed over and counted.

        Raises:
            RecordsError: the database cannot be read.
        """
        self._check_open()
        return self._stream_tolerantly(query) if all(map(_may_be, vars(query).values())) else iter(())

    def _stream_tolerantly(self, query: Query) -> Iterator[Measurement | Refused]:
        with closing(self._rows(query, bounded=True)) as rows:
            for row in rows:
                yield _tolerate(row)

    def read_tasks(self) -> Iterator[Task | Refused]:
        """All tasks, in any order; ``ir`` is empty where it is not known.

        Raises:
            RecordsError: the database cannot be read.
        """
        texts = [_first(column, LONGEST_KEY) for column in (tasks.c.key, tasks.c.name, tasks.c.kind)]
        ir = func.coalesce(func.substr(tasks.c.ir, 1, _MOST_OF_IR + 1), "").label("ir")
        with (
            self.reading() as connection,
            connection.execution_options(yield_per=_PAGE_OF_TASKS).execute(select(*texts, tasks.c.flop, ir)) as rows,
        ):
            for row in rows.mappings():
                try:
                    found: Task | Refused = decode_task(dict(row))
                except RecordsFormatError as error:
                    found = Refused(str(error))
                yield found

    def describe(self, task: Task) -> None:
        """Keep the task of a key. An empty ``ir`` does not replace a known one."""
        values: dict[str, str | float] = {"name": make_storable(task.name), "kind": task.kind, "flop": float(task.flop)}
        if task.ir:
            values["ir"] = encode_ir(task.ir)
        with self._writing() as connection:
            if connection.execute(update(tasks).where(tasks.c.key == task.key).values(**values)).rowcount == 0:
                connection.execute(insert(tasks).values(key=task.key, **values))

    def add_run(self, run: RunRecord) -> None:
        """Keep a run. It is durable when this returns. Raises ``RecordsError``."""
        with self._writing() as connection:
            runs.create(connection, checkfirst=True)
            connection.execute(insert(runs).values(**encode_run(run)))

    def read_runs(self) -> Iterator[RunRecord]:
        """The runs in the order they were added. Rows that are none are passed over. Raises ``RecordsError``."""
        # A store of an older version has none, and who may read the other tables may not read this newer one.
        with self.reading() as connection, suppress(exc.ProgrammingError):
            if inspect(connection).has_table(runs.name):
                with connection.execution_options(yield_per=_PAGE_OF_TASKS).execute(_RUNS) as rows:
                    for row in rows.mappings():
                        with suppress(RecordsFormatError):
                            yield decode_run(dict(row))

    def tasks(self) -> list[Task]:
        """The tasks with a known ``ir``, ordered by key.

        Raises:
            RecordsFormatError: a row is not a task.
        """
        with self.reading() as connection:
            rows = connection.execute(select(tasks).where(tasks.c.ir.is_not(None))).mappings()
            found = [decode_task(dict(row)) for row in rows]
        # Python sorts, because databases order text by their own locale.
        return sorted(found, key=lambda task: task.key)

    def summary(self) -> list[Summary]:
        """A summary of each task, target and template, ordered by these three."""
        table = measurements.c
        key = (table.task, table.target, table.template)
        groups = (
            select(
                *key,
                func.count().label("count"),
                func.count(table.seconds).label("ok"),
                func.min(table.seconds).label("best_seconds"),
                func.max(table.time).label("last_time"),
            )
            .group_by(*key)
            .subquery()
        )
        query = select(groups, func.coalesce(tasks.c.name, "").label("name"), tasks.c.flop).select_from(
            groups.outerjoin(tasks, tasks.c.key == groups.c.task)
        )
        with self.reading() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        for row in rows:
            check_summary(row)
        found = [Summary(**row) for row in rows]
        # Python sorts, because databases order text by their own locale.
        return sorted(found, key=lambda s: (s.task, s.target, s.template))

    def identity(self) -> object:
        """Identifies the database: equal for two stores that are one."""
        raise NotImplementedError  # each database has its own answer

    def close(self) -> None:
        """Release the database's connections. A second close does nothing."""
        self._closed = True
        self._engine.dispose()

    def __enter__(self) -> SQLStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading, for the queries of this package."""
        self._check_open()
        with self._translated(self.where):
            self._check_place()
            with self._engine.connect() as connection:
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self._check_open()
        with self._translated(self.where):
            self._check_place()
            with self._engine.execution_options(writes=True).begin() as connection:
                yield connection
            # A second check: a file that was removed meanwhile has not kept the rows.
            self._check_place()

    def _check_place(self) -> None:
        """Raise ``RecordsError`` if the database is gone, which its connections do not notice."""

    def _check_open(self) -> None:
        if self._closed:
            raise RecordsError(f"a store is used before it is closed, but {self.where} was closed; open it again")


def _may_be(key: str | None) -> bool:
    """Whether the database can hold a key. Drivers refuse to look up characters that no database stores."""
    return key is None or make_storable(key) == key


def _row(measurement: Measurement) -> dict[str, object]:
    return {
        "task": measurement.task,
        "target": measurement.target,
        "template": measurement.template,
        "config": encode_list(measurement.config),
        "outcome": measurement.outcome.value,
        "repeats": encode_list(measurement.repeats),
        "seconds": measurement.seconds if measurement.ok else None,
        "message": measurement.message,
        "time": measurement.time,
        "elapsed": measurement.elapsed,
    }


def _measurement(row: RowMapping) -> Measurement:
    try:
        return _decode(row)
    except RecordsFormatError as error:
        raise RecordsFormatError(f"measurement {row['id']}: {error}") from error


def _tolerate(row: RowMapping) -> Measurement | Refused:
    try:
        return _decode(row)
    except RecordsFormatError as error:
        return Refused(str(error))


def _decode(row: RowMapping) -> Measurement:
    fields: dict[str, object] = {str(name): value for name, value in row.items()}
    fields["config"] = decode_list(row["config"])
    fields["repeats"] = decode_list(row["repeats"])
    return decode(fields)
