"""A process that makes one object and calls its methods on request: for work that may crash."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from tilewright.errors import MeasureError
from tilewright.measure.process import ChildProcess, Lost, find

__all__ = ["IsolatedError", "IsolatedProcess", "main"]

#: Seconds within which an answer is due by default: a run of a large network that nobody tuned takes minutes.
_SECONDS = 600.0
#: How much of an exception its message keeps: causes, and characters of each one's first line.
_MOST_CAUSES, _MOST_CHARACTERS = 3, 300


class IsolatedError(MeasureError):
    """The process ended, or gave no answer in time.

    A method that raises does not end the process: then :class:`MeasureError` itself is raised, with its message.
    """


class IsolatedProcess:
    """A process with one object. It ends with the calling process, and its output is not shown.

    Threads may share it: each waits until the other has its answer.

    Args:
        factory: makes the object; a function or a class of an importable module.
        arguments: the factory's arguments.
        variables: environment variables that only this process gets.
        purpose: what needs the process, for the message of an error.

    Raises:
        MeasureError: no process can be started.
    """

    def __init__(
        self,
        factory: Callable[..., object],
        arguments: tuple[object, ...],
        variables: Mapping[str, str] | None = None,
        purpose: str = "checking needs a process of its own",
    ) -> None:
        self._lock = threading.RLock()  # a question and its answer belong together
        self._process = ChildProcess(purpose, __name__, variables=variables, keep_output=False)
        self._pending = True  # the answer to the first question says whether the object could be made
        self._send((factory.__module__, factory.__qualname__, arguments))

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._process.alive

    def wait(self, seconds: float = _SECONDS) -> None:
        """Wait until the object is made; :meth:`call` does so, too.

        Raises:
            IsolatedError: the process ended, or took longer than ``seconds``.
            MeasureError: the factory raised.
        """
        with self._lock:
            if not self._pending:
                return
            try:
                self._receive(seconds)
            except MeasureError:
                self.kill()  # there is no object, so no question will ever have an answer
                raise
            self._pending = False

    def call(self, method: str, *arguments: object, seconds: float = _SECONDS) -> Any:
        """What a method of the object returns.

        Raises:
            IsolatedError: the process ended, or gave no answer within ``seconds`` and was killed.
            MeasureError: the method raised; the message is its own, after the exception's name.
        """
        with self._lock:
            self.wait(seconds)
            self._send((method, arguments))
            return self._receive(seconds)

    def pause(self) -> None:
        """Stop the process until :meth:`resume`: not even a spinning thread of it runs on."""
        self._process.pause()

    def resume(self) -> None:
        """Let the process go on."""
        self._process.resume()

    def kill(self) -> str:
        """End the process and all that it started; returns how it ended. Does nothing the second time."""
        return self._process.kill()

    def _send(self, question: tuple[object, ...]) -> None:
        self._check()
        try:
            self._process.send(question)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.kill()
            raise MeasureError(f"its process cannot be sent the call: {error}") from error

    def _receive(self, seconds: float) -> object:
        self._check()
        try:
            reply = self._process.receive(seconds)
        except BaseException:  # an interrupt leaves an answer behind that nobody may take for the next one
            self.kill()
            raise
        if isinstance(reply, Lost):
            if reply.timed_out:
                raise IsolatedError(f"it gave no answer within {seconds:.0f} s")
            raise IsolatedError(f"its process ended ({reply.reason})")
        assert isinstance(reply, tuple)
        failed, answer = reply
        if failed:
            raise MeasureError(str(answer))
        return answer

    def _check(self) -> None:
        if not self.alive:
            raise IsolatedError(f"its process has ended ({self.kill()})")


def main(connection: Connection) -> None:
    """The process's own side: make the object, then answer until nobody asks any more."""
    made: object = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = connection.recv()
            try:
                if made is None:
                    module, name, arguments = question
                    made = _call(find(module, name), arguments)
                    answer: tuple[bool, object] = (False, None)
                else:
                    method, arguments = question
                    answer = (False, _call(getattr(made, method), arguments))
            except Exception as error:  # whatever is raised here is an answer
                answer = (True, _describe(error))
            connection.send(answer)


def _call(function: object, arguments: tuple[object, ...]) -> object:
    assert callable(function)
    return function(*arguments)


def _describe(error: BaseException) -> str:
    """The first line of what an exception says, and of what caused it."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < _MOST_CAUSES:
        lines = str(cause).strip().splitlines()
        parts.append(f"{type(cause).__name__}: {lines[0][:_MOST_CHARACTERS]}" if lines else type(cause).__name__)
        cause = cause.__cause__
    return "; ".join(parts)
