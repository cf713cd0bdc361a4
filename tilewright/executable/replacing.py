"""Writes a directory that appears whole or not at all, whatever happens to the process that writes it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tilewright.errors import OutputError
from tilewright.scratch import claim, explained

__all__ = ["holds_executable", "replace_directory", "reserve_out"]

#: The beginnings of the names of an executable's files. A killed process leaves no other files in its directory.
_FILES = ("kernels.so", "objects.zip", "weights.npz", "manifest.json", "model.", "segment")
#: Constants of linux/fcntl.h and linux/fs.h.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: How often a reservation is tried, since another process may be about to give it up.
_ATTEMPTS = 4


@contextlib.contextmanager
def replace_directory(out: Path) -> Iterator[Path]:
    """An empty directory, ``OUT.part``, that takes the place of ``out`` when the block ends.

    If an exception or an interrupt ends the block, the directory is removed and ``out`` stays as it was. Files that a
    killed process left in the directory are removed first.

    Raises:
        OutputError: the directory cannot be written, or another process is writing it.
    """
    if not out.name or os.path.islink(out):
        raise OutputError(f"an executable is a directory that can be replaced, but {out} cannot; choose another --out")
    part = out.with_name(out.name + ".part")
    descriptor = _begin(part, out)
    try:
        yield part
        try:
            _put(part, out)
        except OSError as exc:
            raise explained(exc, f"the executable cannot be written to {out}", part.parent) from exc
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def reserve_out(out: Path) -> Iterator[None]:
    """Reserve ``out`` for this process while the block lasts. A command that wants it, too, is refused at its start.

    The reservation is the lock of an empty directory, ``OUT.lock``, which is removed in the end. The system gives the
    lock back however the process ends. So the directory that a killed process leaves does not refuse others.

    Raises:
        OutputError: another process has reserved it, or the lock's directory cannot be made.
    """
    lock = out.with_name(out.name + ".lock")
    missing = [folder for folder in lock.parents if not folder.exists()]
    try:
        descriptor = _lock(lock, out)
    except OSError as exc:
        raise OutputError(
            f"the executable goes to {out}, which cannot be written: {exc.strerror}; choose another --out"
        ) from exc
    try:
        yield
    finally:
        for folder in [lock, *missing]:
            with contextlib.suppress(OSError):  # it is not empty any more
                folder.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def _lock(lock: Path, out: Path) -> int | None:
    """Make the directory ``lock`` and lock it. Returns its descriptor; None if the file system has no locks."""
    for _ in range(_ATTEMPTS):
        lock.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = claim(lock)
        except FileNotFoundError:  # the process that had it has just removed it
            continue
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                raise
            return None
        if descriptor is not None:
            return descriptor
        time.sleep(0.05)
    raise OutputError(
        f"one command at a time writes an executable, but another one is at {out}; wait for its end, or choose another "
        "--out"
    )


def _begin(part: Path, out: Path) -> int | None:
    """Make or empty the directory ``part``, and lock it. Returns its descriptor; None if the system has no locks."""
    descriptor = None
    try:
        part.mkdir(parents=True, exist_ok=True)
        descriptor = _claim(part)
        _empty(part)
    except BaseException as exc:
        if descriptor is not None:
            os.close(descriptor)
        if not isinstance(exc, OSError):
            raise
        raise OutputError(
            f"the executable goes to {out}, which cannot be written: {exc}; choose another --out"
        ) from exc
    return descriptor


def _claim(part: Path) -> int | None:
    """Lock a directory. Returns its descriptor; None if the file system has no locks."""
    try:
        descriptor = claim(part)
    except OSError:
        return None
    if descriptor is None:
        raise OutputError(
            f"one process at a time writes an executable, but another is at {part}; wait for it, or choose another "
            "--out"
        )
    return descriptor


def _empty(part: Path) -> None:
    """Remove the files of an executable. Raises ``OutputError`` if the directory holds other files."""
    for file in part.iterdir():
        if not file.name.startswith(_FILES) or file.is_dir():
            raise OutputError(
                f"an executable is written to {part} first, but that holds other files, such as {file.name}; move "
                "them, or choose another --out"
            )
        file.unlink()


def _put(part: Path, out: Path) -> None:
    """Put ``part`` in the place of ``out``. If the system can exchange directories, ``out`` exists at any moment."""
    if out.is_dir() and not out.is_symlink() and _exchange(part, out):
        shutil.rmtree(part, ignore_errors=True)
        return
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two directories in one step. Returns False if the system cannot."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # not Linux, or a C library without it
        return False
    return int(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)) == 0


def holds_executable(folder: Path) -> bool:
    """Whether there is an executable in a directory."""
    return os.path.isfile(folder / "manifest.json")
