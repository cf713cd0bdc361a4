"""The standard streams of a command: opened if they were closed, and free of the output of libraries."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["debugging", "prepare_streams", "written_out"]


def debugging() -> bool:
    """Whether the user wants all output, for a report of a bug."""
    return os.environ.get("TILEWRIGHT_DEBUG") == "1"


def prepare_streams() -> None:
    """Replace the streams by ones whose failures end no command. Call once, before heavy imports.

    - A closed stream is opened on ``/dev/null``. Otherwise the next file to be opened, such as the records, would get
      its descriptor, and receive what is printed.
    - Text that stderr refuses is dropped: the terminal may be gone while an executable is made.
    - Errors of stdout are kept for :func:`written_out`.
    - The descriptor of stderr, to which C++ libraries print, leads to ``/dev/null``. This package and Python write to
      the former stream. ``TILEWRIGHT_DEBUG=1`` shows everything.
    """
    for number in range(3):
        with contextlib.suppress(OSError):
            _fill(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  a standard stream stays open
    sys.stdout = sys.__stdout__ = _text(_Remembering(1, "w", closefd=False), sys.stdout)  # type: ignore[misc]
    messages = 2
    if not debugging():
        with contextlib.suppress(OSError):
            messages = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        # Warnings and log messages of libraries are for developers.
        warnings.simplefilter("ignore")
        logging.lastResort = None
    sys.stderr = sys.__stderr__ = _text(_Forgiving(messages, "w", closefd=False), sys.stderr)  # type: ignore[misc]


def written_out() -> OSError | None:
    """Flush stdout; the error if printed text could not be written, otherwise None.

    Raises:
        BrokenPipeError: the reader of stdout has gone, as ``| head`` does.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Remembering) else None


class _Forgiving(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Remembering(io.FileIO):
    """A file that drops what it cannot write, and keeps the error. A pipe without a reader raises at once."""

    failure: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes


def _fill(number: int) -> None:
    """Open ``/dev/null`` as the descriptor ``number``, if that is closed. All lower ones are open."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper:
    """A text stream over ``raw`` in the encoding of the stream ``before``. Bytes that are no text are escaped."""
    encoding = getattr(before, "encoding", None) or "utf-8"
    if before is not None:
        with contextlib.suppress(OSError, ValueError):
            before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )
