"""Measurements that a server did not take, in files of this machine until it does.

A command that is killed while the server of its records is away would lose what it has measured since. So a command
keeps these measurements in a store of its own, in a directory that it locks. The next command that opens the same
server adds what it finds in directories that nobody has locked, and removes them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records import open_store
from tilewright.records.merge import Merged, merge
from tilewright.records.store import Store
from tilewright.scratch import claim
from tilewright.task import Task

__all__ = ["Journal", "find_journals"]

_RECORDS = "records.db"


def find_journals() -> Path | None:
    """The directory for all journals of this user; None: the user has no home directory."""
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:
        return None
    return Path(data, "tilewright", "pending")


class Journal:
    """What this process has for a server, while that does not take it. Nothing is made before there is something.

    Args:
        folder: the directory for journals.
        where: the server's URL. Journals are found by it, without its password.
    """

    def __init__(self, folder: Path, where: str) -> None:
        self._base, self._prefix = folder, f"{_name(where)}-"
        self._store: Store | None = None
        self._own: Path | None = None
        self._lock: int | None = None

    def keep(self, tasks: Sequence[Task], measurements: Sequence[Measurement]) -> None:
        """Write tasks and measurements down.

        Raises:
            RecordsError: they cannot be written.
        """
        store = self._store or self._open()
        for task in tasks:
            store.describe(task)
        store.add(measurements)

    def clear(self) -> None:
        """Forget all that was kept, because the server has it."""
        if self._store is not None:
            self._store.close()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Leave what was kept to the next command."""
        if self._store is not None:
            self._store.close()
        if self._lock is not None:
            os.close(self._lock)
        self._store, self._own, self._lock = None, None, None

    def hand_over(self, server: Store) -> int:
        """Add to the server what commands that are no more have kept for it.

        What the server had taken before such a command ended is not added again.

        Returns:
            how many measurements are new to the server.

        Raises:
            RecordsError: the server does not take them, or a file is damaged. What was not taken stays where it is.
        """
        count = 0
        failure: RecordsError | None = None
        for folder in sorted(self._base.glob(f"{self._prefix}*")):
            lock = None
            with contextlib.suppress(OSError):  # another process's, or removed meanwhile
                lock = claim(folder)
            if lock is None:
                continue
            try:
                count += _add(folder / _RECORDS, server)
                shutil.rmtree(folder, ignore_errors=True)
            except RecordsError as error:  # the other directories may be sound
                failure = error
            finally:
                os.close(lock)
        if failure is not None:
            raise failure
        return count

    def _open(self) -> Store:
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            self._own = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._base))
            self._lock = claim(self._own)
        except OSError as error:
            raise RecordsError(
                f"what a server does not take is kept in {self._base}, which cannot be written: {error.strerror}; "
                "make room, or set XDG_DATA_HOME to another directory"
            ) from error
        self._store = open_store(self._own / _RECORDS)
        return self._store


def _name(where: str) -> str:
    """A name for a server, without secrets: another password means the same server, another schema another one."""
    from sqlalchemy import make_url

    url = make_url(where).set(password=None).difference_update_query(("password", "passfile"))
    return blake2b(str(url).encode(), digest_size=8).hexdigest()


def _add(path: Path, server: Store) -> int:
    """Add the measurements in a file to the server, if it is a store."""
    if not path.is_file():  # the command was killed before it wrote anything
        return 0
    merged = Merged()
    with open_store(path) as kept:
        merge(kept, server, merged=merged)
    return merged.new
