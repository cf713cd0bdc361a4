"""Turns the errors of commands into a message and an exit code, and into JSON for ``--json``."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import NoReturn, ParamSpec, cast

import typer

from tilewright.cli.config import Config, overridden
from tilewright.cli.streams import debugging, written_out
from tilewright.cli.text import plain, styled
from tilewright.cli.verbosity import QuietOption, VerboseOption, Verbosity, detail, speaking
from tilewright.errors import CheckError, OutputError, ResourceError, TilewrightError
from tilewright.interrupts import exit_code, watching
from tilewright.jsonable import Json
from tilewright.measure.memory import memory_error
from tilewright.names import printable
from tilewright.writing import replace_file

__all__ = ["command", "configuration", "explain_error", "guard", "unconfigured", "write_json"]

P = ParamSpec("P")

_REPORT_TO = "this is a bug in Tilewright; please report it with what the same command prints with TILEWRIGHT_DEBUG=1"


#: Parts of the messages of C++, the system, and the loader of libraries if memory or addresses are missing.
_NO_MEMORY = ("bad_alloc", os.strerror(errno.ENOMEM), "failed to map segment", "can't start new thread")

#: The file of every executable that is JSON, like a report.
_MANIFEST = "manifest.json"
#: Of the command that runs; None: a program calls it.
_configuration: ContextVar[Config | None] = ContextVar("configuration", default=None)
#: The files of ``--json`` that the command has written.
_reported: list[Path] = []


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Make a command of a function: :func:`guard` it, and give it the options that each command has.

    These are ``--quiet`` and ``--verbose``. Values of the configuration that a flag excludes become None.
    """
    return _make_command(function, configured=True)


def unconfigured(function: Callable[P, None]) -> Callable[P, None]:
    """Make a command as :func:`command` does, which goes on if the :func:`configuration` is broken."""
    return _make_command(function, configured=False)


def configuration() -> Config | None:
    """The configuration of the command that runs; None: a program calls it, and there is none."""
    return _configuration.get()


def _make_command(function: Callable[P, None], *, configured: bool) -> Callable[P, None]:
    @functools.wraps(function)
    def settled(*args: P.args, **kwargs: P.kwargs) -> None:
        with speaking(_settle(kwargs, configured)):
            function(*args, **kwargs)

    return _with_options_of_all(guard(settled))


def guard(function: Callable[P, None]) -> Callable[P, None]:
    """Turn the errors of a function into messages and exit codes, also in its ``json_file`` if it has one."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        json_file = kwargs.get("json_file")
        path: Path | None = None
        interrupts: list[int] = []
        _reported.clear()
        try:
            with watching() as interrupts:
                if isinstance(json_file, Path):
                    _check_writable(json_file, kwargs.get("out"))
                    path = json_file
                function(*args, **kwargs)
                if interrupts:  # an interrupt in a destructor is swallowed by Python
                    raise KeyboardInterrupt
                _check_output(path)
        except KeyboardInterrupt as error:
            _interrupted(error, path)
        except BrokenPipeError as error:
            # The reader of the output has gone, as `| head` does. Without this, Python complains again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except Exception as error:
            if isinstance(error, typer.Exit | typer.Abort):
                raise
            if interrupts:
                _interrupted(error, path)
            if debugging() and not isinstance(error, TilewrightError):
                _record(error, str(error), path)
                raise
            told, message, code = explain_error(error)
            _say(told, message, path)
            raise typer.Exit(code) from error

    return guarded


def explain_error(error: Exception) -> tuple[Exception, str, int]:
    """What a user is told of an error.

    Returns:
        the error itself, or the one that names what the machine lacked; its message; and the exit code of the command.
    """
    told = error if isinstance(error, TilewrightError) else _surroundings(error) or error
    if isinstance(told, TilewrightError):
        # Wrong outputs are a bug of Tilewright, not a mistake of the user.
        return told, str(told), 1 if isinstance(told, CheckError) else 2
    lines = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    return told, f"{message}\n{_REPORT_TO}", 1


def _with_options_of_all(function: Callable[P, None]) -> Callable[P, None]:
    """Give a command the options that each command has, and the context that says where its values are from."""
    more = {"quiet": QuietOption, "verbose": VerboseOption}
    signature = inspect.signature(function, eval_str=True)  # a signature that is given is not evaluated later
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        *signature.parameters.values(),
        *(inspect.Parameter(name, kind, default=False, annotation=hint) for name, hint in more.items()),
        inspect.Parameter("context", kind, annotation=typer.Context),
    ]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    function.__annotations__ |= {**more, "context": typer.Context}
    return function


def _settle(given: dict[str, object], configured: bool) -> Verbosity:
    """Take from a command's arguments what each command has, and those of the configuration that do not count.

    Raises:
        TilewrightError: the command is to be quiet and verbose, or is ``configured`` by a broken file.
    """
    quiet, verbose = bool(given.pop("quiet", False)), bool(given.pop("verbose", False))
    context = cast("typer.Context | None", given.pop("context", None))
    config = None if context is None else context.find_root().obj
    _configuration.set(config if isinstance(config, Config) else None)
    if context is None:  # called by a program, not by the command line
        return Verbosity.of(quiet, verbose)
    if configured and isinstance(config, Config) and config.problem is not None:
        raise config.problem
    dropped = set(overridden(context))
    given.update(dict.fromkeys(dropped.intersection(given)))
    root = context.find_root()
    quiet = (quiet and "quiet" not in dropped) or bool(root.params.get("quiet"))
    verbose = (verbose and "verbose" not in dropped) or bool(root.params.get("verbose"))
    level = Verbosity.of(quiet, verbose)
    if isinstance(root.obj, Config):
        with speaking(level):
            detail(f"configuration: {root.obj.path or 'there is no file'}")
            for line in root.obj.lines:
                detail(f"    {line}")
    return level


def write_json(path: Path | None, value: Mapping[str, object]) -> None:
    """Write ``value`` to ``path``, if there is a path. Numbers that JSON does not have become null.

    Raises:
        OutputError: the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"
    _reported.append(path)
    try:
        with replace_file(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the file of --json, {path}, cannot be written: {error.strerror}; name another file"
        ) from error


def _check_output(path: Path | None) -> None:
    """End with an error if something that was printed could not be written."""
    if (failure := written_out()) is not None:
        error = OutputError(
            f"the result cannot be printed: {failure.strerror}; everything else is done; --json writes it to a file"
        )
        _say(error, str(error), path, keep=True)
        raise typer.Exit(2) from failure


def _surroundings(error: Exception) -> TilewrightError | None:
    """The error that names what the machine lacked, if an unforeseen error was due to that; otherwise None."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        return memory_error("this command")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" where {error.filename} is" if error.filename else ""
        return ResourceError(
            f"the disk is full{where}; make room there, or name other directories with TMPDIR and --out"
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        return ResourceError(
            f"a limit of this process is too low: {error.strerror}; raise `ulimit -n` (files) or -u (processes)"
        )
    return None


def _interrupted(error: BaseException, path: Path | None) -> NoReturn:
    _say(error, "interrupted", path, before="", keep=True)
    raise typer.Exit(exit_code()) from error


def _check_writable(path: Path, out: object) -> None:
    """Refuse a file of ``--json`` that cannot be written, or that holds something else than an earlier report.

    Args:
        path: the file.
        out: the directory of the executable, if the command makes one.
    """
    if isinstance(out, Path) and path.absolute() == out.absolute():
        raise OutputError(f"--json names a file, but {path} is the directory of the executable; name another file")
    existed = os.path.exists(path)
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                head = file.read(64).lstrip()
            if not head.startswith(b"{") or path.name == _MANIFEST:
                raise OutputError(
                    f"--json replaces earlier reports only, but {path} is something else; name another file"
                )
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise OutputError(
            f"the file of --json, {path}, cannot be written: {error.strerror}; name a file in a directory that exists"
        ) from error


def _say(error: BaseException, message: str, path: Path | None, *, before: str = "error: ", keep: bool = False) -> None:
    """Print a message, and write it to the file of ``--json``. With ``keep``, a report in the file is kept."""
    print(styled(before, "bold red", sys.stderr) + plain(message), file=sys.stderr)
    if not keep or path not in _reported:
        _record(error, message, path)


def _record(error: BaseException, message: str, path: Path | None) -> None:
    """Write an error to the file of ``--json``. If that fails, the terminal has the message."""
    with contextlib.suppress(OutputError):
        report = error.report if isinstance(error, CheckError) else {}
        write_json(path, {**report, "error": {"type": type(error).__name__, "message": message}})


def _plain(value: object) -> Json:
    """``value`` in the types of JSON: no NaN, no infinities, no NumPy scalars, no paths."""
    if isinstance(value, Mapping):
        return {printable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else printable(str(value))
