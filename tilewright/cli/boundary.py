"""Where errors end: one clear message and an exit code for each, and the same as JSON where JSON was asked for."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import typer

from tilewright.cli.text import plain
from tilewright.errors import CheckError, OutputError, TilewrightError
from tilewright.interrupts import exit_code, watching

__all__ = ["command", "write_json"]

P = ParamSpec("P")

_REPORT_TO = "this is a bug in Tilewright; please report it with what TILEWRIGHT_DEBUG=1 prints"


def command(function: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors become messages and exit codes. Its ``json_file``, if it has one, gets them too."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        json_file = kwargs.get("json_file")
        path = json_file if isinstance(json_file, Path) else None
        interrupts: list[int] = []
        try:
            with watching() as interrupts:
                if path is not None:
                    _check_writable(path)
                function(*args, **kwargs)
            if interrupts:  # one that was swallowed where it arrived, as Python does in a destructor
                raise KeyboardInterrupt
        except TilewrightError as error:
            if interrupts:
                _interrupted(error)
            _say(error, str(error), path)
            raise typer.Exit(1 if isinstance(error, CheckError) else 2) from error
        except KeyboardInterrupt as error:
            _interrupted(error)
        except BrokenPipeError as error:
            # The reader of our output has gone, as `| head` does; Python would say so once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort) or os.environ.get("TILEWRIGHT_DEBUG") == "1":
                raise
            if interrupts:
                _interrupted(error)
            lines = str(error).strip().splitlines()
            message = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
            _say(error, f"{message}\n{_REPORT_TO}, with the traceback that TILEWRIGHT_DEBUG=1 shows", path)
            raise typer.Exit(1) from error

    return guarded


def write_json(path: Path | None, value: Mapping[str, Any]) -> None:
    """Write ``value`` to ``path``; does nothing without a path. Numbers that JSON does not have become null.

    Raises:
        OutputError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the file of --json, {path}, cannot be written: {error.strerror}") from error


def _interrupted(error: BaseException) -> NoReturn:
    print("interrupted", file=sys.stderr)
    raise typer.Exit(exit_code()) from error


def _check_writable(path: Path) -> None:
    """Refuse a file of ``--json`` that could not be written after the work is done."""
    existed = os.path.exists(path)
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise OutputError(
            f"the file of --json, {path}, cannot be written: {error.strerror}; name a file in a directory that exists"
        ) from error


def _say(error: Exception, message: str, path: Path | None) -> None:
    print(f"error: {plain(message)}", file=sys.stderr)
    # Where the file itself is the trouble, the message on the terminal has said so.
    with contextlib.suppress(OutputError):
        report = error.report if isinstance(error, CheckError) else {}
        write_json(path, {**report, "error": {"type": type(error).__name__, "message": message}})


def _plain(value: Any) -> Any:
    """``value`` as what JSON has: no NaN, no infinities, no NumPy scalars, no paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
