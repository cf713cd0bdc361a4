"""Measurements that outlive the command that made them. Only this package opens databases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilewright.records.sql import SQLStore

__all__ = ["open_store"]


def open_store(path: str | Path) -> SQLStore:
    """Open the store in the file ``path``; make it where there is none.

    Raises:
        RecordsFormatError: the file is not a records store.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the file cannot be opened, made or written.
    """
    # Imported here because SQLAlchemy takes a quarter of a second, which --help need not wait for.
    from tilewright.records.sqlite import SQLiteStore

    return SQLiteStore(path)
