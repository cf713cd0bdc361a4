"""The object files of an executable's kernels, in an archive. Libraries for C are linked from them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["extract_objects", "write_objects"]

#: The compression of the archive: the fastest. Objects become a third as large.
_LEVEL = 1
#: The same date for all files, so that the same objects give the same archive.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_objects(objects: Iterable[Path], out: Path) -> None:
    """Write the archive ``out`` of object files. Raises ``OSError``."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for number, path in enumerate(objects):
            entry = zipfile.ZipInfo(f"{number}.o", _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes(), compresslevel=_LEVEL)


def extract_objects(archive: Path, folder: Path) -> list[Path]:
    """Write the object files of an archive into a directory. Returns their paths.

    Raises:
        OSError, zipfile.BadZipFile: the archive cannot be read.
    """
    found = []
    with zipfile.ZipFile(archive) as source:
        for number, entry in enumerate(source.infolist()):
            path = folder / f"k{number}.o"
            path.write_bytes(source.read(entry))
            found.append(path)
    return found
