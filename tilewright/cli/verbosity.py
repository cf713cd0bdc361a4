"""How much a command says: with ``--quiet`` only results and errors, with ``--verbose`` also details."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, TypeAlias

import typer

from tilewright.cli.text import plain
from tilewright.errors import TilewrightError

__all__ = ["QuietOption", "VerboseOption", "Verbosity", "detail", "remark", "speaking", "verbosity"]

QuietOption: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results and errors only: no progress, no remarks.")
]
VerboseOption: TypeAlias = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print details, too: the configuration, and the plan of a budget.")
]


class Verbosity(enum.Enum):
    """How much a command says on the standard error stream."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2

    @classmethod
    def of(cls, quiet: bool, verbose: bool) -> Verbosity:
        """What the two options ask for. Raises ``TilewrightError`` for both at once."""
        if quiet and verbose:
            raise TilewrightError("--quiet and --verbose exclude each other, but both were given; leave one out")
        return cls.QUIET if quiet else cls.VERBOSE if verbose else cls.NORMAL


#: Of the command that runs. A command sets it for its own duration.
_current: ContextVar[Verbosity] = ContextVar("verbosity", default=Verbosity.NORMAL)


def verbosity() -> Verbosity:
    """How much the command that runs says."""
    return _current.get()


@contextmanager
def speaking(level: Verbosity) -> Iterator[None]:
    """In this block a command says as much as ``level`` allows."""
    token = _current.set(level)
    try:
        yield
    finally:
        _current.reset(token)


def remark(line: str) -> None:
    """Print a line for people to the standard error stream, unless the command is quiet."""
    if verbosity() is not Verbosity.QUIET:
        print(plain(line), file=sys.stderr)


def detail(line: str) -> None:
    """Print a line to the standard error stream if the command is verbose."""
    if verbosity() is Verbosity.VERBOSE:
        print(plain(line), file=sys.stderr)
