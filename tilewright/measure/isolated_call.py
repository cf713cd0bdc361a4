"""One call of a function in a process of its own, for code that may crash, hang, or take all of the memory."""

from __future__ import annotations

import builtins
import contextlib
import math
import pickle
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import cast

from tilewright.errors import ProcessError, TilewrightError
from tilewright.measure.memory import die_first, in_words
from tilewright.measure.process import ChildProcess, Lost, find

__all__ = ["IsolatedCall", "main"]

#: How much of an exception's first line its message keeps, in characters: a few lines of a terminal.
_MOST_CHARACTERS = 500


class IsolatedCall:
    """A call that goes on in a process of its own while this process does something else.

    Use it as a context manager, whose end ends the process. The process dies with this one.

    Args:
        function: of an importable module. The process imports that module and what it needs.
        arguments: can be pickled. Large models go as paths of files, because protobuf's messages end at 2 GB.
        seconds: after which the process is ended.
        memory: bytes that the process may have; None: any number.
        environment: variables that the process has besides those of this process.

    Attributes:
        lost: how the process ended instead of giving an answer, once :meth:`result` has raised for that.

    Raises:
        MeasureError: no process can be started.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        seconds: float = math.inf,
        memory: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.lost: Lost | None = None
        self._expires = time.monotonic() + seconds
        self._memory = memory
        self._process = ChildProcess("this needs a process of its own", __name__, variables=environment)
        try:
            self._process.send((function.__module__, function.__qualname__, arguments))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> IsolatedCall:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def result(self) -> object:
        """Wait for what the function returns. To be asked for once.

        Raises:
            ProcessError: the process died or was ended at a limit (``died`` is true). Or the function raised what is
                neither Python's own nor Tilewright's, or returned what cannot be pickled (``died`` is false).
            Exception: a TilewrightError or one of Python's own, as the function raised it.
        """
        reply = self._process.receive(self._expires - time.monotonic(), self._memory)
        if isinstance(reply, Lost):
            self.lost = reply
            raise ProcessError(self._describe(reply), died=True)
        raised, value = cast(tuple[bool, object], reply)
        if raised:
            assert isinstance(value, BaseException)
            raise value
        return value

    def close(self) -> None:
        """End the process with all that it started. Does nothing the second time."""
        self._process.kill()

    def _describe(self, lost: Lost) -> str:
        if lost.timed_out:
            return "its process gave no answer in time"
        if lost.memory:
            assert self._memory is not None
            return f"its process took more than {in_words(self._memory)} of memory"
        return f"its process ended: {lost.reason}"


def main(connection: Connection) -> None:
    """The process's own side: one call, one answer."""
    die_first()
    try:
        module, name, arguments = connection.recv()
    except (EOFError, OSError):
        return
    try:
        function = cast(Callable[..., object], find(module, name))
        answer: tuple[bool, object] = (False, function(*arguments))
    except Exception as error:
        answer = (True, _make_portable(error))
    try:
        connection.send(answer)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        connection.send((True, ProcessError(f"the result of {name} cannot be sent: {error}"[:300], died=False)))
    except OSError:  # nobody waits for it any more
        return


def _make_portable(error: Exception) -> Exception:
    """``error`` if the other side can have it as it is; otherwise a ``ProcessError`` with what it says."""
    kind: type[Exception] = type(error)
    if isinstance(error, TilewrightError) or getattr(builtins, kind.__name__, None) is kind:
        with contextlib.suppress(Exception):
            if type(pickle.loads(pickle.dumps(error))) is kind:  # some take other arguments than they keep
                return error
    lines = str(error).strip().splitlines()
    return ProcessError(f"{kind.__name__}: {lines[0][:_MOST_CHARACTERS]}" if lines else kind.__name__, died=False)
