"""One call of a function in a process of its own, for code that may crash, hang, or take all of the memory."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import Any

from tilewright.errors import MeasureError, ProcessError, TilewrightError
from tilewright.measure.memory import LOOK_SECONDS, die_first, held, in_words
from tilewright.measure.process import arm, ending

__all__ = ["IsolatedCall", "main", "run_isolated"]

#: The process finds modules where this one does, and never imports this one's main module.
_BOOT = "import sys; sys.path[:] = {path!r}; from tilewright.measure.isolated_call import main; main({arguments})"
#: What is kept of a process's last words: bytes that are read, and characters of the message.
_TAIL_BYTES, _TAIL_CHARACTERS = 1 << 14, 200
#: TVM's own handler of SIGSEGV begins so; the C stack of the interpreter, which follows, helps nobody.
_BACKTRACE = "!!!!!!! Segfault encountered"


def run_isolated(
    function: Callable[..., Any],
    *arguments: Any,
    seconds: float = math.inf,
    memory: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What ``function(*arguments)`` returns, computed in a process of its own. It dies with this one.

    Args:
        function: of an importable module, at its top level. The process imports that module and what it needs.
        arguments: can be pickled. Large models go as paths of files: protobuf's messages end at 2 GB.
        seconds: after which the process is ended.
        memory: bytes that it may have.
        environment: variables that it has besides this process's own.

    Returns:
        the result, which can be pickled.

    Raises:
        ProcessError: it died (``died`` is true), took too long or too much memory (likewise), or raised what is
            neither Python's own nor Tilewright's (``died`` is false).
        MeasureError: no process can be started.
        Exception: a TilewrightError or one of Python's own, as the function raised it.
    """
    with IsolatedCall(function, *arguments, seconds=seconds, memory=memory, environment=environment) as call:
        return call.result()


class IsolatedCall:
    """A call that goes on in a process of its own while this one does something else.

    Use it as a context manager, whose end ends the process. Arguments and errors: see :func:`run_isolated`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float = math.inf,
        memory: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._expires = time.monotonic() + seconds
        self._memory = memory
        try:
            self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()
            self._connection, theirs = Pipe()
            lifeline, self._lifeline = os.pipe()
        except OSError as error:
            raise _unstartable(error) from error
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT.format(path=sys.path, arguments=f"{theirs.fileno()}, {lifeline}")],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(theirs.fileno(), lifeline),
                env=os.environ | dict(environment or {}),
                start_new_session=True,  # no Ctrl-C from the terminal, and a group to end as one
            )
            arm(lifeline, self._process.pid)
        except OSError as error:
            self._connection.close()
            os.close(self._lifeline)
            self._output.close()
            raise _unstartable(error) from error
        finally:
            theirs.close()
            os.close(lifeline)
        # A process that is dead already says so when its answer is asked for.
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send((function.__module__, function.__qualname__, arguments))
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

    def result(self) -> Any:
        """What the function returned; waits for it. To be asked for once. Raises as :func:`run_isolated` does."""
        self._wait()
        try:
            raised, value = self._connection.recv()
        except Exception as error:  # the end of the pipe, half a message, or one that cannot be unpickled here
            raise ProcessError(f"its process ended: {self._last_words()}", died=True) from error
        if raised:
            assert isinstance(value, BaseException)
            raise value
        return value

    def close(self) -> None:
        """End the process with all that it started. Does nothing the second time."""
        if self._connection.closed:
            return
        # While the process is not waited for, its id cannot be anyone else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()
        os.close(self._lifeline)
        self._output.close()

    def _wait(self) -> None:
        """Return when there is an answer, or an end. Raises ``ProcessError`` at a limit."""
        while True:
            left = self._expires - time.monotonic()
            step = left if self._memory is None else min(left, LOOK_SECONDS)
            if self._connection.poll(None if math.isinf(step) else max(0.0, step)):
                return
            if left <= 0:
                raise ProcessError("its process gave no answer in time", died=True)
            if self._memory is not None and held(self._process.pid)[0] > self._memory:
                raise ProcessError(f"its process took more than {in_words(self._memory)} of memory", died=True)

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return "its answer cannot be read"
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        tail = " ".join(text.partition(_BACKTRACE)[0].split())[-_TAIL_CHARACTERS:]
        return f"{ending(code)}: {tail}" if tail else ending(code)


def _unstartable(error: OSError) -> MeasureError:
    return MeasureError(f"this needs a process of its own, but none can be started: {error}")


def main(descriptor: int, lifeline: int) -> None:
    """The process's own side: one call, one answer. The lifeline stays open until it ends."""
    die_first()
    connection = Connection(descriptor)
    try:
        module, name, arguments = connection.recv()
    except (EOFError, OSError):
        return
    try:
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        answer = (False, function(*arguments))
    except Exception as error:
        answer = (True, _portable(error))
    try:
        connection.send(answer)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError) as error:
        connection.send((True, ProcessError(f"the result of {name} cannot be sent: {error}"[:300], died=False)))
    except OSError:  # nobody waits for it any more
        return


def _portable(error: Exception) -> Exception:
    """``error`` where the other side can have it as it is; otherwise what it says."""
    kind: type[Exception] = type(error)
    if isinstance(error, TilewrightError) or getattr(builtins, kind.__name__, None) is kind:
        with contextlib.suppress(Exception):
            if type(pickle.loads(pickle.dumps(error))) is kind:  # some take other arguments than they keep
                return error
    lines = str(error).strip().splitlines()
    return ProcessError(f"{kind.__name__}: {lines[0][:500]}" if lines else kind.__name__, died=False)
