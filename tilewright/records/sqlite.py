"""The store in an SQLite file: how it is recognised, made, and shared between processes."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import sys
import time
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from sqlalchemy import Connection, QueuePool, create_engine, event, inspect

from tilewright.errors import RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.reading import open_regular
from tilewright.records.schema import OLDEST_READABLE, VERSION, metadata, migrate
from tilewright.records.sql import SQLStore, Translation

__all__ = ["APPLICATION_ID", "SQLiteStore"]

#: The mark in the file's header that tells a records store from other SQLite files: "Tile" in ASCII.
APPLICATION_ID = 0x54696C65
#: How long a process waits for another's transaction, in seconds. One lasts milliseconds, but a laptop may sleep.
_BUSY_SECONDS = 30.0
#: The most bytes of a row. Its largest texts are functions of tasks.
_LONGEST = 1 << 27
#: The offset of a byte in the file that SQLite never locks.
_FREE_BYTE = 0x50000000

_TRANSLATION = Translation(
    damaged="not a database|malformed|no such",
    restore="name another file, or restore this one from a copy",
    remedies={
        "locked": "another process has held it for too long; wait for it, or name another file",
        "full": "make room on the disk",
        "readonly": "make the file and its directory writable, or name another file",
        "unable to open": "make its directory exist and be writable, or name another file",
        # SQLite says this of everything that a file system refuses.
        "disk I/O": "make room if the disk is full, or name a file on a local disk",
    },
    otherwise="name another file",
)


class SQLiteStore(SQLStore):
    """A store in an SQLite file, which any number of processes on one machine may use at once.

    A store of an older version is migrated when it is opened.

    The file is in WAL mode, so that readers never wait for writers. Each ``add`` is flushed to the disk before it
    returns. If the file is removed or replaced while the store is open, calls raise ``RecordsError`` until a records
    store is in its place again.

    Args:
        path: the file, which is made if it does not exist. Its directory must exist.
        writable: False opens an existing store for reading only, on any file system.

    Raises:
        RecordsFormatError: the file is not a records store.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the file cannot be opened, made or written.
    """

    def __init__(self, path: str | Path, *, writable: bool = True) -> None:
        # The path is absolute, because the process may change its directory.
        self._path = Path(path).absolute()
        self._writable = writable
        _check_file(Path(path), writable)
        # A connection that may make files would make a new one in the place of one that vanished.
        engine = create_engine("sqlite://", creator=self._connect, poolclass=QueuePool)
        event.listen(engine, "begin", _begin)
        super().__init__(engine, str(path), _TRANSLATION)
        try:
            with self._translated(self.where):
                self._prepare()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        if self._writable:
            connection = sqlite3.connect(
                _uri(self._path, "rw"), timeout=_BUSY_SECONDS, uri=True, check_same_thread=False
            )
            try:
                _configure(connection)
            except BaseException:
                connection.close()
                raise
            return connection
        return _connect_read_only(self._path)

    def _prepare(self) -> None:
        """Make the tables of a new file, or check the marks of a store, migrate it, and check that it is writable."""
        with self._engine.execution_options(writes=self._writable).begin() as connection:
            self._identity = _identity(self._path)
            application, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
            if self._writable and (application, version) == (0, 0) and not inspect(connection).get_table_names():
                metadata.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
            elif application != APPLICATION_ID or version < 1:
                found = (
                    f"another application's (application_id {application:#x})"
                    if os.stat(self._path).st_size
                    else "empty"
                )
                raise RecordsFormatError(
                    f"a records store is an SQLite file that Tilewright made, but {self.where} is {found}; "
                    "name another file"
                )
            elif version > VERSION:
                raise RecordsVersionError(
                    f"this Tilewright reads records stores up to version {VERSION}, but {self.where} is of version "
                    f"{version}; upgrade Tilewright, or name another file"
                )
            elif not self._writable and version < OLDEST_READABLE:
                raise RecordsError(
                    f"a records store of version {version} is migrated to version {VERSION} before it is read, but "
                    f"{self.where} cannot be written; make it writable, or copy it"
                )
            else:
                _check_schema(connection, self.where)
                if self._writable:
                    # The version was read within this transaction, so that only one of two processes migrates.
                    migrate(connection, version)
                    # The version is written even if it is the same. BEGIN IMMEDIATE succeeds in a read-only file, and
                    # the first measurement would fail minutes later.
                    connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    def identity(self) -> object:
        """The device and the inode of the file."""
        self._check_open()
        return self._identity

    def _check_place(self) -> None:
        try:
            if _identity(self._path) == self._identity:
                return
        except OSError as exc:
            raise RecordsError(
                f"the records in {self.where} have vanished: {exc.strerror}; put the file back, or name another"
            ) from exc
        # The path has another file, such as a restored copy. Connections to the old file must not write to it.
        self._engine.dispose()
        _check_file(self._path, writable=False)
        self._prepare()


def _check_schema(connection: Connection, where: str) -> None:
    """Refuse a store that runs code when it is used: one with triggers, or with views in the place of tables."""
    entries = connection.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_schema").all()
    ours = set(metadata.tables)
    for kind, name, table, sql in entries:
        other = f"{table!s:.80}" not in ours and name not in ours
        virtual = str(sql).split(maxsplit=2)[1:2] not in (["TABLE"], ["table"])
        if kind == "trigger" or not (other or kind == "index" or (kind == "table" and not virtual)):
            raise RecordsFormatError(
                f"a records store has tables and nothing that runs by itself, but {where} has {kind} {name!s:.80}; "
                "drop it, or name another file"
            )
    for table in sorted(ours & {str(entry[1]) for entry in entries}):
        # The last field is 0 for a column that is neither hidden nor generated.
        if any(column[-1] for column in connection.exec_driver_sql(f"PRAGMA table_xinfo({table})")):
            raise RecordsFormatError(f"a records store has plain columns, but {where} computes some; name another file")


def _check_file(path: Path, writable: bool) -> None:
    """Refuse files that SQLite refuses later without a reason, and make a file that does not exist."""
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise RecordsError(f"a records store is a file, but {path} is a directory; name a file in it")
        if not mode and not path.parent.is_dir():
            raise RecordsError(f"{path} cannot be made: its directory does not exist; make {path.parent} first")
        if not mode and writable:
            _make(path)
        with open_regular(path) as file:
            start = file.read(16)
            _check_locks(file, path)
        if start and start != b"SQLite format 3\0":
            raise RecordsFormatError(
                f"a records store is an SQLite file, but {path} begins with {start!r}; name another file"
            )
    except (OSError, ValueError) as exc:
        raise RecordsError(f"{str(path)!r} cannot be opened as a records store: {exc}; name another file") from exc


def _make(path: Path) -> None:
    try:
        path.touch()
    except OSError as exc:
        raise RecordsError(
            f"the records in {path} cannot be read or written: {exc.strerror}; make its directory writable, or name "
            "another file"
        ) from exc


def _check_locks(file: BinaryIO, path: Path) -> None:
    """Refuse a file system without locks, of which SQLite says after half a minute that the file is locked."""
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _FREE_BYTE)
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EAGAIN):
            return
        raise RecordsError(
            f"the file of a records store is locked while it is written, but the file system of {path} refuses locks "
            f"({exc.strerror}); name a file on a local disk"
        ) from exc


def _mode(path: Path) -> int:
    """The file's mode; 0 if there is no file. Unlike ``Path.exists``, it raises the error that hides a file."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0


def _identity(path: Path) -> tuple[int, int]:
    """The device and the inode of a file."""
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(path))}?mode={mode}"


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Connect for reading, also in a directory in which SQLite cannot make the files that it shares with writers."""
    uri = _uri(path, "ro")
    connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True, check_same_thread=False, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
        return _read_any_text(_restrict(connection))
    except sqlite3.OperationalError as exc:
        connection.close()
        log = Path(f"{path}-wal")
        # An immutable connection would not see the content of the log.
        if "unable to open" not in str(exc) or (log.exists() and log.stat().st_size):
            raise
    immutable = sqlite3.connect(f"{uri}&immutable=1", uri=True, check_same_thread=False, isolation_level=None)
    return _read_any_text(_restrict(immutable))


def _read_any_text(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Read a damaged text with half characters, which the codec refuses. Else the other rows could not be read."""
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return connection


def _restrict(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Bound a store of unknown origin: functions in its schema are not run, and its texts are limited."""
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    _restrict(connection)
    # The driver begins no transactions; _begin does.
    connection.isolation_level = None
    # WAL's usual NORMAL may lose the last transactions when the power fails.
    connection.execute("PRAGMA synchronous = FULL")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        _switch_to_wal(connection)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite ignores its busy timeout here: of two processes that make one file at once, one would fail as locked. On a
    # file system without WAL, SQLite keeps its old mode without an error.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # A transaction that begins as a reader fails when it writes after another writer. One that begins as a writer
    # waits.
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
