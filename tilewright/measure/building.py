"""The build phase of a batch: every idle worker is handed the next candidate, until all are built."""

from __future__ import annotations

import time

from tilewright.measure.batch import Batch, PoolLimits, PoolStatistics
from tilewright.measure.outcome import Outcome
from tilewright.measure.preparing import Preparer
from tilewright.measure.process import Lost
from tilewright.measure.protocol import Build, Compile, Compiled, Failed, Reply
from tilewright.measure.recording import Recorder
from tilewright.measure.worker_process import WorkerProcess
from tilewright.measure.workforce import Workforce

__all__ = ["Builder"]

#: The built candidates that one worker keeps at most. Each takes about a megabyte, and all are lost if the worker dies.
_MOST_BUILT = 32


class Builder:
    """Has candidates built by the workers of a pool, in parallel.

    Args:
        workforce: the workers.
        preparer: turns them to a batch's task.
        recorder: told of the candidates that cannot be built.
        limits: what a worker may take.
        statistics: is told how long building takes.
    """

    def __init__(
        self,
        workforce: Workforce,
        preparer: Preparer,
        recorder: Recorder,
        limits: PoolLimits,
        statistics: PoolStatistics,
    ) -> None:
        self._workforce, self._preparer, self._recorder = workforce, preparer, recorder
        self._limits, self._statistics = limits, statistics

    def build(self, batch: Batch) -> None:
        """Have the queue built, as far as time and the workers' memory allow."""
        begin = time.monotonic()
        self._workforce.resume_gaps()
        while True:
            self._preparer.replenish(batch)
            self._workforce.note_gap()
            active = self._workforce.active[: batch.builders]
            # What is built also has to be timed before the deadline.
            built = sum(len(process.built) for process in active)
            stop = not batch.queue or batch.is_late(built * self._statistics.timing_each)
            if not stop:
                for process in active:
                    self._occupy(process, batch)
            busy = [process for process in active if process.awaiting]
            if not busy and (stop or active):
                break
            # Workers that start are waited for as well: they will take their share of the queue.
            for process, reply in self._workforce.replies([*busy, *self._workforce.starting], batch.deadline):
                self._note_reply(process, reply, batch)
        self._statistics.building += time.monotonic() - begin

    def _occupy(self, process: WorkerProcess, batch: Batch) -> None:
        """Hand an idle worker its next piece of work, if there is one for it."""
        if process.awaiting or not batch.queue:
            return
        if not process.turned_to(batch.key):
            self._preparer.prepare(process, batch)
            return
        first = self._next(process, batch)
        # A candidate that was lost before is built alone in a worker.
        alone = first in batch.losses or any(index in batch.losses for index in process.built)
        if first is not None and len(process.built) < (1 if alone else _MOST_BUILT):
            batch.queue.remove(first)
            process.building = first
            config = batch.configs[first]
            build = Build(first, config, batch.libraries.get(config))
            process.send(build if batch.compiled is None else Compile(config), batch.limit(self._limits.build))

    def _next(self, process: WorkerProcess, batch: Batch) -> int | None:
        """The candidate that a worker is to build. None: it has to wait."""
        turning = (batch.key, True)
        others = [other for other in self._workforce.processes if other is not process and other.prepared == turning]
        if not any(other.awaiting and other.building is None for other in others):
            return batch.queue[0]
        # Another worker is building the default for its outputs, and will have it when its turn as a candidate comes.
        return next((index for index in batch.queue if batch.configs[index] != batch.default), None)

    def _note_reply(self, process: WorkerProcess, reply: Reply | Lost, batch: Batch) -> None:
        index, process.building = process.building, None
        if index is None:
            self._preparer.note_reply(process, reply, batch)
            return
        batch.spent[index] = batch.spent.get(index, 0.0) + time.monotonic() - process.since
        if isinstance(reply, Lost):
            self._preparer.discard(process, batch)
            if reply.timed_out and batch.is_late():
                return  # cut off by the deadline, which says nothing about the candidate
            outcome = Outcome.BUILD_TIMED_OUT if reply.timed_out else Outcome.BUILD_FAILED
            message = reply.because(self._limits.memory, "the build", self._limits.build)
            self._recorder.record_failure(batch, index, outcome, message)
        elif isinstance(reply, Failed):
            self._recorder.record_failure(batch, index, reply.outcome, reply.message)
        elif isinstance(reply, Compiled):
            assert batch.compiled is not None
            batch.compiled[batch.configs[index]] = reply.library
        else:
            process.built.append(index)
