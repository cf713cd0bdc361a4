"""The store in an SQLite file: how it is recognised, made, and shared between processes."""

from __future__ import annotations

import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, inspect

from tilewright.errors import RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.records.schema import VERSION, metadata, migrate
from tilewright.records.sql import SQLStore, translated

__all__ = ["APPLICATION_ID", "SQLiteStore"]

#: Stands in the file's header and tells a records store from any other SQLite file: "Tile" in ASCII.
APPLICATION_ID = 0x54696C65
#: How long one process waits for another's transaction. One lasts milliseconds; a laptop's sleep lasts longer.
_BUSY_SECONDS = 30.0


class SQLiteStore(SQLStore):
    """A store in an SQLite file, which any number of processes on one machine may use at once.

    A store of an older version is migrated when it is opened.

    The file is in WAL mode, so readers never wait for writers, and each ``add`` is flushed to the disk before it
    returns.

    Args:
        path: the file; made where there is none. Its directory must exist.

    Raises:
        RecordsFormatError: the file is not a records store.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the file cannot be opened, made or written.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        _check_file(path)
        # Absolute, because SQLAlchemy gives ':memory:' and 'file:' a meaning.
        url = URL.create("sqlite", database=str(path.absolute()))
        engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})
        event.listen(engine, "connect", _configure)
        event.listen(engine, "begin", _begin)
        super().__init__(engine, str(path))
        try:
            with translated(str(path)):
                self._prepare(path)
        except BaseException:
            self.close()
            raise

    def _prepare(self, path: Path) -> None:
        """Make the tables in a new file; check the marks of an old one, migrate it, and see that it can be written."""
        with self._engine.execution_options(writes=True).begin() as connection:
            application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
            if (application, version) == (0, 0) and not inspect(connection).get_table_names():
                metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
            elif application != APPLICATION_ID or version < 1:
                raise RecordsFormatError(
                    f"a records store is an SQLite file that Tilewright made, but {path} is another application's "
                    f"(application_id {application:#x}); name another file"
                )
            elif version > VERSION:
                raise RecordsVersionError(
                    f"this Tilewright reads records stores up to version {VERSION}, but {path} is of version "
                    f"{version}; upgrade Tilewright, or name another file"
                )
            else:
                # The version was read within this transaction: of two processes only one finds the old one.
                migrate(connection, version)
                # Written even where it is there already: in a file that may only be read, BEGIN IMMEDIATE passes, and
                # the first failure would otherwise be the first measurement, minutes later.
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")


def _check_file(path: Path) -> None:
    """Refuse what SQLite would refuse too, but only later and without saying why."""
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise RecordsError(f"a records store is a file, but {path} is a directory; name a file in it")
        if not mode and not path.parent.is_dir():
            raise RecordsError(f"{path} cannot be made: its directory does not exist; make {path.parent} first")
        if mode:
            with path.open("rb") as file:
                start = file.read(16)
            if start and start != b"SQLite format 3\0":
                raise RecordsFormatError(
                    f"a records store is an SQLite file, but {path} begins with {start!r}; name another file"
                )
    except (OSError, ValueError) as exc:
        raise RecordsError(f"{str(path)!r} cannot be opened as a records store: {exc}; name another file") from exc


def _mode(path: Path) -> int:
    """The file's mode; 0 where there is none. Unlike ``Path.exists`` it says why it cannot tell."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0


def _configure(connection: Any, _record: object) -> None:
    # The driver begins transactions when it thinks fit; _begin does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Durable means durable: WAL's usual NORMAL may lose the last transactions when the power fails.
    cursor.execute("PRAGMA synchronous = FULL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        _switch_to_wal(cursor)
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    # SQLite does not wait for its busy timeout here: two processes that make one file at the same moment would be
    # told that it is locked. Where a file system cannot do WAL, SQLite stays in its old mode and says no error.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that starts as a reader and writes later fails at once when another writer came between;
    # one that says so at its start waits its turn.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
