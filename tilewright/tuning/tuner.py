"""Tuning one task: AutoTVM's loop (arXiv 1805.08166, section 3) around ask/tell, one round at a time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import KnobTable, Programs
from tilewright.measure.interleaved import winner
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.runner import Racer, Runner
from tilewright.methods.autotvm import autotvm
from tilewright.methods.method import Method
from tilewright.records.store import Query, Store
from tilewright.space.configs import ConfigSet, cardinalities, check, distinct, empty, knob_values
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.readings import Readings
from tilewright.tuning.retry import SecondChances

__all__ = ["OpenRound", "RoundResult", "TaskTuner"]

#: Proposals kept for later rounds because they were not measured in theirs.
_MOST_LEFT_OVER = 256
#: Only configs within this factor of the best are raced: the noise of one measurement reaches about that far.
_RACE_FACTOR = 1.2


@dataclass(frozen=True)
class RoundResult:
    """What one round brought.

    Attributes:
        measurements: in the order they were made.
        before: the best latency before the round in seconds; inf: none.
        after: the best latency after it.
        seconds: wall-clock seconds of the round.
        thinking: those of them that were spent on refitting and searching rather than measuring.
    """

    measurements: tuple[Measurement, ...]
    before: float
    after: float
    seconds: float
    thinking: float


@dataclass(frozen=True)
class OpenRound:
    """A round that has begun: its candidates are to be measured.

    Attributes:
        batch: the candidates, ``(n, knobs)`` int32; it may be empty.
        incumbent: the fastest config when the round began; None: there was none.
        began: the clock's reading then.
        thinking: seconds that refitting and searching took.
    """

    batch: Configs
    incumbent: NDArray[np.int32] | None
    began: float
    thinking: float


class TaskTuner:
    """Searches the design space of one task.

    What the store knows of the task on this target with this template is learnt first and never measured again. A
    candidate of this tuner that crashed is, while that pays (:class:`tilewright.tuning.retry.SecondChances`).

    The tuner does **not** write to the store: whoever makes the runner has it add each measurement as it is made
    (``LocalPool(on_measurement=lambda m: store.add([m]))``), so that an interrupt in the middle of a round loses
    none. After such an interrupt the tuner reads from the store what the round had brought.

    Args:
        space: where to search.
        target: what is tuned for; names the records.
        runner: measures.
        store: earlier measurements.
        rng: the only source of randomness.
        method: how to search; by default :func:`~tilewright.methods.autotvm.autotvm`.
        clock: gives seconds, for ``history`` and for the times of rounds.

    Attributes:
        space: where it searches.
        best_config: the fastest config, ``(knobs,)``; None before there is one.
        best_seconds: its latency, robust over all its repeats (after a race, over those of the race); inf before
            there is one.
        trials: how many candidates this tuner has measured; one that crashed and was tried again counts twice.
        recorded: how many measurements came from the store.
        failures: this tuner's trials that failed, by outcome.
        history: after each round (and at first, where there were records) trials, clock reading, best latency.
        exhausted: whether nothing is left to propose.
        thinking: seconds spent on refitting and searching.

    Raises:
        RecordsError: the store cannot be read.
    """

    def __init__(
        self,
        space: DesignSpace,
        target: Target,
        runner: Runner,
        store: Store,
        rng: np.random.Generator,
        method: Method | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        method = autotvm() if method is None else method
        self.space = space
        self.best_config: NDArray[np.int32] | None = None
        self.best_seconds = math.inf
        self.trials = 0
        self.recorded = 0
        self.failures: Counter[Outcome] = Counter()
        self.history: list[tuple[int, float, float]] = []
        self.exhausted = False
        self.thinking = 0.0
        self._runner, self._store, self._clock = runner, store, clock
        self._query = Query(space.task.key, target.key, space.template)
        self._model = None if method.model is None else method.model(space, int(rng.integers(1 << 31)))
        self._known = ConfigSet()
        self._searcher = method.searcher(space, rng, self._score)
        self._sampler = method.sampler(space, rng, self._known.has)
        self._left_over = empty(space)
        self._suggested = empty(space)
        self._default: tuple[int, ...] = tuple(np.asarray(space.default()).tolist())
        self._readings = Readings(self._default)
        self._wrong: set[tuple[int, ...]] = set()
        self._chances = SecondChances()
        # Those that a race was about, and lost; a reading of theirs from before it counts no more.
        self._beaten: set[tuple[int, ...]] = set()
        # In the order they were measured; nan for failures.
        self._seconds: dict[tuple[int, ...], float] = {}
        self._stale = False
        self._learn_records()

    def round(self, count: int, deadline: float) -> RoundResult:
        """Propose, measure and learn from at most ``count`` candidates.

        The space's default comes first, until it was measured. Fewer are measured when the space has no more, or
        when the time is over.

        Args:
            count: how many candidates.
            deadline: ``time.monotonic()`` value after which no further candidate is started.

        Raises:
            MeasureError: the runner cannot work. The results before that are kept, as after a KeyboardInterrupt.
        """
        begun = self.begin(count)
        measured: list[Measurement] = []
        if len(begun.batch) > 0:
            try:
                measured = self._runner.measure(self.space, begun.batch, self.best_seconds, deadline)
            except BaseException:
                self.abandon(begun)
                raise
        return self.end(begun, measured)

    def begin(self, count: int) -> OpenRound:
        """Propose at most ``count`` candidates. The caller has them measured, and ends the round before another one."""
        began, incumbent = self._clock(), self.best_config
        batch = self._plan(count)
        thinking = self._clock() - began
        self.thinking += thinking
        if len(batch) == 0 and count > 0:
            self.exhausted = True
        return OpenRound(batch, incumbent, began, thinking)

    def end(self, begun: OpenRound, measured: list[Measurement], seconds: float | None = None) -> RoundResult:
        """Learn from the measurements of a round.

        Args:
            begun: the round.
            measured: what became of its candidates.
            seconds: that the round took; by default those since it began.
        """
        self._conclude(measured)
        # As it counts now: the machine may have turned out to be faster than it seemed.
        before = math.inf if begun.incumbent is None else self._seconds[tuple(begun.incumbent.tolist())]
        # What there was no time for will be wanted still.
        self._left_over = self._unmeasured(distinct(np.concatenate([begun.batch, self._left_over])))[:_MOST_LEFT_OVER]
        spent = self._clock() - begun.began if seconds is None else seconds
        return RoundResult(tuple(measured), before, self.best_seconds, spent, begun.thinking)

    def abandon(self, begun: OpenRound) -> None:
        """End a round that was interrupted: learn from the store what it had brought.

        Args:
            begun: the round.
        """
        self._conclude(self._recover(begun.batch))

    def suggest(self, configs: Configs) -> int:
        """Have ``(n, knobs)`` configs measured in the next rounds, after the default and before any proposal.

        Those that are invalid, measured, or suggested already are passed over.

        Returns:
            how many wait for a measurement now.

        Raises:
            SpaceError: rows that are not of the space.
        """
        rows = check(self.space, configs)
        self._suggested = self._unmeasured(distinct(np.concatenate([self._suggested, rows[self.space.valid(rows)]])))
        return len(self._suggested)

    def known(self, configs: Configs) -> NDArray[np.float64]:
        """``(n,)``: latencies of configs in seconds; nan: it failed, or was never measured."""
        return np.asarray([self._seconds.get(tuple(row), math.nan) for row in configs.tolist()], dtype=np.float64)

    def finalists(self, count: int = 3, factor: float = _RACE_FACTOR) -> Configs:
        """``(n, knobs)``: at most ``count`` of the fastest configs, fastest first, none slower than best x factor.

        The winner of a race comes before those that it has beaten.
        """
        ok = [(row in self._beaten, s, row) for row, s in self._seconds.items() if s <= self.best_seconds * factor]
        rows = [row for _, _, row in sorted(ok, key=lambda item: item[:2])[:count] if self.best_config is not None]
        return np.asarray(rows, dtype=np.int32).reshape(-1, len(self.space.knobs))

    def race(self, count: int, deadline: float) -> int:
        """Race the finalists: they are timed by turns, and the race alone decides which one is the best.

        The lowest of many noisy numbers is too low; the config that it belongs to need not be the fastest. The default
        runs with them where it may be as fast. A runner that cannot race (:class:`tilewright.measure.runner.Racer`)
        measures them once more, one after the other, and all repeats of each decide. Without a second finalist nothing
        is measured. These are no trials.

        Args:
            count: the most finalists, without the default.
            deadline: reading of ``time.monotonic()`` after which no race is started.

        Returns:
            the number of measurements.
        """
        configs = self.racers(count)
        if len(configs) < 2:
            return 0
        if not isinstance(self._runner, Racer):
            measured = self._runner.measure(self.space, configs, math.inf, deadline)
            self._learn(measured)
            return len(measured)
        return self.note_race(self._runner.race(self.space, configs, deadline))

    def racers(self, count: int) -> Configs:
        """``(n, knobs)``: at most ``count`` finalists and perhaps the default. With less than two there is no race."""
        configs = self.finalists(count)
        if self._seconds.get(self._default, math.inf) <= _RACE_FACTOR * self.best_seconds:
            configs = distinct(np.concatenate([configs, np.asarray([self._default], dtype=np.int32)]))
        return configs

    def note_race(self, measured: list[Measurement]) -> int:
        """Learn from a race.

        Args:
            measured: what became of those that raced.

        Returns:
            the number of measurements.
        """
        ran = [m for m in measured if m.ok]
        if len(ran) > 1:
            first = ran[winner([m.repeats for m in ran])].config
            for m in ran:
                self._readings.forget(m.config)
            self._beaten = {row for row, seconds in self._seconds.items() if math.isfinite(seconds) and row != first}
        self._learn(measured, raced=True)
        return len(measured)

    def _plan(self, count: int) -> Configs:
        """The configs to measure, ``(n, knobs)``."""
        if count <= 0:
            return empty(self.space)
        again = np.asarray(self._chances.due(count), dtype=np.int32).reshape(-1, len(self.space.knobs))
        default = np.asarray([self._default], dtype=np.int32)
        first = np.concatenate([again, self._unmeasured(default)])[:count]
        if len(self._suggested) > 0:
            self._suggested = self._unmeasured(self._suggested)
            first = distinct(np.concatenate([first, self._suggested]))[:count]
        if len(first) == count:
            self._known.add(first)
            return first
        self._refit()
        wanted, taken = count - len(first), ConfigSet()
        taken.add(first)
        asked = self._searcher.ask(math.ceil(wanted * max(1.0, self._sampler.oversampling)))
        self._known.add(first)
        proposals = self._unmeasured(distinct(np.concatenate([asked, self._left_over])))
        proposals = proposals[~taken.has(proposals)]
        if len(proposals) < wanted:  # some were the default, with which many searchers begin
            more = self._unmeasured(self._searcher.ask(wanted - len(proposals)))
            proposals = distinct(np.concatenate([proposals, more[~taken.has(more)]]))
        picked = self._sampler.pick(proposals, self._score(proposals), wanted)
        self._left_over = proposals
        return np.concatenate([first, picked])

    def _refit(self) -> None:
        if self._model is not None and self._stale:
            self._model.fit([self._programs(self._measured())], [np.asarray(list(self._seconds.values()))])
        self._stale = False

    def _score(self, configs: Configs) -> NDArray[np.float64]:
        if self._model is None or not self._model.ready or len(configs) == 0:
            return np.zeros(len(configs))
        return self._model.predict(self._programs(configs))

    def _programs(self, configs: Configs) -> Programs:
        if self.space.has_loop_nest:
            return self.space.loop_nest(configs)
        return KnobTable(knob_values(self.space, configs))

    def _measured(self) -> Configs:
        return np.asarray(list(self._seconds), dtype=np.int32).reshape(-1, len(self.space.knobs))

    def _unmeasured(self, configs: Configs) -> Configs:
        new = [tuple(row) not in self._seconds for row in configs.tolist()]
        return configs[np.asarray(new, dtype=np.bool_)]

    def _conclude(self, measured: list[Measurement]) -> None:
        self.trials += len(measured)
        self.failures.update(m.outcome for m in measured if not m.ok)
        self._chances.note(measured)
        self._learn(measured)
        self.history.append((self.trials, self._clock(), self.best_seconds))

    def _recover(self, batch: Configs) -> list[Measurement]:
        """What an interrupted round had brought, which its runner had put into the store."""
        fresh = {tuple(row) for row in self._unmeasured(batch).tolist()}
        again = {tuple(row) for row in batch.tolist()} - fresh  # they had failed so far
        return [m for m in self._store.scan(self._query) if m.config in fresh or (m.ok and m.config in again)]

    def _learn(self, measured: Iterable[Measurement], raced: bool = False) -> None:
        """Take in measurements, new or old; those of a race do not undo what it has decided."""
        rows: dict[tuple[int, ...], None] = {}
        for m in measured:
            rows[m.config] = None
            if not raced:
                self._beaten.discard(m.config)
            if m.ok:
                if self._readings.add(m, raced):
                    rows |= dict.fromkeys(self._seconds)
            elif m.outcome is Outcome.WRONG_RESULT:
                self._wrong.add(m.config)  # once is too often; a crash may have been a neighbour's
        if not rows:
            return
        for row in rows:
            self._seconds[row] = math.nan if row in self._wrong else self._readings.seconds(row)
        configs = np.asarray(list(rows), dtype=np.int32).reshape(-1, len(self.space.knobs))
        self._known.add(configs)
        self._searcher.tell(configs, np.asarray([self._seconds[row] for row in rows]))
        self._stale = True
        timed = {row: s for row, s in self._seconds.items() if math.isfinite(s) and row not in self._beaten}
        best = min(timed, key=timed.__getitem__, default=None)
        self.best_config = None if best is None else np.asarray(best, dtype=np.int32)
        self.best_seconds = math.inf if best is None else timed[best]

    def _learn_records(self) -> None:
        """Learn from the store; rows that are not of the space (of a changed template, or damaged) are passed over."""
        choices = cardinalities(self.space)
        found = [m for m in self._store.scan(self._query) if len(m.config) == len(choices)]
        found = [m for m in found if not m.ok or m.seconds > 0]  # nothing takes no time
        # Python's integers, as a damaged row may hold more than int32 does.
        found = [m for m in found if all(0 <= i < c for i, c in zip(m.config, choices.tolist(), strict=True))]
        if found:
            valid = self.space.valid(np.asarray([m.config for m in found], dtype=np.int32).reshape(len(found), -1))
            found = [m for m, ok in zip(found, valid.tolist(), strict=True) if ok]
        if found:
            self.recorded = len(found)
            self._learn(found)
            self.history.append((0, self._clock(), self.best_seconds))
