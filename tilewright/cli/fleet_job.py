"""One of several models of a command: the process that tunes it, and tells the command how it goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from tilewright.cli.tuning import run_tuning
from tilewright.cli.verbosity import Verbosity
from tilewright.errors import TilewrightError
from tilewright.executable.replacing import reserve_out
from tilewright.interrupts import watching
from tilewright.scratch import scratch
from tilewright.tuning.progress import TuneState, describe_state

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["main"]


class _Telling:
    """Tells the command how tuning goes. A :class:`~tilewright.tuning.progress.Progress`."""

    def __init__(self, connection: Connection, verbose: bool) -> None:
        self._connection, self._verbose = connection, verbose

    def __enter__(self) -> _Telling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, state: TuneState) -> None:
        """Tell the state, and which nodes were found out."""
        excluded = [(node.name, node.reason) for node in state.nodes if node.state == "excluded"]
        self._connection.send(("state", (describe_state(state), excluded)))

    def announce(self, lines: Sequence[str], *, detail: bool = False) -> None:
        """Tell lines; details only where the user asked for them."""
        if self._verbose or not detail:
            self._connection.send(("lines", list(lines)))


def main(connection: Connection) -> None:
    """Tune the model that the command names."""
    options, cluster = connection.recv()
    try:
        with watching(), ExitStack() as stack:
            stack.enter_context(reserve_out(options.out))
            stack.enter_context(scratch())
            progress = _Telling(connection, options.verbosity is Verbosity.VERBOSE)
            report, told = run_tuning(options, cluster, stack, time.monotonic(), progress)
        answer: tuple[str, object] = ("report", (report, told))
    except KeyboardInterrupt:
        answer = ("error", ("KeyboardInterrupt", "interrupted"))
    except TilewrightError as error:
        answer = ("error", (type(error).__name__, str(error)))
    except Exception as error:
        answer = ("error", (type(error).__name__, f"{type(error).__name__}: {error}"))
    connection.send(answer)
