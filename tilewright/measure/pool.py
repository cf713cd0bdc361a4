"""The local pool: builds candidates in parallel in worker processes, then times them one at a time.

A batch goes in rounds. In the *build phase* every idle worker is handed the next config, until all are built. In the
*timing phase* one worker at a time runs what it has built, and nothing else of ours does: replacements that are just
starting are stopped meanwhile. A worker that dies takes its built candidates with it; those are built again in
another round, each alone in a worker, so that a candidate is lost to a neighbour at most once, and the rounds end.

A candidate that something else on the machine disturbed, and that may be a good one, has another turn after the others
of its worker: what disturbs comes in bursts, which are over by then.

In a race all candidates are built by one worker, which then runs them by turns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from tilewright.errors import MeasureError
from tilewright.measure.batch import Batch, PoolStatistics
from tilewright.measure.cold import streamed_bytes
from tilewright.measure.interleaved import as_often
from tilewright.measure.memory import in_words, worker_share
from tilewright.measure.outcome import Measurement, Outcome, robust_seconds
from tilewright.measure.process import WorkerProcess
from tilewright.measure.protocol import (
    Adopt,
    Anchor,
    Anchored,
    Build,
    Drop,
    Failed,
    Lend,
    Lent,
    Lost,
    Prepare,
    Prepared,
    Race,
    Raced,
    Reply,
    Run,
    SpaceFactory,
    Started,
    Timed,
)
from tilewright.measure.rule import HOPELESS_FACTOR
from tilewright.measure.workforce import Workforce
from tilewright.ops.generic.generation import known_generated
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tvm_compat import usable_cores

__all__ = ["LocalPool", "PoolStatistics"]

#: Built candidates that one worker keeps at most: about a megabyte each, and what is lost when it dies.
_MOST_BUILT = 32
#: A candidate is given up when it was lost with its worker so often, although the worker had nothing else to do.
_MOST_LOSSES = 3
#: Workers that die over a task without its default config, until it is clear that its space kills them.
_MOST_BAD_PREPARES = 2
#: A candidate is allowed so many times the best latency, on top of the seconds that any may take, but never more than
#: ``run_timeout``: what takes 1,000 times as long as the best shall not take 10 s of the budget as well.
_RUN_FACTOR = 300.0
_RUN_SECONDS = 2.0
#: Bytes that a worker needs before it has built anything.
_LEAST_MEMORY = 256 << 20
#: A disturbed candidate is timed so many times at most; and more than once, at most this share of all, and a few.
_MOST_TURNS = 3
_AGAIN_SHARE = 0.2
_AGAIN_LEAST = 4
#: Seconds that each candidate of a race may run, unless judging it at all takes longer.
_RACE_SECONDS = 0.2


class LocalPool:
    """Measures candidates on this machine. A :class:`~tilewright.measure.runner.Runner`.

    A context manager; :meth:`close` leaves no process behind, and neither does the death of this process.
    Workers start in the background, in about 3 s. Besides the workers at work one more is kept ready, to replace one
    that is lost. Not to be shared between threads.

    Args:
        target: what is built for; each kernel runs on ``target.cores`` threads.
        workers: how many build at once; by default one per core.
        factory: makes the design space of a task in the workers, where it is found by its name; it must be a
            function of an importable module. By default ``tilewright.ops.registry.make_space``.
        build_timeout: seconds that scheduling and compiling one candidate may take.
        run_timeout: seconds that checking and timing one candidate may take. Where the best so far is known, the limit
            is shorter: 2 s and 300 times the best.
        memory: bytes that a worker may have; by default its share of what this process may use
            (:func:`tilewright.measure.memory.worker_share`). A candidate whose worker gets more than that has failed
            to build, or crashed, with a message that says why.
        on_measurement: called with each measurement as it is made, so that none is lost by an interrupt.

    Attributes:
        workforce: its worker processes.

    Raises:
        MeasureError: workers cannot be started. From :meth:`measure` too, because they start in the background.
    """

    def __init__(
        self,
        target: Target,
        workers: int | None = None,
        factory: SpaceFactory | None = None,
        build_timeout: float = 10.0,
        run_timeout: float = 10.0,
        on_measurement: Callable[[Measurement], None] | None = None,
        memory: int | None = None,
    ) -> None:
        self.target = target
        self.workers = min(target.cores, usable_cores()) if workers is None else workers
        if self.workers < 1:
            raise MeasureError(f"measuring needs at least one worker, but {self.workers} were asked for")
        self.memory = worker_share(self.workers) if memory is None else memory
        if self.memory < _LEAST_MEMORY:
            raise MeasureError(
                f"a worker needs {in_words(_LEAST_MEMORY)} of memory for its compiler alone, but is allowed "
                f"{in_words(self.memory)}; allow more"
            )
        self.build_timeout = build_timeout
        self.run_timeout = run_timeout
        self.on_measurement = on_measurement
        self._closed = False
        self._bad_defaults: set[str] = set()
        self._statistics = PoolStatistics()
        self.workforce = Workforce(target, factory, self.workers, self.memory, self._statistics)

    def weigh(self, nbytes: int) -> None:
        """Measure for a network with so many bytes of weights from now on: see ``Target.with_weights``.

        How many there are is known only when a network has been read, and workers start before that.
        """
        self.target = self.target.with_weights(nbytes)

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are at. May be called again."""
        self._closed = True
        self.workforce.close()

    @property
    def statistics(self) -> PoolStatistics:
        """Where time and memory went so far."""
        for process in self.workforce.processes:
            self._statistics.peak_rss = max(self._statistics.peak_rss, process.peak_rss)
        return self._statistics

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, including the one that is kept ready."""
        return [process.pid for process in self.workforce.processes]

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """Build and time ``configs``; see :meth:`tilewright.measure.runner.Runner.measure`.

        Candidates that were not finished by the deadline are left out; what runs then is given another second.
        """
        with self._batch(space, configs, best, deadline, self.workers) as batch:
            while batch.queue and not batch.late():
                begin = time.monotonic()
                self._build(batch)
                middle = time.monotonic()
                self._statistics.building += middle - begin
                self._time(batch)
                self._statistics.timing += time.monotonic() - middle
            if not batch.late():
                self._replenish(batch)  # what was lost while timing starts while the caller thinks
        return [batch.done[index] for index in sorted(batch.done)]

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        """Time ``configs`` by turns; see :meth:`tilewright.measure.runner.Racer.race`.

        Those that cannot be built together, or whose worker dies in the race, are measured one by one.
        """
        with self._batch(space, configs, math.inf, deadline, 1) as batch:
            begin = time.monotonic()
            self._build(batch)
            middle = time.monotonic()
            self._statistics.building += middle - begin
            with self.workforce.alone():
                self._share_reference(batch)
                anchors = [self._default_now(batch)]
                for process in [process for process in self.workforce.processes if process.built]:
                    self._race(process, batch)
                batch.note_anchor(batch.done.keys(), [*anchors, self._default_now(batch)])
            self._statistics.timing += time.monotonic() - middle
        left = [index for index in range(len(batch.configs)) if index not in batch.done]
        if left:
            rows = np.asarray([batch.configs[index] for index in left], dtype=np.int32)
            places = {batch.configs[index]: index for index in left}
            batch.done.update({places[m.config]: m for m in self.measure(space, rows, math.inf, deadline)})
        measured = [batch.done[index] for index in sorted(batch.done)]
        return as_often(measured) if left else measured

    @contextmanager
    def _batch(
        self, space: DesignSpace, configs: Configs, best: float, deadline: float, builders: int
    ) -> Iterator[Batch]:
        if self._closed:
            raise MeasureError("the pool is closed; make another one")
        self.workforce.begin()
        rows = [tuple(int(index) for index in row) for row in np.asarray(configs)]
        batch = Batch(space, rows, best, deadline, builders)
        try:
            yield batch
        finally:
            # An interrupt, the deadline or an error left something running or half said.
            for process in list(self.workforce.processes):
                if process.started and process.awaiting:
                    self.workforce.end(process)
                process.built.clear()
            self._settle(batch)

    # Building ---------------------------------------------------------------------------------------------------

    def _build(self, batch: Batch) -> None:
        """Have the queue built, as far as time and the workers' memory allow."""
        self.workforce.resume_gaps()
        while True:
            self._replenish(batch)
            self.workforce.note_gap()
            active = self.workforce.active[: batch.builders]
            # What is built also has to be timed before the deadline.
            built = sum(len(process.built) for process in active)
            stop = not batch.queue or batch.late(built * self._statistics.timing_each)
            if not stop:
                for process in active:
                    self._occupy(process, batch)
            busy = [process for process in active if process.awaiting]
            if not busy and (stop or active):
                return
            # One that starts is waited for as well: it will take its share of what is left.
            for process, reply in self.workforce.replies([*busy, *self.workforce.starting], batch.deadline):
                self._on_build_reply(process, reply, batch)

    def _occupy(self, process: WorkerProcess, batch: Batch) -> None:
        """Hand an idle worker its next piece of work, if there is one for it."""
        if process.awaiting or not batch.queue:
            return
        key = batch.space.task.key
        if not process.turned_to(key):
            # One runs the default, and the others adopt its outputs.
            known = any(other.prepared == (key, True) or other.knows(key) for other in self.workforce.processes)
            self._prepare(process, batch, not known and key not in self._bad_defaults)
            return
        first = self._next(process, batch)
        alone = first in batch.losses or any(index in batch.losses for index in process.built)
        if first is not None and len(process.built) < (1 if alone else _MOST_BUILT):
            batch.queue.remove(first)
            process.building = first
            process.send(Build(first, batch.configs[first]), batch.limit(self.build_timeout))

    def _next(self, process: WorkerProcess, batch: Batch) -> int | None:
        """The candidate that a worker is to build; None: not now."""
        turning = (batch.space.task.key, True)
        others = [other for other in self.workforce.processes if other is not process and other.prepared == turning]
        if not any(other.awaiting and other.building is None for other in others):
            return batch.queue[0]
        # One that builds the default for its outputs has it already when the default's turn as a candidate comes.
        return next((index for index in batch.queue if batch.configs[index] != batch.default), None)

    def _prepare(self, process: WorkerProcess, batch: Batch, use_default: bool) -> None:
        task = batch.space.task
        process.prepared, process.reference, process.anchor = (task.key, use_default), False, False
        made = known_generated(task, self.target)
        command = Prepare(task, use_default, streamed_bytes(self.target), made)
        process.send(command, batch.limit(self.build_timeout + self.run_timeout))

    def _on_build_reply(self, process: WorkerProcess, reply: Reply | Lost, batch: Batch) -> None:
        index, process.building = process.building, None
        if index is None:
            self._on_prepared(process, reply, batch)
            return
        batch.spent[index] = batch.spent.get(index, 0.0) + time.monotonic() - process.since
        if isinstance(reply, Lost):
            self._discard(process, batch)
            if reply.timed_out and batch.late():
                return  # cut off by the deadline, which says nothing about the candidate
            outcome = Outcome.BUILD_TIMED_OUT if reply.timed_out else Outcome.BUILD_FAILED
            self._record(batch, index, outcome, message=reply.because(self.memory, "the build", self.build_timeout))
        elif isinstance(reply, Failed):
            self._record(batch, index, reply.outcome, message=reply.message)
        else:
            process.built.append(index)

    def _on_prepared(self, process: WorkerProcess, reply: Reply | Lost, batch: Batch) -> None:
        """A worker has turned to the task, or has failed to."""
        if isinstance(reply, Started):
            self.workforce.note_started(process, reply)
            return
        if isinstance(reply, Prepared):
            process.reference, process.anchor = reply.reference, reply.anchor
            if reply.error:
                process.prepared = None
                self._give_up(batch, reply.error)
            elif process.prepared == (batch.space.task.key, True) and not reply.reference:
                self._bad_defaults.add(batch.space.task.key)
            return
        assert isinstance(reply, Lost)
        started, prepared = process.started, process.prepared
        self._discard(process, batch)
        if not started:
            self.workforce.note_stillborn(reply.reason)
        elif not (reply.timed_out and batch.late()):
            assert prepared is not None
            if prepared[1]:
                self._bad_defaults.add(prepared[0])  # from now on the first candidate that runs is the reference
            else:
                batch.failed_prepares += not self.workforce.any_turned_to(prepared[0])
            if batch.failed_prepares >= _MOST_BAD_PREPARES:
                self._give_up(batch, f"the design space cannot be made in a worker: {reply.reason}")

    def _give_up(self, batch: Batch, message: str) -> None:
        while batch.queue:
            self._record(batch, batch.queue.popleft(), Outcome.INVALID, message=message)

    # Timing -----------------------------------------------------------------------------------------------------

    def _time(self, batch: Batch) -> None:
        """Time what was built, worker after worker: its threads spin for a while after a kernel, so take few turns."""
        with self.workforce.alone():
            self._share_reference(batch)
            earlier, anchors = set(batch.done), [self._default_now(batch)]
            for process in [process for process in self.workforce.processes if process.built]:
                while process.built and not batch.late():  # empty, too, when the process was lost
                    self._time_one(process, process.built.pop(0), batch)
                self._drop(process)
                self._settle(batch)
                anchors.append(self._default_now(batch))
            batch.note_anchor(batch.done.keys() - earlier, anchors)

    def _default_now(self, batch: Batch) -> float:
        """What the task's default takes at this moment, in seconds; 0 where nobody keeps it, or there is no time."""
        keeper = next((p for p in self.workforce.processes if p.anchor and p.turned_to(batch.space.task.key)), None)
        if keeper is None or batch.late() or keeper.died_idle():
            return 0.0
        keeper.send(Anchor(), batch.limit(self.run_timeout))
        reply = self._reply(keeper, batch)
        if isinstance(reply, Lost):
            self._discard(keeper, batch)
        return reply.seconds if isinstance(reply, Anchored) else 0.0

    def _share_reference(self, batch: Batch) -> None:
        """Tell every worker that is to run something what the outputs must be, where any worker knows it."""
        key = batch.space.task.key
        lacking = [process for process in self.workforce.processes if process.built and not process.reference]
        if not lacking:
            return
        lender = next((process for process in self.workforce.processes if process.knows(key)), None)
        if lender is None:
            # The one that knew it has died since, or its default failed. Only the first calls for running it again.
            if key in self._bad_defaults or batch.late():
                return
            lender = lacking[0]
            self._prepare(lender, batch, True)
            self._on_prepared(lender, self._reply(lender, batch), batch)
        if not lender.reference or lender not in self.workforce.processes:
            return
        lender.send(Lend(), batch.limit(self.run_timeout))
        reply = self._reply(lender, batch)
        if isinstance(reply, Lost):
            self._discard(lender, batch)
        elif isinstance(reply, Lent):
            for process in lacking:
                if process is not lender:
                    process.send(Adopt(reply.parameters, reply.reference), 0.0)
                    process.reference = True

    def _reply(self, process: WorkerProcess, batch: Batch) -> Reply | Lost:
        """Wait for the reply of one worker."""
        replies: list[tuple[WorkerProcess, Reply | Lost]] = []
        while not replies:
            replies = self.workforce.replies([process], batch.deadline)
        return replies[0][1]

    def _drop(self, process: WorkerProcess) -> None:
        if process in self.workforce.processes:
            process.built.clear()
            process.send(Drop(), 0.0)

    def _time_one(self, process: WorkerProcess, index: int, batch: Batch) -> None:
        if process.died_idle():  # killed from outside, say; no fault of the candidate's
            process.built.append(index)
            self._discard(process, batch)
            return
        allowed = min(self.run_timeout, _RUN_SECONDS + _RUN_FACTOR * batch.best)
        process.send(Run(index, batch.best), batch.limit(allowed))
        reply = self._reply(process, batch)
        batch.spent[index] += time.monotonic() - process.since
        if isinstance(reply, Timed):
            process.reference = True  # the first that runs is one, where there was none
            self._on_timed(process, index, reply, batch)
        elif isinstance(reply, Failed):
            self._record(batch, index, reply.outcome, message=reply.message)
        elif isinstance(reply, Lost):
            self._discard(process, batch)
            if reply.timed_out and batch.late():
                return
            outcome = Outcome.RUN_TIMED_OUT if reply.timed_out else Outcome.RUN_CRASHED
            self._record(batch, index, outcome, message=reply.because(self.memory, "the run", allowed))

    def _on_timed(self, process: WorkerProcess, index: int, reply: Timed, batch: Batch) -> None:
        """Keep a latency. Where it was disturbed and matters, the candidate has another turn, after the others."""
        batch.turns[index] += 1
        # One that was dropped at once (a single reading) asked no witness.
        doubtful = bool(reply.causes) or len(reply.repeats) == 1
        repeats = batch.faster(index, reply.repeats) if doubtful else reply.repeats
        # What is left of the batch need not beat less than this one.
        batch.best = min(batch.best, robust_seconds(repeats))
        if reply.causes and batch.turns[index] == 1:
            self._statistics.disturbed += 1
            self._statistics.causes.update(reply.causes)
        if reply.causes and robust_seconds(repeats) <= HOPELESS_FACTOR * batch.best and self._again(batch, index):
            batch.pending[index] = repeats
            process.built.append(index)
        else:
            self._record(batch, index, Outcome.OK, repeats=repeats)

    def _again(self, batch: Batch, index: int) -> bool:
        """Whether a candidate may have another turn."""
        if batch.turns[index] > 1:
            return batch.turns[index] < _MOST_TURNS
        if self._statistics.remeasured >= _AGAIN_LEAST + _AGAIN_SHARE * self._statistics.measured:
            return False
        self._statistics.remeasured += 1
        return True

    def _settle(self, batch: Batch) -> None:
        """Record what waited for another turn in vain."""
        for index in list(batch.pending):
            self._record(batch, index, Outcome.OK, repeats=batch.pending[index])

    def _race(self, process: WorkerProcess, batch: Batch) -> None:
        """Have all that a worker has built run by turns."""
        racers, process.built = process.built, []
        if len(racers) > 1 and not batch.late() and not process.died_idle():
            limit = batch.limit(self.run_timeout * len(racers))
            process.send(Race(tuple(racers), _RACE_SECONDS * len(racers)), limit)
            reply = self._reply(process, batch)
            if isinstance(reply, Lost):
                self._discard(process, batch)
            elif isinstance(reply, Raced):
                spent = (time.monotonic() - process.since) / len(racers)
                for index, result in zip(racers, reply.results, strict=True):
                    batch.spent[index] += spent
                    if isinstance(result, Timed):
                        self._record(batch, index, Outcome.OK, repeats=result.repeats)
                    else:
                        self._record(batch, index, result.outcome, message=result.message)
        self._drop(process)

    # Records ----------------------------------------------------------------------------------------------------

    def _replenish(self, batch: Batch) -> None:
        self.workforce.replenish(lambda process: self._discard(process, batch))

    def _discard(self, process: WorkerProcess, batch: Batch) -> None:
        """A worker is gone: queue what it had built once more."""
        for index in process.built:
            if index in batch.pending:
                continue  # it was timed before
            batch.losses[index] = batch.losses.get(index, 0) + 1
            if batch.losses[index] < _MOST_LOSSES:
                batch.queue.append(index)
            else:
                message = f"its worker died {_MOST_LOSSES} times before it could be timed"
                self._record(batch, index, Outcome.RUN_CRASHED, message=message)
        process.built.clear()
        self.workforce.discard(process)

    def _record(
        self, batch: Batch, index: int, outcome: Outcome, repeats: tuple[float, ...] = (), message: str = ""
    ) -> None:
        measurement = Measurement(
            task=batch.space.task.key,
            target=self.target.key,
            template=batch.space.template,
            config=batch.configs[index],
            outcome=outcome,
            repeats=repeats,
            message=message,
            time=time.time(),
            elapsed=batch.spent.get(index, 0.0),
        )
        batch.done[index] = measurement
        batch.pending.pop(index, None)
        self._statistics.measured += 1
        if self.on_measurement is not None:
            self.on_measurement(measurement)
