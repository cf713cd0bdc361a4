"""Writing files that replace earlier ones: a file is the earlier one or the new one, and never a part of one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replace_file"]


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a file in a block; at its end the file takes its place. After an exception an earlier file is untouched.

    What is no regular file, such as a terminal or a pipe, is written in its place. So is a file that another user owns,
    or that has several names, and a file in a directory that takes no others.

    Args:
        path: the file. If it is a link, the file that it leads to is replaced.

    Yields:
        where the block writes the file.

    Raises:
        OSError: the file cannot be written.
    """
    place = Path(os.path.realpath(path))
    part = _begin_beside(path, place)
    if part is None:
        yield path
        return
    try:
        yield part
        try:
            part.replace(place)
        except OSError:  # a file that is mounted by itself can be written, but not replaced
            shutil.copyfile(part, place)
    finally:
        part.unlink(missing_ok=True)


def _begin_beside(path: Path, place: Path) -> Path | None:
    """An empty file in the directory of ``place``, to which ``path`` leads; None: ``path`` is to be written in place.

    Raises:
        OSError: the disk is full, for example.
    """
    # Names in these directories stand for files that are open, such as the standard output.
    if os.path.realpath(path.parent).split(os.sep)[1] in ("dev", "proc"):
        return None
    try:
        earlier = place.stat() if place.exists() else None
        if earlier is not None and not (_is_own(earlier) and os.access(place, os.W_OK)):
            return None
        part = place.with_name(f".tilewright-{secrets.token_hex(8)}")
        part.touch(exist_ok=False)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # to write the file itself says what is wrong
        return None
    if earlier is not None:
        with contextlib.suppress(OSError):  # some file systems have no modes
            part.chmod(stat.S_IMODE(earlier.st_mode))
    return part


def _is_own(file: os.stat_result) -> bool:
    """Whether it is a regular file of this user, with one name."""
    return stat.S_ISREG(file.st_mode) and file.st_uid == os.geteuid() and file.st_nlink == 1
