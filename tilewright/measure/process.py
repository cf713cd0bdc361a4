"""The pool's side of one worker: starts it, talks to it, and ends it with everything it started."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Pipe

from tilewright.errors import MeasureError
from tilewright.measure.memory import held
from tilewright.measure.protocol import Adopt, Command, Drop, Hello, Lost, Reply, SpaceFactory
from tilewright.target import Target

__all__ = ["WorkerProcess", "arm", "ending"]

#: The worker finds modules where this process does (its factory may be in a script's directory), and never imports
#: this process's main module, so a user's script needs no ``if __name__ == "__main__"``.
_BOOT = "import sys; sys.path[:] = {path!r}; from tilewright.measure.worker import main; main({arguments})"
#: Seconds within which a worker has imported its compiler: 2.5 on a quiet machine.
_START_SECONDS = 60.0
#: What is read of a worker's last words, in bytes, and what is kept of them for the records, in characters.
_TAIL_BYTES = 1 << 16
_TAIL_CHARACTERS = 200
#: TVM's own handler of SIGSEGV begins so; the C stack of the interpreter, which follows, helps nobody.
_BACKTRACE = "!!!!!!! Segfault encountered"


class WorkerProcess:
    """A worker process. It starts in the background: its first reply is ``Started``.

    Attributes:
        connection: readable when the worker has replied or died.
        started: whether it has said so.
        awaiting: whether a reply is due, by the ``time.monotonic()`` of ``expires``.
        prepared: what it was last prepared for: the task's key, and whether it was to run the default for a reference.
        reference: whether it knows what that task's outputs must be.
        anchor: whether it keeps that task's default, to time it.
        building: the candidate in its hands, if any.
        built: the candidates that it keeps.

    Args:
        target: what it builds for.
        factory: makes its design spaces.

    Raises:
        MeasureError: no process can be started, or the factory is not one that it could import.
    """

    def __init__(self, target: Target, factory: SpaceFactory | None) -> None:
        self.started = False
        self.awaiting = False
        self.expires = 0.0
        self.since = 0.0
        self.prepared: tuple[str, bool] | None = None
        self.reference = False
        self.anchor = False
        self.building: int | None = None
        self.built: list[int] = []
        self._peak = 0
        try:
            # An anonymous file rather than a pipe: nobody has to empty it, and it leaves nothing behind.
            self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed in kill()
            self.connection, theirs = Pipe()
            lifeline, self._lifeline = os.pipe()
        except OSError as error:
            raise MeasureError(f"measuring needs worker processes, but none can be started: {error}") from error
        code = _BOOT.format(path=sys.path, arguments=f"{theirs.fileno()}, {lifeline}, {target.cores}")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(theirs.fileno(), lifeline),
                start_new_session=True,  # no Ctrl-C from the terminal, and a group to end as one
            )
            arm(lifeline, self._process.pid)
        except (OSError, ValueError) as error:
            self.connection.close()
            os.close(self._lifeline)
            self._output.close()
            raise MeasureError(f"measuring needs worker processes, but none can be started: {error}") from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid = self._process.pid
        try:
            self.send(Hello(target, factory), _START_SECONDS)
        except Exception as error:
            self.kill()
            raise MeasureError(
                f"workers find the factory of design spaces by its name, so it must be a function of an importable "
                f"module, but {factory!r} cannot be sent to them ({error}); move it into a module"
            ) from error

    def turned_to(self, key: str) -> bool:
        """Whether it was last prepared for the task of this key."""
        return self.prepared is not None and self.prepared[0] == key

    def knows(self, key: str) -> bool:
        """Whether it has turned to the task and knows what its outputs must be."""
        return self.reference and self.turned_to(key)

    def send(self, command: Command, seconds: float) -> None:
        """Give it a command whose reply is due within ``seconds``. To a dead worker too: the reply is then ``Lost``."""
        self.since = time.monotonic()
        if not isinstance(command, Adopt | Drop):
            self.awaiting = True
            self.expires = self.since + seconds
        # What it printed so far was about other things. The position is one that the worker shares.
        os.ftruncate(self._output.fileno(), 0)
        os.lseek(self._output.fileno(), 0, os.SEEK_SET)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(command)

    def receive(self) -> Reply | Lost:
        """The reply that has come; ``Lost`` where the worker has died instead, which ends it here as well."""
        try:
            reply: Reply = self.connection.recv()
        except Exception:  # the end of the pipe, or the half of a message
            return self.kill()
        self.awaiting = False
        return reply

    def died_idle(self) -> bool:
        """Whether it is gone although it had nothing to do."""
        # Nothing is due, so what can be read is the end of the pipe.
        return self.started and not self.awaiting and not self.connection.closed and self.connection.poll(0)

    def expire(self) -> Lost:
        """End it because its reply is overdue."""
        self.kill()
        return Lost(timed_out=True, reason="killed at the time-out")

    def exceed(self, limit: int) -> Lost | None:
        """End it if it has more than ``limit`` bytes of memory; None if it has not."""
        now, most = held(self.pid)
        self._peak = max(self._peak, most)
        if now <= limit:
            return None
        self.kill()
        return Lost(timed_out=False, reason="killed for its memory", memory=now)

    def kill(self) -> Lost:
        """End it and all that it started, now. Does nothing the second time."""
        self.awaiting = False
        if self.connection.closed:
            return Lost(timed_out=False, reason="already ended")
        self._peak = self.peak_rss
        # While the worker is not waited for, its process id cannot be anyone else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._process.wait()
        reason = ending(code)
        tail = self._tail()
        self.connection.close()
        os.close(self._lifeline)
        self._output.close()
        return Lost(timed_out=False, reason=f"{reason}: {tail}" if tail else reason)

    def pause(self) -> None:
        """Stop it until :meth:`resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, with all of its time before it."""
        self._signal(signal.SIGCONT)
        self.expires = time.monotonic() + _START_SECONDS

    @property
    def peak_rss(self) -> int:
        """The most memory that it has had, in bytes; as far as is known."""
        if not self.connection.closed:
            self._peak = max(self._peak, held(self.pid)[1])
        return self._peak

    def _signal(self, number: signal.Signals) -> None:
        if not self.connection.closed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _tail(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        text = os.pread(self._output.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
        return " ".join(text.partition(_BACKTRACE)[0].split())[-_TAIL_CHARACTERS:]


def arm(lifeline: int, pid: int) -> None:
    """Have the kernel kill ``pid`` when the lifeline's write end is closed, which only this process has.

    Unlike a thread that waits for the end of a pipe, this works in a worker that is stopped, or whose kernel never
    gives the interpreter back; unlike ``PR_SET_PDEATHSIG``, it does not fire when merely the *thread* ends that
    started the worker. The setting belongs to the open pipe, so it holds as long as the worker has
    inherited it. Linux only; elsewhere a worker ends when it next waits for a command.
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
