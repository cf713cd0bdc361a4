"""The store in a PostgreSQL database: how it is recognised, made, and shared between processes and machines."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    exc,
    insert,
    inspect,
    make_url,
    select,
    update,
)

from tilewright.errors import MissingExtraError, RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.records.address import shorten_address
from tilewright.records.schema import VERSION, metadata, migrate
from tilewright.records.sql import SQLStore, Translation

__all__ = ["PostgreSQLStore"]

#: How long a process waits for another's transaction, in milliseconds, as with SQLite.
_BUSY_MILLISECONDS = 30_000
#: How long a server may take to accept a connection, in seconds, and to acknowledge a message, in milliseconds.
_CONNECT_SECONDS, _SILENT_MILLISECONDS = 10, 30_000
#: The table with the schema's version. It tells a records store from other tables of the same names.
_MARK = Table("tilewright", MetaData(), Column("version", Integer, nullable=False))
#: The number of the writers' lock: "Tile" in ASCII.
_LOCK = 0x54696C65
#: Writers take turns, as in SQLite. So a lower ``id`` was added earlier, and there is no deadlock. What ``add`` has
#: stored is on the disk when it returns, even if the server does not wait for its disk by default.
_TAKE_TURNS = (
    f"SELECT pg_advisory_xact_lock({_LOCK}), CASE WHEN current_setting('synchronous_commit') = 'off' "
    "THEN set_config('synchronous_commit', 'on', true) END"
)

_TRANSLATION = Translation(
    damaged=r"(relation|column) .*does not exist",
    restore="name another database, or restore this one from a copy",
    remedies={
        "lock timeout": "another process has held it for too long; wait for it, or name other records",
        "read-only": "name a server that takes writes, or other records",
        "permission denied": "have the user granted it, or name other records",
        "No space left": "make room on the server's disk",
        "password": "correct user and password, which may also stand in ~/.pgpass, or name other records",
        "does not exist": "make it first, or correct its name",
        "resolve host": "correct the host's name, or name other records",
        "connect": "see that the server runs and is reached, or name other records",
    },
    otherwise="see to the server, or name other records",
)


class PostgreSQLStore(SQLStore):
    """A store in a PostgreSQL database, which any number of processes on any number of machines may use at once.

    Its tables are in the first schema of the connection's ``search_path``, and are made if they do not exist. A store
    of an older version is migrated when it is opened. Text is stored as UTF-8, so the database must have that encoding.

    Args:
        url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``. Options of libpq may follow after a question mark.
        writable: False opens an existing store for reading only.

    Raises:
        MissingExtraError: the driver is not installed.
        RecordsFormatError: the database has tables of the same names that are no records.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the server cannot be reached, or refuses to read or write.
    """

    def __init__(self, url: str, *, writable: bool = True) -> None:
        where = shorten_address(url)
        self._writable = writable
        try:
            address = make_url(url).set(drivername="postgresql+psycopg")
        except (exc.ArgumentError, ValueError):
            address = None
        # The error is not chained and does not quote the URL, which holds the password.
        if address is None or where.endswith("..."):
            raise RecordsError(
                "records on a server are at postgresql://USER:PASSWORD@HOST:PORT/DATABASE, but this is not of that "
                "form; write special characters as %XX, such as %40 for @"
            )
        options = f"-c lock_timeout={_BUSY_MILLISECONDS}" + ("" if writable else " -c default_transaction_read_only=on")
        given = address.query.get("options", "")
        address = address.update_query_dict({"options": f"{given} {options}".strip()})
        limits = {"connect_timeout": str(_CONNECT_SECONDS), "tcp_user_timeout": str(_SILENT_MILLISECONDS)}
        address = address.update_query_dict({**limits, "client_encoding": "utf8", **address.query})
        try:
            # A connection that the server closed meanwhile is noticed and replaced.
            engine = create_engine(address, pool_pre_ping=True)
        except ImportError as error:
            raise MissingExtraError("psycopg", "postgresql") from error
        event.listen(engine, "begin", _begin)
        super().__init__(engine, where, _TRANSLATION)
        try:
            with self._translated(where):
                self._prepare()
        except BaseException:
            self.close()
            raise

    def identity(self) -> object:
        """The start of the server to the microsecond, and the number of the schema's table."""
        mark = f"SELECT pg_postmaster_start_time(), current_database(), '{_MARK.name}'::regclass::oid::text"
        with self.reading() as connection:
            return tuple(connection.exec_driver_sql(mark).one())

    def _prepare(self) -> None:
        """Make missing tables, or check the version of a store, migrate it, and check that it can be written."""
        with self._engine.execution_options(writes=self._writable).begin() as connection:
            encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
            if encoding != "UTF8":
                raise RecordsError(
                    f"records are stored as UTF-8, but the encoding of {self.where} is {encoding}; make a database "
                    "with ENCODING 'UTF8' TEMPLATE template0, and name that"
                )
            tables = set(inspect(connection).get_table_names())
            if _MARK.name in tables:
                self._check(connection, connection.execute(select(_MARK.c.version)).scalar())
            elif taken := sorted(tables & set(metadata.tables)):
                raise RecordsFormatError(
                    f"a records store has its own tables, but those of {self.where} ({', '.join(taken)}) are another "
                    "application's; name another database, or add ?options=-csearch_path%3DSCHEMA for another schema"
                )
            elif not self._writable:
                raise RecordsError(f"{self.where} has no records to read; name other records", absent=True)
            else:
                metadata.create_all(connection, checkfirst=False)
                _MARK.create(connection)
                connection.execute(insert(_MARK).values(version=VERSION))

    def _check(self, connection: Connection, version: object) -> None:
        if not isinstance(version, int) or type(version) is bool or version < 1:
            raise RecordsFormatError(
                f"a records store has a version, but {self.where} has {version!r}; name another database"
            )
        if version > VERSION:
            raise RecordsVersionError(
                f"this Tilewright reads records stores up to version {VERSION}, but {self.where} is of version "
                f"{version}; upgrade Tilewright, or name another database"
            )
        if self._writable:
            migrate(connection, version)
            # The version is written even if it is the same: a user who may only read fails now, not at the first
            # measurement.
            connection.execute(update(_MARK).values(version=VERSION))


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql(_TAKE_TURNS)
