"""The pool's side of one worker: its process, what it has been asked for, and what it keeps."""

from __future__ import annotations

import time
from typing import cast

from tilewright.errors import MeasureError
from tilewright.measure.process import ChildProcess, Lost
from tilewright.measure.protocol import Adopt, Command, Drop, Hello, Reply, SpaceFactory
from tilewright.target import Target

__all__ = ["WorkerProcess"]

#: Seconds within which a worker has imported its compiler: 2.5 on a quiet machine.
_START_SECONDS = 60.0


class WorkerProcess:
    """A worker. It starts in the background: its first reply is ``Started``.

    Attributes:
        connection: readable if the worker has replied or died.
        pid: its process id.
        started: whether the worker has said that it has started.
        awaiting: whether a reply is due.
        expires: the ``time.monotonic()`` by which the reply is due.
        since: the ``time.monotonic()`` of the last command.
        prepared: what the worker was last prepared for: the task's key, and whether it was to run the default for a
            reference.
        reference: whether the worker knows what that task's outputs must be.
        anchor: whether the worker keeps that task's default, to time it.
        building: the candidate that the worker is building, if any.
        built: the candidates that the worker keeps.

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
        self._process = ChildProcess("measuring needs worker processes", "tilewright.measure.worker", (target.cores,))
        self.connection = self._process.connection
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
        """Whether the worker was last prepared for the task with this key."""
        return self.prepared is not None and self.prepared[0] == key

    def knows(self, key: str) -> bool:
        """Whether the worker has turned to the task and knows what its outputs must be."""
        return self.reference and self.turned_to(key)

    def send(self, command: Command, seconds: float) -> None:
        """Give the worker a command whose reply is due within ``seconds``. The reply of a dead worker is ``Lost``."""
        self.since = time.monotonic()
        if not isinstance(command, Adopt | Drop):
            self.awaiting = True
            self.expires = self.since + seconds
        self._process.forget_output()  # it was about other commands
        self._process.send(command)

    def receive(self) -> Reply | Lost:
        """The worker's reply; ``Lost`` if the worker has died instead, which ends it here as well."""
        reply = self._process.receive()
        self.awaiting = False
        return cast("Reply | Lost", reply)

    def died_idle(self) -> bool:
        """Whether the worker is gone although it had nothing to do."""
        # Nothing is due, so what can be read is the end of the pipe.
        return self.started and not self.awaiting and self._process.alive and self.connection.poll(0)

    def expire(self) -> Lost:
        """Kill the worker because its reply is overdue."""
        self.awaiting = False
        return self._process.expire()

    def exceed(self, limit: int) -> Lost | None:
        """Kill the worker if it has more than ``limit`` bytes of memory. None if it has not."""
        lost = self._process.exceed(limit)
        if lost is not None:
            self.awaiting = False
        return lost

    def kill(self) -> None:
        """End the worker and all that it has started. Does nothing the second time."""
        self.awaiting = False
        self._process.kill()

    def pause(self) -> None:
        """Stop the worker until :meth:`resume`."""
        self._process.pause()

    def resume(self) -> None:
        """Let the worker go on, and give it all of its time to start."""
        self._process.resume()
        self.expires = time.monotonic() + _START_SECONDS

    @property
    def peak_rss(self) -> int:
        """The most memory that the worker has had, in bytes, as far as is known."""
        return self._process.peak_rss
