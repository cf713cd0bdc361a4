"""Directories that a process works in, and that a later one clears away where the process was killed.

Whose a directory is says its lock, which the kernel gives back when the process ends, however it ends. Unlike a process
id in its name, that cannot be mistaken for another process's, not even from another container that shares ``/tmp``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tilewright.errors import OutputError

__all__ = ["claim", "scratch"]

_PREFIX = "tilewright-scratch-"


def claim(folder: Path) -> int | None:
    """Lock a directory, for as long as the returned file descriptor is open and this process lives.

    Returns:
        the descriptor; None where another process has it, or has just removed it.

    Raises:
        OSError: it cannot be opened, or its file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found, there = os.fstat(descriptor), os.stat(folder, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for all temporary files of this process and of those that it starts; removed in the end.

    The C compiler and TVM, too, put theirs where ``TMPDIR`` says. A process that is killed leaves the directory
    behind; whoever enters here next removes it.

    Raises:
        OutputError: no directory can be made.
    """
    try:
        base = Path(tempfile.gettempdir())
        _sweep(base)
        folder, descriptor = _make(base)
    except OSError as exc:
        raise OutputError(f"temporary files need a directory, but none can be made: {exc}; set TMPDIR to one") from exc
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before[1]
        if before[0] is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before[0]
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _make(base: Path) -> tuple[Path, int | None]:
    """A new directory and its lock. Another process may take it for a leftover until it is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        try:
            descriptor = claim(folder)
        except FileNotFoundError:
            continue
        except OSError:  # no locks here, so nobody else can lock it either, and nobody removes it
            return folder, None
        if descriptor is not None:
            return folder, descriptor


def _sweep(base: Path) -> None:
    """Remove the directories of processes that are no more."""
    for folder in base.glob(_PREFIX + "*"):
        # Another user's, another process's, or gone meanwhile: none of them is ours to remove.
        with contextlib.suppress(OSError):
            if folder.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            descriptor = claim(folder)
            if descriptor is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
