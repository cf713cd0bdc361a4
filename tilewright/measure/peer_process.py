"""One runtime in a process of its own: the side that asks, and the object that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from tilewright.errors import MeasureError
from tilewright.measure.cold import thread_flush
from tilewright.measure.isolated import IsolatedProcess
from tilewright.measure.process import find
from tilewright.tensor import Array, TensorSpec

if TYPE_CHECKING:
    from tilewright.measure.peers import Runnable

__all__ = ["PeerProcess"]

#: Seconds that making a runnable may take: it may mean compiling a whole network.
_START_SECONDS = 900.0
#: Seconds that any other answer may take: a run may be one of a network that nobody tuned.
_RUN_SECONDS = 600.0
#: The latency of a run is the shortest of so many runs, none of which begins after so many seconds: the first are cold.
_ESTIMATE_RUNS, _ESTIMATE_SECONDS = 10, 0.5
#: The least latency that is told, in seconds: callers divide by it.
_LEAST_SECONDS = 1e-6
#: How much of an exception's first line its message keeps, in characters.
_MOST_CHARACTERS = 300


class PeerProcess:
    """A process that makes one runnable and times it when asked. It dies with this one.

    Args:
        threads: how many threads the runtime may use.

    Raises:
        MeasureError: no process can be started.
    """

    def __init__(self, threads: int) -> None:
        variables = {"TVM_NUM_THREADS": str(threads)}
        self._process = IsolatedProcess(_Bench, (), variables, "comparing needs processes")

    def start(self, factory: Callable[..., object], arguments: tuple[object, ...]) -> list[TensorSpec]:
        """Have the runnable made; returns what its inputs look like."""
        made = self._ask("start", factory.__module__, factory.__qualname__, arguments, seconds=_START_SECONDS)
        return list(made)

    def prepare(self, arrays: Sequence[Array], cold: bool = False) -> tuple[list[Array], float]:
        """Give the runnable its inputs; returns its outputs, and about how many seconds a run takes.

        Args:
            arrays: the inputs.
            cold: empty the caches before each run from now on. The seconds of a run then include emptying them.
        """
        outputs, seconds = self._ask("prepare", list(arrays), cold)
        return outputs, seconds

    def time(self, warm_up: int, runs: int) -> list[float]:
        """The seconds of each of ``runs`` runs, after ``warm_up`` runs that do not count."""
        return list(self._ask("time", warm_up, runs))

    def call(self, method: str, *arguments: object) -> Any:
        """What another method of the runnable returns, which takes the inputs first."""
        return self._ask("call", method, arguments)

    def pause(self) -> None:
        """Stop it until :meth:`resume`: not even a spinning thread of it runs on."""
        self._process.pause()

    def resume(self) -> None:
        """Let it go on."""
        self._process.resume()

    def kill(self) -> str:
        """End it with all that it started, and say how it ended. Does nothing the second time."""
        return self._process.kill()

    def _ask(self, method: str, *arguments: object, seconds: float = _RUN_SECONDS) -> Any:
        answer = self._process.call("answer", method, arguments, seconds=seconds)
        if isinstance(answer, _Refusal):
            raise MeasureError(answer.message)
        return answer


class _Refusal:
    """What stands for an answer where the runtime raised: its own message, without the exception's name."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Bench:
    """What the process holds: a runnable, its inputs, and what empties the caches, if they are to be cold."""

    def __init__(self) -> None:
        self._runnable: Runnable | None = None
        self._arrays: list[Array] = []
        self._flush: Callable[[], None] | None = None

    def answer(self, method: str, arguments: tuple[object, ...]) -> object:
        """What one of the methods below returns."""
        try:
            return getattr(self, method)(*arguments)
        except Exception as error:  # whatever a runtime raises is an answer
            lines = str(error).strip().splitlines()
            return _Refusal(lines[0][:_MOST_CHARACTERS] if lines else type(error).__name__)

    def start(self, module: str, name: str, arguments: tuple[object, ...]) -> list[TensorSpec]:
        """Make the runnable; returns what its inputs look like."""
        self._runnable = cast("Callable[..., Runnable]", find(module, name))(*arguments)
        return list(self._runnable.inputs)

    def prepare(self, arrays: list[Array], cold: bool) -> tuple[list[Array], float]:
        """Run once on ``arrays``; returns the outputs, and about how many seconds a run takes."""
        assert self._runnable is not None
        self._arrays = arrays
        self._flush = thread_flush() if cold else None
        return self._runnable(*arrays), self._estimate()

    def time(self, warm_up: int, runs: int) -> list[float]:
        """The seconds of each of some runs, without those that warm up."""
        self._seconds(warm_up)
        return self._seconds(runs)

    def call(self, method: str, arguments: tuple[object, ...]) -> object:
        """What a method of the runnable returns that takes the inputs first."""
        answer: object = getattr(self._runnable, method)(self._arrays, *arguments)
        return answer

    def _seconds(self, runs: int) -> list[float]:
        """The seconds of each of some runs, without those of emptying the caches."""
        assert self._runnable is not None
        if self._flush is None:
            return list(self._runnable.time(self._arrays, runs))
        seconds: list[float] = []
        for _ in range(runs):
            self._flush()
            seconds += self._runnable.time(self._arrays, 1)
        return seconds

    def _estimate(self) -> float:
        """The seconds of the shortest of some runs, emptying the caches included."""
        best, begin = float("inf"), time.monotonic()
        for _ in range(_ESTIMATE_RUNS):
            before = time.monotonic()
            seconds = self._seconds(1)
            best = min(best, *seconds) if self._flush is None else min(best, time.monotonic() - before)
            if time.monotonic() - begin > _ESTIMATE_SECONDS:
                break
        return max(best, _LEAST_SECONDS)
