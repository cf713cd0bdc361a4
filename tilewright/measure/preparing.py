"""Turns workers to the task of a batch: they make its design space and learn what its outputs must be.

One worker runs the default config, whose outputs are the *reference*. The other workers adopt it. If the default fails,
the outputs of the first candidate that runs are the reference.
"""

from __future__ import annotations

from tilewright.measure.batch import Batch, PoolLimits
from tilewright.measure.cold import streamed_bytes
from tilewright.measure.outcome import Outcome
from tilewright.measure.process import Lost
from tilewright.measure.protocol import Adopt, Lend, Lent, Prepare, Prepared, Reply, Started
from tilewright.measure.recording import Recorder
from tilewright.measure.worker_process import WorkerProcess
from tilewright.measure.workforce import Workforce
from tilewright.ops.generic.generation import known_generated

__all__ = ["Preparer"]

#: A candidate fails when it was lost with its worker so often, although the worker had nothing else to do: two losses
#: may be accidents.
_MOST_LOSSES = 3
#: The design space of a task kills workers when so many died over it without running its default config: one death may
#: be an accident.
_MOST_BAD_PREPARES = 2


class Preparer:
    """Turns the workers of a pool to tasks, and sees to what a lost worker leaves behind.

    Args:
        workforce: the workers.
        recorder: told of the candidates that fail.
        limits: what a worker may take.
    """

    def __init__(self, workforce: Workforce, recorder: Recorder, limits: PoolLimits) -> None:
        self._workforce, self._recorder, self._limits = workforce, recorder, limits
        self._bad_defaults: set[str] = set()

    def prepare(self, process: WorkerProcess, batch: Batch) -> None:
        """Turn an idle worker to the task. It runs the default, unless a reference is known or coming, or none runs."""
        key = batch.key
        if batch.compiled is not None:
            self._prepare(process, batch, False)
            return
        known = any(other.prepared == (key, True) or other.knows(key) for other in self._workforce.processes)
        self._prepare(process, batch, not known and key not in self._bad_defaults)

    def note_reply(self, process: WorkerProcess, reply: Reply | Lost, batch: Batch) -> None:
        """A worker has started or turned to the task, or has failed to.

        Raises:
            MeasureError: workers cannot start.
        """
        if isinstance(reply, Started):
            self._workforce.note_started(process, reply)
        elif isinstance(reply, Prepared):
            self._note_prepared(process, reply, batch)
        else:
            assert isinstance(reply, Lost)
            self._note_lost(process, reply, batch)

    def share_reference(self, batch: Batch) -> None:
        """Tell every worker that is to run something what the outputs must be, if any worker knows it."""
        lacking = [process for process in self._workforce.processes if process.built and not process.reference]
        if not lacking:
            return
        lender = self._find_lender(batch, lacking[0])
        if lender is None:
            return
        lender.send(Lend(), batch.limit(self._limits.run))
        reply = self._workforce.reply(lender, batch.deadline)
        if isinstance(reply, Lost):
            self.discard(lender, batch)
        elif isinstance(reply, Lent):
            for process in lacking:
                if process is not lender:
                    process.send(Adopt(reply.parameters, reply.reference), 0.0)
                    process.reference = True

    def replenish(self, batch: Batch) -> None:
        """Start the workers that are missing."""
        self._workforce.replenish(lambda process: self.discard(process, batch))

    def discard(self, process: WorkerProcess, batch: Batch) -> None:
        """A worker is gone: queue the candidates that it had built once more."""
        for index in process.built:
            if index in batch.pending:
                continue  # it was timed before
            batch.losses[index] = batch.losses.get(index, 0) + 1
            if batch.losses[index] < _MOST_LOSSES:
                batch.queue.append(index)
            else:
                message = f"its worker died {_MOST_LOSSES} times before it could be timed"
                self._recorder.record_failure(batch, index, Outcome.RUN_CRASHED, message)
        process.built.clear()
        self._workforce.discard(process)

    def _prepare(self, process: WorkerProcess, batch: Batch, use_default: bool) -> None:
        task, target = batch.space.task, self._recorder.target
        process.prepared, process.reference, process.anchor = (task.key, use_default), False, False
        command = Prepare(task, use_default, streamed_bytes(target), known_generated(task, target))
        process.send(command, batch.limit(self._limits.build + self._limits.run))

    def _note_prepared(self, process: WorkerProcess, reply: Prepared, batch: Batch) -> None:
        process.reference, process.anchor = reply.reference, reply.anchor
        if reply.error:
            process.prepared = None
            self._recorder.give_up(batch, reply.error)
        elif process.prepared == (batch.key, True) and not reply.reference:
            self._bad_defaults.add(batch.key)

    def _note_lost(self, process: WorkerProcess, reply: Lost, batch: Batch) -> None:
        started, prepared = process.started, process.prepared
        self.discard(process, batch)
        if not started:
            self._workforce.note_stillborn(reply.reason)
        elif not (reply.timed_out and batch.is_late()):
            assert prepared is not None
            key, used_default = prepared
            if used_default:
                self._bad_defaults.add(key)  # from now on the first candidate that runs is the reference
            else:
                batch.failed_prepares += not self._workforce.any_turned_to(key)
            if batch.failed_prepares >= _MOST_BAD_PREPARES:
                self._recorder.give_up(batch, f"the design space cannot be made in a worker: {reply.reason}")

    def _find_lender(self, batch: Batch, substitute: WorkerProcess) -> WorkerProcess | None:
        """A worker that knows the reference; ``substitute`` runs the default for it where none knows it any more."""
        lender = next((process for process in self._workforce.processes if process.knows(batch.key)), None)
        if lender is not None:
            return lender
        # The worker that knew it has died since, or its default failed. Only the first calls for running it again.
        if batch.key in self._bad_defaults or batch.is_late():
            return None
        self._prepare(substitute, batch, True)
        self.note_reply(substitute, self._workforce.reply(substitute, batch.deadline), batch)
        return substitute if substitute.reference and substitute in self._workforce.processes else None
