"""The tables of a store, which are the same in every database. docs/reference/records.md describes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Double, Index, Integer, MetaData, Table, Text

__all__ = ["MIGRATIONS", "OLDEST_READABLE", "VERSION", "measurements", "metadata", "migrate", "runs", "tasks"]

#: The version of the tables. Every change of them raises it by one, and older stores are migrated when they are opened.
#: A new table does not raise it: older Tilewrights pass over the table, and may go on using the store.
VERSION = 3
#: The oldest version with all columns. Such a store can be read without a migration.
OLDEST_READABLE = 2

#: The statements that migrate a store from version ``n`` to ``n + 1``, by kind of database. An older Tilewright may
#: have the store open meanwhile, so they must not disturb it. They are texts, because they must not change with the
#: tables.
MIGRATIONS: dict[str, dict[int, tuple[str, ...]]] = {
    "sqlite": {
        1: ("ALTER TABLE tasks ADD COLUMN ir TEXT",),
        2: (
            "CREATE INDEX measurements_fastest ON measurements (task, target, template, seconds, id, config) "
            "WHERE seconds IS NOT NULL",
            "DROP INDEX IF EXISTS measurements_best",
        ),
    },
    # Stores in PostgreSQL begin with version 3.
    "postgresql": {},
}

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

# There is no foreign key from measurements to tasks, because a measurement counts even without a description of its
# task.
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

# What was tuned, for readers of records. See tilewright.records.runs. Older stores get it with their first run.
runs = Table(
    "tuning_runs",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("network", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("time", Double, nullable=False),
    Column("budget_seconds", Double),
    Column("wall_seconds", Double, nullable=False),
    Column("trials", Integer, nullable=False),
    Column("before_seconds", Double),
    Column("after_seconds", Double),
    Column("published", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("tasks", Text, nullable=False),
)

# best() reads the first rows of this index, whatever the size of the store. In SQLite it holds the configs as well, so
# that repeats of a config are skipped without reading the table. PostgreSQL's indices refuse long texts.
_timed = measurements.c.seconds.is_not(None)
for _dialect, _more in (("sqlite", [measurements.c.config]), ("postgresql", [])):
    Index(
        "measurements_fastest",
        measurements.c.task,
        measurements.c.target,
        measurements.c.template,
        measurements.c.seconds,
        measurements.c.id,
        *_more,
        sqlite_where=_timed,
        postgresql_where=_timed,
    ).ddl_if(dialect=_dialect)
# For scan() of one task, and for summary().
Index("measurements_task", measurements.c.task, measurements.c.target, measurements.c.template)


def migrate(connection: Connection, version: int) -> None:
    """Migrate a store from ``version`` to ``VERSION``, within the connection's transaction."""
    for older in range(version, VERSION):
        for statement in MIGRATIONS[connection.dialect.name][older]:
            connection.exec_driver_sql(statement)
