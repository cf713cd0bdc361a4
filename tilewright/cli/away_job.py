"""The job of a node that tunes a model for a command on another kind of machine: the process on the node."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tilewright.cli.boundary import explain_error
from tilewright.cli.tuning import run_tuning
from tilewright.errors import TilewrightError
from tilewright.fleet.head_store import HeadLine, HeadStore
from tilewright.interrupts import watching
from tilewright.scratch import scratch
from tilewright.tuning.progress import SilentProgress, TuneState

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["main"]


class _HeadProgress(SilentProgress):
    """Tells the head how tuning goes."""

    def __init__(self, line: HeadLine) -> None:
        self._line = line

    def __enter__(self) -> _HeadProgress:
        self._line.say("display", True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.say("display", False)

    def update(self, state: TuneState) -> None:
        """Tell the state."""
        self._line.say("state", state)

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Tell lines."""
        self._line.say("lines", (list(lines), detail))


def main(connection: Connection, folder: str) -> None:
    """Tune the model that the head names.

    Args:
        connection: to the outpost.
        folder: with the files that the head has sent.
    """
    options, cluster = connection.recv()
    place, names = Path(folder), options.names
    if names.cost_model not in (None, "none"):
        names = replace(names, cost_model=str(place / names.cost_model))
    options = replace(options, model=place / options.model, out=place / options.out, names=names)
    line = HeadLine(connection)
    try:
        with watching(), ExitStack() as stack:
            stack.enter_context(scratch())
            answer = run_tuning(options, cluster, stack, time.monotonic(), _HeadProgress(line), HeadStore(line))
        line.say("report", answer)
    except KeyboardInterrupt:
        line.say("error", KeyboardInterrupt())
    except Exception as error:
        line.say("error", _portable(error))
    line.close()


def _portable(error: Exception) -> Exception:
    """The error as the head can have it. What is a bug here is one there; its message ends in the traceback."""
    told, message, _ = explain_error(error)
    if not isinstance(told, TilewrightError):
        trace = "".join(traceback.format_exception(error))
        return RuntimeError(f"a job on a node ended with {message.splitlines()[0]}\n{trace}")
    try:
        if type(pickle.loads(pickle.dumps(told))) is type(told):
            return told
    except Exception:  # some errors take other arguments than they keep
        pass
    return TilewrightError(message)
