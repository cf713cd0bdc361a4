"""The worker processes of a pool: which there are, which takes the place of which, and what they reply.

Besides the workers at work one more is kept ready, to replace one that is lost: starting one takes seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait

from tilewright.errors import MeasureError
from tilewright.measure.batch import GRACE, PoolStatistics
from tilewright.measure.memory import LOOK_SECONDS
from tilewright.measure.process import Lost
from tilewright.measure.protocol import Reply, SpaceFactory, Started
from tilewright.measure.worker_process import WorkerProcess
from tilewright.target import Target

__all__ = ["MOST_START_FAILURES", "Workforce"]

#: No worker will ever start when so many in a row have died while they started: fewer may be accidents. As long as
#: other workers work, it is no error.
MOST_START_FAILURES = 3
#: If waiting for :data:`LOOK_SECONDS` took so many seconds, this process or the whole machine was stopped meanwhile.
_PAUSED = 1.0


class Workforce:
    """Worker processes, in the order of their start.

    Args:
        target: what they build for.
        factory: makes design spaces in them; see :class:`tilewright.measure.pool.LocalPool`.
        count: how many are at work.
        memory: bytes that each may have.
        statistics: is told of gaps, replacements and memory.

    Attributes:
        processes: all workers, including those that are just starting.

    Raises:
        MeasureError: workers cannot be started.
    """

    def __init__(
        self, target: Target, factory: SpaceFactory | None, count: int, memory: int, statistics: PoolStatistics
    ) -> None:
        self.processes: list[WorkerProcess] = []
        self._target, self._factory, self._count, self._memory = target, factory, count, memory
        self._statistics = statistics
        self._start_failures = 0  # in a row
        self._hopeless = 0  # those of them that left no worker at all
        self._complete = False
        self._short_since = math.inf
        try:
            while len(self.processes) < count:
                self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers, whatever they are at. May be called again."""
        while self.processes:
            self.end(self.processes[-1])

    @property
    def active(self) -> list[WorkerProcess]:
        """The workers at work: those that have started, without the one in reserve."""
        return [process for process in self.processes if process.started][: self._count]

    @property
    def starting(self) -> list[WorkerProcess]:
        """The workers that are just starting."""
        return [process for process in self.processes if not process.started]

    def any_turned_to(self, key: str) -> bool:
        """Whether any worker has turned to the task with this key: then its design space can be made."""
        return any(
            process.turned_to(key) and (process.building is not None or not process.awaiting)
            for process in self.processes
        )

    def begin(self) -> None:
        """A batch begins: try once more to start workers, even if none could be started before."""
        self._start_failures = min(self._start_failures, MOST_START_FAILURES - 1)

    def replenish(self, discard: Callable[[WorkerProcess], None]) -> None:
        """Start the workers that are missing. The one in reserve waits for the others, so as not to delay them.

        Args:
            discard: called first with each worker that has died idle, and has to discard it.
        """
        for process in list(self.processes):
            if process.died_idle():
                discard(process)
        if self._start_failures >= MOST_START_FAILURES and self.processes:
            return  # this batch has to do with the workers that there are
        ready = sum(process.started for process in self.processes)
        wanted = self._count + (1 if ready >= self._count else 0)
        while len(self.processes) < wanted:
            self._start()

    def note_started(self, process: WorkerProcess, reply: Started) -> None:
        """A worker has started, or says why it cannot.

        Raises:
            MeasureError: it cannot.
        """
        if reply.error:
            raise MeasureError(f"measuring needs worker processes, but they cannot start: {reply.error}")
        process.started = True
        self._start_failures = self._hopeless = 0

    def note_stillborn(self, reason: str) -> None:
        """A worker has died while it started, and was discarded.

        Raises:
            MeasureError: so did the others, and none is left.
        """
        self._start_failures += 1
        self._hopeless += not any(process.started for process in self.processes)
        if self._hopeless >= MOST_START_FAILURES:
            raise MeasureError(f"measuring needs worker processes, but they die while starting: {reason}")

    def resume_gaps(self) -> None:
        """Building begins: from now on a missing worker counts."""
        self._short_since = math.inf

    def note_gap(self) -> None:
        """Note for how long workers have been missing. While the first ones start, none is."""
        now = time.monotonic()
        if len(self.active) == self._count:
            self._complete, self._short_since = True, math.inf
        elif self._complete:
            self._short_since = min(self._short_since, now)
            self._statistics.longest_gap = max(self._statistics.longest_gap, now - self._short_since)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Stop the workers that are just starting."""
        starting = self.starting
        try:
            for process in starting:
                process.pause()
            yield
        finally:
            for process in starting:
                process.resume()

    def reply(self, process: WorkerProcess, deadline: float) -> Reply | Lost:
        """Wait for the reply of one worker, as :meth:`replies` does."""
        replies: list[tuple[WorkerProcess, Reply | Lost]] = []
        while not replies:
            replies = self.replies([process], deadline)
        return replies[0][1]

    def replies(self, processes: Iterable[WorkerProcess], deadline: float) -> list[tuple[WorkerProcess, Reply | Lost]]:
        """Wait for replies of some workers, for a moment. Those with no time left or too much memory are ended.

        Args:
            processes: the workers.
            deadline: reading of ``time.monotonic()``. Workers get :data:`GRACE` more.
        """
        waited = {process.connection: process for process in processes}
        until = min([deadline + GRACE, *(process.expires for process in waited.values())])
        begin = time.monotonic()
        ready = wait(list(waited), min(max(0.0, until - begin), LOOK_SECONDS))
        replies: list[tuple[WorkerProcess, Reply | Lost]] = []
        now = time.monotonic()
        if now - begin > _PAUSED:  # the workers had no time either
            for process in waited.values():
                process.expires = max(process.expires, min(process.expires + now - begin, deadline + GRACE))
        for connection, process in waited.items():
            if connection in ready:
                replies.append((process, process.receive()))
            elif now >= process.expires:
                replies.append((process, process.expire()))
            elif (lost := process.exceed(self._memory)) is not None:
                replies.append((process, lost))
        return replies

    def discard(self, process: WorkerProcess) -> None:
        """End a worker that is lost and will be replaced."""
        self._statistics.replaced += 1
        self.end(process)

    def end(self, process: WorkerProcess) -> None:
        """End a worker, whatever it is at."""
        process.kill()
        self._statistics.peak_rss = max(self._statistics.peak_rss, process.peak_rss)
        if process in self.processes:
            self.processes.remove(process)

    def _start(self) -> None:
        self.processes.append(WorkerProcess(self._target, self._factory))
