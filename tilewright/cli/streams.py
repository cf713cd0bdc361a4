"""The standard streams of a command: there even where they were closed, and free of what libraries print."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from typing import Any, TextIO

__all__ = ["debugging", "prepare_streams", "written_out"]


def debugging() -> bool:
    """Whether the user wants to see everything, for a report of a bug."""
    return os.environ.get("TILEWRIGHT_DEBUG") == "1"


def prepare_streams() -> None:
    """Make the streams such that writing to them ends no command. Call once, before anything heavy is imported.

    - A stream that was closed is opened on ``/dev/null``. Otherwise the next file that is opened, such as the records,
      gets its number, and whatever prints would print into that file.
    - What cannot be written to stderr is dropped: a terminal may be gone while an executable is being made.
    - What cannot be written to stdout is remembered for :func:`written_out`.
    - Libraries written in C++ print to the descriptor of stderr. It leads to ``/dev/null``, while this package and
      Python itself write to the stream that was there. ``TILEWRIGHT_DEBUG=1`` shows everything.
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
        # Those of libraries are for whoever wrote the code.
        warnings.simplefilter("ignore")
        logging.lastResort = None
    sys.stderr = sys.__stderr__ = _text(_Forgiving(messages, "w", closefd=False), sys.stderr)  # type: ignore[misc]


def written_out() -> OSError | None:
    """Why something that was printed could not be written; None where all was. Flushes stdout.

    Raises:
        BrokenPipeError: the reader of stdout has gone, as ``| head`` does.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Remembering) else None


class _Forgiving(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _Remembering(io.FileIO):
    """A file that drops what it cannot write, and knows why; but a pipe without a reader is an error at once."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failure = error
            return len(data)


def _fill(number: int) -> None:
    """Open ``/dev/null`` as the descriptor ``number``, if that is closed. Lower ones are open."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)


def _text(raw: io.FileIO, before: TextIO | None) -> io.TextIOWrapper[Any]:
    """A stream of text over ``raw``, in the encoding of the one before. A name may have bytes that are no text."""
    encoding = getattr(before, "encoding", None) or "utf-8"
    if before is not None:
        with contextlib.suppress(OSError, ValueError):
            before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )
