"""The timing phase of a batch: one worker at a time runs what it has built, and no other process of ours runs.

Worker after worker, because a kernel's threads spin for a while after it: so there are few changes of workers.

What disturbs the machine comes in bursts. So a candidate that was disturbed, and may still be good, has another turn
after the other candidates of its worker.
"""

from __future__ import annotations

import time

from tilewright.measure.batch import Batch, PoolLimits, PoolStatistics
from tilewright.measure.outcome import Outcome, robust_seconds
from tilewright.measure.preparing import Preparer
from tilewright.measure.process import Lost
from tilewright.measure.protocol import Anchor, Anchored, Drop, Failed, Race, Raced, Run, Timed
from tilewright.measure.recording import Recorder
from tilewright.measure.rule import HOPELESS_FACTOR
from tilewright.measure.worker_process import WorkerProcess
from tilewright.measure.workforce import Workforce

__all__ = ["Timekeeper"]

#: A candidate may run for so many seconds, and so many times the best latency more, but never longer than
#: ``run_timeout``: a candidate that takes 1,000 times as long as the best must not take 10 s of the budget.
_RUN_SECONDS = 2.0
_RUN_FACTOR = 300.0
#: A disturbed candidate has at most so many turns: after three the fastest one is undisturbed, or never will be.
_MOST_TURNS = 3
#: At most this share of all candidates, and so many more, have several turns: a machine that is never quiet must not
#: take much longer.
_AGAIN_SHARE = 0.2
_AGAIN_LEAST = 4
#: Seconds for each candidate of a race, unless judging takes longer: 30 rounds of 2 ms blocks with their warm-up calls
#: take less.
_RACE_SECONDS = 0.2


class Timekeeper:
    """Has the built candidates of a pool's workers timed.

    Args:
        workforce: the workers.
        preparer: tells the workers what the outputs must be.
        recorder: told of all results.
        limits: what a worker may take.
        statistics: is told of disturbances, and how long timing takes.
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

    def time(self, batch: Batch) -> None:
        """Time what was built, one candidate after the other."""
        begin = time.monotonic()
        with self._workforce.alone():
            self._preparer.share_reference(batch)
            earlier, anchors = set(batch.done), [self._time_default(batch)]
            for process in self._builders():
                while process.built and not batch.is_late():  # empty, too, when the process was lost
                    self._time_one(process, process.built.pop(0), batch)
                self._drop(process)
                self._recorder.settle(batch)
                anchors.append(self._time_default(batch))
            batch.note_anchor(batch.done.keys() - earlier, anchors)
        self._statistics.timing += time.monotonic() - begin

    def race(self, batch: Batch) -> None:
        """Time what was built by turns, within each worker."""
        begin = time.monotonic()
        with self._workforce.alone():
            self._preparer.share_reference(batch)
            anchors = [self._time_default(batch)]
            for process in self._builders():
                self._race(process, batch)
            batch.note_anchor(batch.done.keys(), [*anchors, self._time_default(batch)])
        self._statistics.timing += time.monotonic() - begin

    def _builders(self) -> list[WorkerProcess]:
        return [process for process in self._workforce.processes if process.built]

    def _time_default(self, batch: Batch) -> float:
        """What the task's default takes at this moment, in seconds; 0 if nobody keeps it, or there is no time."""
        keeper = next((p for p in self._workforce.processes if p.anchor and p.turned_to(batch.key)), None)
        if keeper is None or batch.is_late() or keeper.died_idle():
            return 0.0
        keeper.send(Anchor(), batch.limit(self._limits.run))
        reply = self._workforce.reply(keeper, batch.deadline)
        if isinstance(reply, Lost):
            self._preparer.discard(keeper, batch)
        return reply.seconds if isinstance(reply, Anchored) else 0.0

    def _drop(self, process: WorkerProcess) -> None:
        if process in self._workforce.processes:
            process.built.clear()
            process.send(Drop(), 0.0)

    def _time_one(self, process: WorkerProcess, index: int, batch: Batch) -> None:
        if process.died_idle():  # killed from outside, say; no fault of the candidate's
            process.built.append(index)
            self._preparer.discard(process, batch)
            return
        allowed = min(self._limits.run, _RUN_SECONDS + _RUN_FACTOR * batch.best)
        process.send(Run(index, batch.best), batch.limit(allowed))
        reply = self._workforce.reply(process, batch.deadline)
        batch.spent[index] += time.monotonic() - process.since
        if isinstance(reply, Timed):
            process.reference = True  # the first that runs is one, where there was none
            self._note_timed(process, index, reply, batch)
        elif isinstance(reply, Failed):
            self._recorder.record_failure(batch, index, reply.outcome, reply.message)
        elif isinstance(reply, Lost):
            self._preparer.discard(process, batch)
            if reply.timed_out and batch.is_late():
                return  # cut off by the deadline, which says nothing about the candidate
            outcome = Outcome.RUN_TIMED_OUT if reply.timed_out else Outcome.RUN_CRASHED
            message = reply.because(self._limits.memory, "the run", allowed)
            self._recorder.record_failure(batch, index, outcome, message)

    def _note_timed(self, process: WorkerProcess, index: int, reply: Timed, batch: Batch) -> None:
        """Keep a latency. If it was disturbed and matters, the candidate has another turn, after the others."""
        batch.turns[index] += 1
        # A candidate that was dropped at once (a single reading) was not watched.
        doubtful = bool(reply.causes) or len(reply.repeats) == 1
        repeats = batch.pick_faster(index, reply.repeats) if doubtful else reply.repeats
        # What is left of the batch need not beat less than this one.
        batch.best = min(batch.best, robust_seconds(repeats))
        if reply.causes and batch.turns[index] == 1:
            self._statistics.disturbed += 1
            self._statistics.causes.update(reply.causes)
        hopeful = robust_seconds(repeats) <= HOPELESS_FACTOR * batch.best
        if reply.causes and hopeful and self._grant_turn(batch, index):
            batch.pending[index] = repeats
            process.built.append(index)
        else:
            self._recorder.record(batch, index, repeats)

    def _grant_turn(self, batch: Batch, index: int) -> bool:
        """Whether a candidate may have another turn, which is counted."""
        if batch.turns[index] > 1:
            return batch.turns[index] < _MOST_TURNS
        if self._statistics.remeasured >= _AGAIN_LEAST + _AGAIN_SHARE * self._statistics.measured:
            return False
        self._statistics.remeasured += 1
        return True

    def _race(self, process: WorkerProcess, batch: Batch) -> None:
        """Have all that a worker has built run by turns."""
        racers, process.built = process.built, []
        if len(racers) > 1 and not batch.is_late() and not process.died_idle():
            limit = batch.limit(self._limits.run * len(racers))
            process.send(Race(tuple(racers), _RACE_SECONDS * len(racers)), limit)
            reply = self._workforce.reply(process, batch.deadline)
            if isinstance(reply, Lost):
                self._preparer.discard(process, batch)
            elif isinstance(reply, Raced):
                spent = (time.monotonic() - process.since) / len(racers)
                for index, result in zip(racers, reply.results, strict=True):
                    batch.spent[index] += spent
                    if isinstance(result, Timed):
                        self._recorder.record(batch, index, result.repeats)
                    else:
                        self._recorder.record_failure(batch, index, result.outcome, result.message)
        self._drop(process)
