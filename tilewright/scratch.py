"""Directories that a process works in, and that a later one clears away where the process was killed.

A directory belongs to the process that holds its lock. The kernel gives the lock back when the process ends, however it
ends. Unlike a process id in its name, that cannot be mistaken for another process's, not even from another container
that shares ``/tmp``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tilewright.errors import OutputError, ResourceError, TilewrightError
from tilewright.names import check_encodable

__all__ = ["check_space", "claim", "explained", "make_folder", "scratch"]

#: What all temporary directories of this package are called.
_OURS = "tilewright-"
_PREFIX = _OURS + "scratch-"
#: Bytes that temporary files need at least: the object files and the library of a small network.
_LEAST_FREE = 16 << 20
#: Bytes below which a disk counts as full, when something could not be written to it.
_FULL = 1 << 20


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
def scratch(runs: bool = True) -> Iterator[Path]:
    """A directory for all temporary files of this process and of those that it starts; removed in the end.

    The C compiler and TVM, too, put theirs where ``TMPDIR`` says. A process that is killed leaves the directory
    behind; whoever enters here next removes it.

    Args:
        runs: whether programs that are compiled there are to be run.

    Raises:
        OutputError: no directory can be made.
        ResourceError: the directory is full, or no program may be run from it.
    """
    try:
        base = Path(tempfile.gettempdir())
        check_encodable(base, "the directory of temporary files", "set TMPDIR to another one")
        check_space(base, _LEAST_FREE)
        _sweep(base)
        folder, descriptor = _make(base)
    except OSError as exc:
        raise OutputError(f"temporary files need a directory, but none can be made: {exc}; set TMPDIR to one") from exc
    try:
        if runs:
            _check_runs(folder, base)
    except BaseException:
        _remove(folder, descriptor)
        raise
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
        _remove(folder, descriptor)


def make_folder() -> tuple[Path, int | None]:
    """A directory for temporary files, for a process that removes it in the end.

    A process that is killed leaves the directory behind; whoever makes or enters the next one removes it.

    Returns:
        the directory, and the descriptor of its lock; None: its file system has no locks.

    Raises:
        OSError: none can be made.
    """
    base = Path(tempfile.gettempdir())
    _sweep(base)
    return _make(base)


def _remove(folder: Path, descriptor: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if descriptor is not None:
        os.close(descriptor)


def _check_runs(folder: Path, base: Path) -> None:
    """Refuse a directory from which no library can be loaded, as one on a file system that is mounted ``noexec``."""
    path = folder / "runs"
    try:
        path.write_bytes(bytes(mmap.PAGESIZE))
        with path.open("rb") as file:
            mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EACCES):
            raise explained(exc, "temporary files cannot be written", folder) from exc
        raise ResourceError(
            f"compiled programs are run from the directory of temporary files, but {base} does not allow that (it is "
            "mounted noexec); set TMPDIR to a directory that does, for example TMPDIR=$HOME/tmp"
        ) from exc
    finally:
        path.unlink(missing_ok=True)


def check_space(folder: Path, least: int = _FULL) -> None:
    """Refuse a directory whose file system has less than ``least`` bytes, or no file, left.

    Raises:
        ResourceError: it has.
        OSError: there is no such directory.
    """
    if (left := _left(folder)) < least:
        raise ResourceError(
            f"the disk is full: {_known(folder)} has {left >> 20} MiB left, but {least >> 20} MiB are needed at least; "
            f"make room there, or name another directory with {'TMPDIR' if _temporary(folder) else '--out'}"
        )


def explained(exc: OSError, doing: str, *folders: Path, option: str = "--out", remedy: str = "") -> TilewrightError:
    """The error for what could not be written, which says so where a disk is full.

    Args:
        exc: what went wrong.
        doing: a clause for the message: what could not be done.
        folders: the directories where it may have been.
        option: of the command, which names another directory than those.
        remedy: what helps if it is not the disk; empty: nothing is said.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            # NumPy and the C compiler do not pass the number on, so the disk is asked as well.
            if (exc.errno in (errno.ENOSPC, errno.EDQUOT) and len(folders) == 1) or _left(folder) < _FULL:
                return ResourceError(
                    f"{doing}: the disk is full where {_known(folder)} is; make room there, or name another directory "
                    f"with {'TMPDIR' if _temporary(folder) else option}"
                )
    return OutputError(f"{doing}: {exc.strerror or exc}" + (f"; {remedy}" if remedy else ""))


def _left(folder: Path) -> int:
    """Bytes that can still be written to a file system; 0 where it takes no more files."""
    found = os.statvfs(folder)
    return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize


def _known(folder: Path) -> Path:
    """The directory that a user knows: without the temporary ones that were made in it."""
    return _temporary(folder) or folder


def _temporary(folder: Path) -> Path | None:
    """The directory of temporary files that the user has named, if ``folder`` is that or one of ours in it."""
    base = Path(tempfile.gettempdir())
    if base.name.startswith(_PREFIX):  # all temporary files are in there
        return base.parent if folder.is_relative_to(base) or folder == base.parent else None
    ours = folder.is_relative_to(base) and folder != base and folder.relative_to(base).parts[0].startswith(_OURS)
    return base if ours or folder == base else None


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
