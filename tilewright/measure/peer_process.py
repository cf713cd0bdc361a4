"""One runtime in a process of its own: the side that asks, and the side that runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tilewright.errors import MeasureError
from tilewright.measure.cold import thread_flush
from tilewright.measure.process import arm, ending

__all__ = ["PeerProcess", "main"]

_BOOT = "import sys; sys.path[:] = {path!r}; from tilewright.measure.peer_process import main; main({arguments})"
#: Making a runnable may mean compiling a whole network; a run may be one of a network that nobody tuned.
_START_SECONDS = 900.0
_RUN_SECONDS = 600.0


class PeerProcess:
    """A process that makes one runnable and times it when asked. It dies with this one.

    Args:
        threads: how many threads the runtime may use.

    Raises:
        MeasureError: no process can be started.
    """

    def __init__(self, threads: int) -> None:
        try:
            self._connection, theirs = Pipe()
            lifeline, self._lifeline = os.pipe()
        except OSError as error:
            raise MeasureError(f"comparing needs processes, but none can be started: {error}") from error
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=sys.path, arguments=f"{theirs.fileno()}, {lifeline}")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
                env=os.environ | {"TVM_NUM_THREADS": str(threads)},
                start_new_session=True,  # no Ctrl-C from the terminal, and a group to stop and end as one
            )
            arm(lifeline, self._process.pid)
        except OSError as error:
            self._connection.close()
            os.close(self._lifeline)
            raise MeasureError(f"comparing needs processes, but none can be started: {error}") from error
        finally:
            theirs.close()
            os.close(lifeline)

    def start(self, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
        """Have the runnable made; returns what its inputs look like."""
        return list(self._ask(("start", factory.__module__, factory.__qualname__, arguments), _START_SECONDS))

    def prepare(self, arrays: Sequence[Any], cold: bool = False) -> tuple[list[Any], float]:
        """Give it the inputs; returns its outputs, and about how long a run takes.

        Args:
            arrays: the inputs.
            cold: empty the caches before each run, from now on; the time that takes is part of how long a run takes.
        """
        outputs, seconds = self._ask(("prepare", list(arrays), cold), _RUN_SECONDS)
        return outputs, seconds

    def time(self, warm_up: int, runs: int) -> list[float]:
        """The seconds of each of ``runs`` runs, after some that do not count."""
        return list(self._ask(("time", warm_up, runs), _RUN_SECONDS))

    def call(self, method: str, *arguments: Any) -> Any:
        """What another method of the runnable says, which takes the inputs first."""
        return self._ask(("call", method, arguments), _RUN_SECONDS)

    def pause(self) -> None:
        """Stop it until :meth:`resume`: not even a spinning thread of it runs on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> str:
        """End it with all that it started, and say how it ended. Does nothing the second time."""
        if self._connection.closed:
            return "already ended"
        self._signal(signal.SIGKILL)
        code = self._process.wait()
        self._connection.close()
        os.close(self._lifeline)
        return ending(code)

    def _ask(self, question: tuple[Any, ...], seconds: float) -> Any:
        try:
            self._connection.send(question)
            if not self._connection.poll(seconds):
                self.kill()
                raise MeasureError(f"it gave no answer within {seconds:.0f} s")
            answer = self._connection.recv()
        except (OSError, EOFError) as error:
            raise MeasureError(f"its process ended: {self.kill()}") from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise MeasureError(f"its process cannot be sent the call: {error}") from error
        if isinstance(answer, _Refusal):
            raise MeasureError(answer.message)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class _Refusal:
    def __init__(self, message: str) -> None:
        self.message = message


def main(descriptor: int, lifeline: int) -> None:
    """The process's own side: answer until nobody asks any more."""
    connection = Connection(descriptor)
    runnable: Any = None
    arrays: list[Any] = []
    flush: Callable[[], None] | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = connection.recv()
            try:
                if question[0] == "start":
                    runnable = getattr(importlib.import_module(question[1]), question[2])(*question[3])
                    answer: Any = list(runnable.inputs)
                elif question[0] == "prepare":
                    arrays = question[1]
                    flush = thread_flush() if question[2] else None
                    answer = (runnable(*arrays), _estimate(runnable, arrays, flush))
                elif question[0] == "call":
                    answer = getattr(runnable, question[1])(arrays, *question[2])
                else:
                    _time(runnable, arrays, question[1], flush)
                    answer = _time(runnable, arrays, question[2], flush)
            except Exception as error:  # whatever a runtime raises is an answer
                lines = str(error).strip().splitlines()
                answer = _Refusal(lines[0][:300] if lines else type(error).__name__)
            connection.send(answer)
    os.close(lifeline)


def _time(runnable: Any, arrays: list[Any], runs: int, flush: Callable[[], None] | None) -> list[float]:
    """The seconds of each of some runs, without those of emptying the caches."""
    if flush is None:
        return list(runnable.time(arrays, runs))
    seconds: list[float] = []
    for _ in range(runs):
        flush()
        seconds += runnable.time(arrays, 1)
    return seconds


def _estimate(runnable: Any, arrays: list[Any], flush: Callable[[], None] | None) -> float:
    """About how long a run takes, emptying the caches included: the shortest of some, since the first ones are cold."""
    best, begin = float("inf"), time.monotonic()
    for _ in range(10):
        before = time.monotonic()
        seconds = _time(runnable, arrays, 1, flush)
        best = min(best, *seconds) if flush is None else min(best, time.monotonic() - before)
        if time.monotonic() - begin > 0.5:
            break
    return max(best, 1e-6)
