"""A process that makes one object and calls its methods on request: for work that may crash."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any

from tilewright.errors import MeasureError
from tilewright.measure.process import arm, ending

__all__ = ["IsolatedError", "IsolatedProcess", "main"]

_BOOT = "import sys; sys.path[:] = {path!r}; from tilewright.measure.isolated import main; main({arguments})"
#: Seconds within which an answer is due by default.
_SECONDS = 600.0


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

    Raises:
        MeasureError: no process can be started.
    """

    def __init__(
        self, factory: Callable[..., Any], arguments: tuple[Any, ...], variables: Mapping[str, str] | None = None
    ) -> None:
        self._reason = ""
        self._lock = threading.RLock()  # a question and its answer belong together
        try:
            self._connection, theirs = Pipe()
            lifeline, self._lifeline = os.pipe()
        except OSError as error:
            raise MeasureError(f"checking needs a process of its own, but none can be started: {error}") from error
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=sys.path, arguments=f"{theirs.fileno()}, {lifeline}")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
                env=os.environ | dict(variables or {}),
                start_new_session=True,  # no Ctrl-C from the terminal, and a group to end as one
            )
            arm(lifeline, self._process.pid)
        except OSError as error:
            self._connection.close()
            os.close(self._lifeline)
            raise MeasureError(f"checking needs a process of its own, but none can be started: {error}") from error
        finally:
            theirs.close()
            os.close(lifeline)
        self._pending = True  # the answer to the first question says whether the object could be made
        self._send((factory.__module__, factory.__qualname__, arguments))

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    @property
    def alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        return not self._connection.closed

    def wait(self, seconds: float = _SECONDS) -> None:
        """Wait until the object is made; :meth:`call` does so, too.

        Raises:
            IsolatedError: the process ended, or took longer than ``seconds``.
            MeasureError: the factory raised.
        """
        with self._lock:
            if self._pending:
                self._receive(seconds)
                self._pending = False

    def call(self, method: str, *arguments: Any, seconds: float = _SECONDS) -> Any:
        """What a method of the object returns.

        Raises:
            IsolatedError: the process ended, or gave no answer within ``seconds`` and was killed.
            MeasureError: the method raised; the message is its own, after the exception's name.
        """
        with self._lock:
            self.wait(seconds)
            self._send((method, arguments))
            return self._receive(seconds)

    def kill(self) -> str:
        """End the process and all that it started; returns how it ended. Does nothing the second time."""
        if self._connection.closed:
            return self._reason
        if self._process.returncode is None:  # afterwards its process id may be anyone else's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._reason = ending(self._process.wait())
        self._connection.close()
        os.close(self._lifeline)
        return self._reason

    def _send(self, question: tuple[Any, ...]) -> None:
        if self._connection.closed:
            raise IsolatedError(f"its process has ended ({self._reason})")
        try:
            self._connection.send(question)
        except OSError as error:
            raise IsolatedError(f"its process ended ({self._last_words()})") from error
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self.kill()
            raise MeasureError(f"its process cannot be sent the call: {error}") from error

    def _receive(self, seconds: float) -> Any:
        if self._connection.closed:
            raise IsolatedError(f"its process has ended ({self._reason})")
        try:
            if not self._connection.poll(seconds):
                self.kill()
                raise IsolatedError(f"it gave no answer within {seconds:.0f} s")
            failed, answer = self._connection.recv()
        except (OSError, EOFError) as error:
            raise IsolatedError(f"its process ended ({self._last_words()})") from error
        except BaseException:  # an interrupt leaves an answer behind that nobody may take for the next one
            self.kill()
            raise
        if failed:
            raise MeasureError(str(answer))
        return answer

    def _last_words(self) -> str:
        """How it ended by itself, which killing would hide."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)
        return self.kill()


def main(descriptor: int, lifeline: int) -> None:
    """The process's own side: make the object, then answer until nobody asks any more."""
    connection = Connection(descriptor)
    made: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = connection.recv()
            try:
                if made is None:
                    module, name, arguments = question
                    made = getattr(importlib.import_module(module), name)(*arguments)
                    answer: Any = (False, None)
                else:
                    method, arguments = question
                    answer = (False, getattr(made, method)(*arguments))
            except Exception as error:  # whatever is raised here is an answer
                answer = (True, _said(error))
            connection.send(answer)
    os.close(lifeline)


def _said(error: BaseException) -> str:
    """The first line of what an exception says, and of what caused it."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 3:
        lines = str(cause).strip().splitlines()
        parts.append(f"{type(cause).__name__}: {lines[0][:300]}" if lines else type(cause).__name__)
        cause = cause.__cause__
    return "; ".join(parts)
