"""The tables of a store, the same in every database. docs/reference/records.md describes them for readers."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, Table, Text

__all__ = ["MIGRATIONS", "VERSION", "measurements", "metadata", "tasks"]

#: Raised by one with every change of the tables; a store of an older version is then migrated when it is opened.
VERSION = 2

#: What makes a store of version ``n`` one of ``n + 1``. Only ever adds what an older Tilewright that has the store open
#: at that moment can leave alone.
MIGRATIONS: dict[int, tuple[str, ...]] = {1: ("ALTER TABLE tasks ADD COLUMN ir TEXT",)}

metadata = MetaData()

tasks = Table(
    "tasks",
    metadata,
    Column("key", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("flop", Double, nullable=False),
    Column("ir", Text),
)

# No foreign key from measurements to tasks: a measurement counts even where nobody described its task.
measurements = Table(
    "measurements",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("task", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("template", Text, nullable=False),
    Column("config", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("repeats", Text, nullable=False),
    Column("seconds", Double),
    Column("message", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("elapsed", Double, nullable=False),
)

# best() walks this in order and stops after a few rows, however large the store is.
_timed = measurements.c.seconds.is_not(None)
Index(
    "measurements_best",
    measurements.c.task,
    measurements.c.target,
    measurements.c.template,
    measurements.c.seconds,
    sqlite_where=_timed,
    postgresql_where=_timed,
)
# scan() of one task, and the summary.
Index("measurements_task", measurements.c.task, measurements.c.target, measurements.c.template)
