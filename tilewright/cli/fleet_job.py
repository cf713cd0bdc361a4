"""One of several models of a command: the process that tunes it, and tells the command how it goes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tilewright.cli.boundary import explain_error
from tilewright.cli.streams import debugging
from tilewright.cli.tuning import run_tuning
from tilewright.cli.verbosity import Verbosity
from tilewright.errors import TilewrightError
from tilewright.executable.replacing import reserve_out
from tilewright.interrupts import exit_code, watching
from tilewright.scratch import scratch
from tilewright.tuning.progress import SilentProgress, TuneState, describe_state

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["main"]


class _CommandProgress(SilentProgress):
    """Tells the command how tuning goes."""

    def __init__(self, connection: Connection, verbose: bool) -> None:
        self._connection, self._verbose = connection, verbose

    def update(self, state: TuneState) -> None:
        """Tell the state, and which nodes were found out."""
        excluded = [(node.name, node.reason) for node in state.nodes if node.state == "excluded"]
        self._connection.send(("state", (describe_state(state), excluded)))

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Tell lines; details only where the user asked for them."""
        if self._verbose or not detail:
            self._connection.send(("lines", list(lines)))


def main(connection: Connection) -> None:
    """Tune the model that the command names.

    The command is told the report; or of an error its class, its message, and the exit code.
    """
    options, cluster = connection.recv()
    try:
        with watching(), ExitStack() as stack:
            stack.enter_context(reserve_out(options.out))
            stack.enter_context(scratch())
            progress = _CommandProgress(connection, options.verbosity is Verbosity.VERBOSE)
            report, told = run_tuning(options, cluster, stack, time.monotonic(), progress)
        answer: tuple[str, object] = ("report", (report, told))
    except KeyboardInterrupt:
        answer = ("error", ("KeyboardInterrupt", "interrupted", exit_code()))
    except Exception as error:
        shown, message, code = explain_error(error)
        if debugging() and not isinstance(shown, TilewrightError):
            message += "\n" + "".join(traceback.format_exception(error))
        answer = ("error", (type(shown).__name__, message, code))
    connection.send(answer)
