"""The tables of a store, the same in every database. docs/reference/records.md describes them for readers."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Double, Index, Integer, MetaData, Table, Text

__all__ = ["MIGRATIONS", "OLDEST_READABLE", "VERSION", "measurements", "metadata", "migrate", "tasks"]

#: Raised by one with every change of the tables; a store of an older version is then migrated when it is opened.
VERSION = 3
#: A store of this version or a later one has every column, so that it can be read without being migrated.
OLDEST_READABLE = 2

#: By database: what makes a store of version ``n`` one of ``n + 1``. Only ever changes what an older Tilewright that
#: has the store open at that moment can leave alone. Text, because it must not change when the tables below do.
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

# best() walks this in order and stops after a few rows, however large the store is. In SQLite it holds the configs too,
# so that repeats of one config are passed over without a look at the table; PostgreSQL's indices refuse long texts.
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
# scan() of one task, and the summary.
Index("measurements_task", measurements.c.task, measurements.c.target, measurements.c.template)


def migrate(connection: Connection, version: int) -> None:
    """Make a store of an older version one of ``VERSION``, within the connection's transaction."""
    for older in range(version, VERSION):
        for statement in MIGRATIONS[connection.dialect.name][older]:
            connection.exec_driver_sql(statement)
