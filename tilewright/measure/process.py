"""A child Python process: started, asked over a pipe, bounded in time and memory, and ended with all that it started.

:class:`ChildProcess` is the only place that starts a Python process. What a process is for, its protocol adds:

    worker_process    WorkerProcess      builds and times candidates
    isolated          IsolatedProcess    makes one object, and calls its methods
    peer_process      PeerProcess        an isolated object that times one runtime
    isolated_call     IsolatedCall       calls one function
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from tilewright.errors import MeasureError
from tilewright.measure.memory import LOOK_SECONDS, held, in_words

__all__ = ["ChildProcess", "Lost", "arm", "ending", "find", "serve"]

#: The child finds modules where this process does, because its factory may be in a script's directory. It never imports
#: this process's main module, so a user's script needs no ``if __name__ == "__main__"``.
_BOOT = "import sys; sys.path[:] = {path!r}; from tilewright.measure.process import serve; serve({arguments})"
#: Seconds that a child which has closed its pipe gets to end by itself: killing it earlier would hide how it ended.
#: Python ends within 0.05 s on two cores with six busy programs.
_ENDING_SECONDS = 5.0
#: Seconds between two looks at whether such a child has ended: a tenth of the time that this usually takes.
_POLL_SECONDS = 0.005
#: How much of the output is read for the last words, in bytes, and how much of it messages and records keep, in
#: characters: a line or two.
_TAIL_BYTES = 1 << 16
_TAIL_CHARACTERS = 200
#: TVM's handler of SIGSEGV begins its output so. The C stack of the interpreter, which follows, helps nobody.
_BACKTRACE = "!!!!!!! Segfault encountered"


@dataclass(frozen=True)
class Lost:
    """What stands for an answer if the process gave none. The process has ended then.

    Attributes:
        timed_out: whether it was killed because its answer was overdue.
        reason: its signal or exit code with its last words, or why it was killed.
        memory: the bytes that it had when it was killed because it had too many; otherwise 0.
    """

    timed_out: bool
    reason: str
    memory: int = 0

    def because(self, allowed: int, what: str, seconds: float) -> str:
        """Why ``what`` has failed, in words.

        Args:
            allowed: bytes of memory that the process might have.
            what: what the process was asked for, such as "the build".
            seconds: what it might take.
        """
        if self.timed_out:
            return f"{what} took longer than {seconds:.3g} s"
        if self.memory:
            return f"{what} took {in_words(self.memory)} of memory, where {in_words(allowed)} are allowed"
        hint = ", which the system sends when memory runs out" if self.reason.startswith("SIGKILL") else ""
        return f"{what} ended its process: {self.reason}{hint}"


class ChildProcess:
    """A Python process that serves one module's ``main``. It dies with this process, however this process ends.

    It has a session of its own: no Ctrl-C of the terminal reaches it, and whatever it starts is ended with it.

    Args:
        purpose: what needs the process, for the message of an error, such as "measuring needs worker processes".
        module: its function ``main`` runs in the child, with the child's end of the pipe and then ``arguments``.
        arguments: numbers or texts for ``main``.
        variables: environment variables that the child has besides those of this process.
        keep_output: whether what the child prints is kept for its last words. Otherwise it is thrown away.

    Attributes:
        connection: readable if the child has answered or ended. Closed if it was ended here.
        pid: the child's process id.

    Raises:
        MeasureError: no process can be started.
    """

    def __init__(
        self,
        purpose: str,
        module: str,
        arguments: tuple[int | str, ...] = (),
        variables: Mapping[str, str] | None = None,
        keep_output: bool = True,
    ) -> None:
        self._reason = ""
        self._peak = 0
        self._killing = threading.RLock()  # one thread may end the process while another waits for its answer
        self._resources = ExitStack()
        try:
            with ExitStack() as failing:
                failing.callback(self._resources.close)
                # An anonymous file rather than a pipe: nobody has to empty it, and it leaves nothing behind.
                self._output = self._resources.enter_context(tempfile.TemporaryFile()) if keep_output else None
                self.connection, theirs = Pipe()
                self._resources.callback(self.connection.close)
                with theirs:
                    lifeline, ours = os.pipe()
                    self._resources.callback(os.close, ours)
                    try:
                        served = f"{theirs.fileno()}, {lifeline}, {module!r}, {arguments!r}"
                        self._process = subprocess.Popen(
                            [sys.executable, "-c", _BOOT.format(path=sys.path, arguments=served)],
                            stdin=subprocess.DEVNULL,
                            stdout=self._output or subprocess.DEVNULL,
                            stderr=self._output or subprocess.DEVNULL,
                            pass_fds=(theirs.fileno(), lifeline),
                            env=os.environ | dict(variables or {}),
                            start_new_session=True,
                        )
                        arm(lifeline, self._process.pid)
                    finally:
                        os.close(lifeline)
                failing.pop_all()
        except (OSError, ValueError) as error:
            raise MeasureError(f"{purpose}, but none can be started: {error}") from error
        self.pid = self._process.pid
        _started.add(self)

    @property
    def alive(self) -> bool:
        """Whether the process was not ended here. It may have ended by itself."""
        return not self.connection.closed

    @property
    def peak_rss(self) -> int:
        """The most memory that the process has had, in bytes, as far as is known."""
        if self.alive:
            self._peak = max(self._peak, held(self.pid)[1])
        return self._peak

    def send(self, message: object) -> None:
        """Send a message. If the process has ended by itself, :meth:`receive` says so.

        Raises:
            Exception: the message cannot be pickled.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self, seconds: float = math.inf, memory: int | None = None) -> object:
        """The next answer, or :class:`Lost` if none comes.

        Args:
            seconds: the process is killed if it has not answered after so many.
            memory: the process is killed if it has more bytes. None: it may have any number.
        """
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            step = left if memory is None else min(left, LOOK_SECONDS)
            try:
                ready = self.connection.poll(None if math.isinf(step) else max(0.0, step))
            except OSError:  # it was killed before, or another thread is killing it
                ready = True
            if ready:
                return self._read()
            if left <= 0:
                return self.expire()
            if memory is not None and (lost := self.exceed(memory)) is not None:
                return lost

    def expire(self) -> Lost:
        """Kill the process because its answer is overdue."""
        self.kill()
        return Lost(timed_out=True, reason="killed at the time-out")

    def exceed(self, limit: int) -> Lost | None:
        """Kill the process if it has more than ``limit`` bytes of memory. None if it has not."""
        now, most = held(self.pid)
        self._peak = max(self._peak, most)
        if now <= limit:
            return None
        self.kill()
        return Lost(timed_out=False, reason="killed for its memory", memory=now)

    def pause(self) -> None:
        """Stop the process and what it has started until :meth:`resume`: not even a spinning thread runs on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> str:
        """End the process and all that it has started. Returns how it ended. Does nothing the second time."""
        with self._killing:
            if self.alive:
                self._peak = self.peak_rss
                self._signal(signal.SIGKILL)
                self._reason = ending(self._process.wait())
                if tail := self._tail():
                    self._reason = f"{self._reason}: {tail}"
                self._resources.close()
            return self._reason

    def abandon(self) -> None:
        """Leave the process to the one that started it: this one was forked from that, and has copies of its pipes."""
        self._reason = "it belongs to another process"
        self._resources.close()

    def forget_output(self) -> None:
        """Keep nothing of what the process has printed so far."""
        if self._output is not None:
            # The child shares the position in the file.
            os.ftruncate(self._output.fileno(), 0)
            os.lseek(self._output.fileno(), 0, os.SEEK_SET)

    def _read(self) -> object:
        try:
            return self.connection.recv()
        except (EOFError, OSError):  # the end of the pipe, or of half a message
            until = time.monotonic() + _ENDING_SECONDS
            while not self._has_ended() and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
            return Lost(timed_out=False, reason=self.kill())
        except Exception:  # what the child sent cannot be unpickled here
            self.kill()
            return Lost(timed_out=False, reason="its answer cannot be read")

    def _has_ended(self) -> bool:
        """Whether the process has ended. It is not waited for, so that its id stays its own until :meth:`kill`."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._process.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # this process ignores SIGCHLD
            return True

    def _signal(self, number: signal.Signals) -> None:
        # While the process is not waited for, its id cannot be anyone else's.
        if self.alive and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _tail(self) -> str:
        if self._output is None:
            return ""
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        return " ".join(text.partition(_BACKTRACE)[0].split())[-_TAIL_CHARACTERS:]


def _abandon_all() -> None:
    """A fork of this process ends none of its children, and holds none of their pipes open."""
    for process in list(_started):
        process.abandon()
    _started.clear()


#: The processes that this one has started, as far as somebody refers to them.
_started: weakref.WeakSet[ChildProcess] = weakref.WeakSet()
os.register_at_fork(after_in_child=_abandon_all)


def serve(descriptor: int, lifeline: int, module: str, arguments: tuple[int | str, ...]) -> None:
    """The child's side: run ``main`` of ``module``. The lifeline stays open until the process ends.

    Args:
        descriptor: of the child's end of the pipe.
        lifeline: a descriptor of the pipe whose other end only the parent has.
        module: what is served.
        arguments: of ``main``, after the connection.
    """
    if select.select([lifeline], [], [], 0)[0]:  # the parent died before it could arm the lifeline
        os._exit(1)
    importlib.import_module(module).main(Connection(descriptor), *arguments)


def find(module: str, name: str) -> object:
    """The function or class that ``module`` has under the qualified ``name``."""
    gc.disable()  # imported objects live on, and collecting garbage among them took 5 % of the time of an import
    try:
        found: object = importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()
    for part in name.split("."):
        found = getattr(found, part)
    return found


def arm(lifeline: int, pid: int) -> None:
    """Have the kernel kill process ``pid`` when the lifeline's write end is closed, which only this process has.

    Unlike a thread that waits for the end of a pipe, this works in a process that is stopped, or whose code never
    gives the interpreter back. Unlike ``PR_SET_PDEATHSIG``, it does not fire when only the *thread* ends that
    started the process. The setting belongs to the open pipe, so it holds as long as the process has inherited it.
    Linux only. Elsewhere a process ends when it next waits for a message.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, pid)
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def ending(code: int) -> str:
    """How a process ended, in words, by what ``Popen.wait`` returned."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
