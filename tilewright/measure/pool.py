"""The local pool: builds candidates in parallel in worker processes, then times them one at a time.

A batch goes in rounds. In the *build phase* (:mod:`tilewright.measure.building`) every idle worker is handed the next
config, until all are built. In the *timing phase* (:mod:`tilewright.measure.running`) one worker at a time runs what it
has built, and no other process of ours runs: workers that are just starting are stopped meanwhile.

A worker that dies loses the candidates that it has built. They are built again in another round, each alone in a
worker. So a candidate is lost to a neighbour at most once, and the rounds end.

In a race all candidates are built by one worker, which then runs them by turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from tilewright.errors import MeasureError
from tilewright.measure.batch import Batch, PoolLimits, PoolStatistics
from tilewright.measure.building import Builder
from tilewright.measure.interleaved import as_often
from tilewright.measure.memory import in_words, worker_share
from tilewright.measure.outcome import Measurement
from tilewright.measure.preparing import Preparer
from tilewright.measure.protocol import Library, SpaceFactory
from tilewright.measure.recording import Recorder
from tilewright.measure.running import Timekeeper
from tilewright.measure.workforce import Workforce
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tvm_compat import usable_cores

__all__ = ["LocalPool", "PoolStatistics"]

#: Bytes that a worker needs before it has built anything: it has 191 MiB with TVM 0.27 loaded.
_LEAST_MEMORY = 256 << 20


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
        run_timeout: seconds that checking and timing one candidate may take. If the best so far is known, the limit
            is shorter: 2 s and 300 times the best.
        on_measurement: called with each measurement as it is made, so that an interrupt loses none.
        memory: bytes that a worker may have; by default its share of what this process may use
            (:func:`tilewright.measure.memory.worker_share`). A candidate whose worker gets more than that has failed
            to build, or crashed, with a message that says why.

    Attributes:
        workers: how many build at once.
        workforce: the worker processes.

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
        self.workers = min(target.cores, usable_cores()) if workers is None else workers
        if self.workers < 1:
            raise MeasureError(f"measuring needs at least one worker, but {self.workers} were asked for")
        limits = PoolLimits(worker_share(self.workers) if memory is None else memory, build_timeout, run_timeout)
        if limits.memory < _LEAST_MEMORY:
            raise MeasureError(
                f"a worker needs {in_words(_LEAST_MEMORY)} of memory for its compiler alone, but is allowed "
                f"{in_words(limits.memory)}; allow more"
            )
        self._closed = False
        self._statistics = PoolStatistics()
        self._recorder = Recorder(target, on_measurement, self._statistics)
        self.workforce = Workforce(target, factory, self.workers, limits.memory, self._statistics)
        preparer = Preparer(self.workforce, self._recorder, limits)
        self._preparer = preparer
        self._builder = Builder(self.workforce, preparer, self._recorder, limits, self._statistics)
        self._timekeeper = Timekeeper(self.workforce, preparer, self._recorder, limits, self._statistics)

    @property
    def target(self) -> Target:
        """What is measured for."""
        return self._recorder.target

    @property
    def on_measurement(self) -> Callable[[Measurement], None] | None:
        """Called with each measurement as it is made."""
        return self._recorder.on_measurement

    @on_measurement.setter
    def on_measurement(self, function: Callable[[Measurement], None] | None) -> None:
        self._recorder.on_measurement = function

    def weigh(self, nbytes: int) -> None:
        """Measure for a network with ``nbytes`` bytes of weights from now on: see ``Target.with_weights``.

        The bytes are known only when a network has been read, and workers start before that.
        """
        self._recorder.target = self.target.with_weights(nbytes)

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

    def measure(
        self,
        space: DesignSpace,
        configs: Configs,
        best: float,
        deadline: float,
        libraries: Mapping[tuple[int, ...], Library] | None = None,
    ) -> list[Measurement]:
        """Build and time ``configs`` of ``space``; see :meth:`tilewright.measure.runner.Runner.measure`.

        Candidates that were not finished by ``deadline`` are left out. What runs then is given another second. ``best``
        is the latency of the task's best so far in seconds. ``libraries`` are candidates that another machine has
        compiled (:meth:`compile`), by their configs: they are not compiled here.
        """
        with self._batch(space, configs, best, deadline, self.workers) as batch:
            batch.libraries = libraries or {}
            while batch.queue and not batch.is_late():
                self._builder.build(batch)
                self._timekeeper.time(batch)
            if not batch.is_late():
                self._preparer.replenish(batch)  # what was lost while timing starts while the caller thinks
        return batch.measurements

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        """Time ``configs`` of ``space`` by turns; see :meth:`tilewright.measure.runner.Racer.race`.

        No race is started after ``deadline``.

        Those that cannot be built together, or whose worker dies in the race, are measured one by one.
        """
        with self._batch(space, configs, math.inf, deadline, 1) as batch:
            self._builder.build(batch)
            self._timekeeper.race(batch)
        left = [index for index in range(len(batch.configs)) if index not in batch.done]
        if not left:
            return batch.measurements
        rows = np.asarray([batch.configs[index] for index in left], dtype=np.int32)
        places = {batch.configs[index]: index for index in left}
        batch.done.update({places[m.config]: m for m in self.measure(space, rows, math.inf, deadline)})
        return as_often(batch.measurements)

    def compile(self, space: DesignSpace, configs: Configs, deadline: float) -> dict[tuple[int, ...], Library]:
        """Compile ``configs`` of ``space`` for another machine of the target. Nothing is run.

        Args:
            space: the design space that the configs belong to.
            configs: the candidates, ``(n, knobs)`` int32.
            deadline: reading of ``time.monotonic()`` after which no further candidate is started.

        Returns:
            the candidates that could be compiled, by their configs. Why others could not be compiled is for the machine
            to say that measures.
        """
        with self._batch(space, configs, math.inf, deadline, self.workers) as batch:
            batch.compiled = {}
            self._builder.build(batch)
            return batch.compiled

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
            self._recorder.settle(batch)
