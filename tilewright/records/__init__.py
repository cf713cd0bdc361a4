"""Stores that keep measurements beyond the command that made them. Only this package opens databases."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewright.errors import RecordsError, RecordsFormatError, RecordsVersionError
from tilewright.records.address import is_url

if TYPE_CHECKING:
    from tilewright.records.codec import normalise
    from tilewright.records.export import read_jsonl, write_jsonl
    from tilewright.records.sql import SQLStore
    from tilewright.records.store import Query, Store, Summary

__all__ = [
    "Query",
    "Store",
    "Summary",
    "normalise",
    "open_or_read",
    "open_store",
    "read_jsonl",
    "write_jsonl",
]

#: Where the names live that are imported at first use: --help waits for no NumPy.
_HOMES = {
    "Query": "tilewright.records.store",
    "Store": "tilewright.records.store",
    "Summary": "tilewright.records.store",
    "normalise": "tilewright.records.codec",
    "read_jsonl": "tilewright.records.export",
    "write_jsonl": "tilewright.records.export",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tilewright.records' has no attribute {name!r}")


def open_store(where: str | Path, *, writable: bool = True) -> SQLStore:
    """Open the store at ``where``; make it where there is none.

    Args:
        where: a file, or a URL: ``postgresql://USER:PASSWORD@HOST/DATABASE`` (extra ``postgresql``).
        writable: False opens an existing store for reading only, such as one on a read-only file system.

    Raises:
        RecordsFormatError: what is there is not a records store.
        RecordsVersionError: the store was written by a newer Tilewright.
        RecordsError: the store cannot be opened, made or written.
        MissingExtraError: a URL needs the extra ``postgresql``.
    """
    # SQLAlchemy takes a quarter of a second to import, for which --help must not wait.
    if is_url(where):
        from tilewright.records.postgresql import PostgreSQLStore

        return PostgreSQLStore(str(where), writable=writable)
    from tilewright.records.sqlite import SQLiteStore

    return SQLiteStore(where, writable=writable)


def open_or_read(where: str | Path) -> tuple[SQLStore, RecordsError | None]:
    """Open the store at ``where`` as :func:`open_store` does, or for reading only if it cannot be written.

    Returns:
        the store, and the error that says why it cannot be written; None if it can.

    Raises:
        RecordsError: the store can neither be written nor read; otherwise as :func:`open_store`.
    """
    try:
        return open_store(where), None
    except (RecordsFormatError, RecordsVersionError):
        raise
    except RecordsError as error:
        try:
            return open_store(where, writable=False), error
        except RecordsError:
            raise error from None
