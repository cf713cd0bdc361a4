"""Injects faults: a seeded plan says which attempts fail and how, and two runners carry it out.

:class:`FaultyPool` has real workers that crash, hang and exhaust their memory. :class:`FaultyReplay` simulates the same
faults on a recorded table, thousands of times a second.

Half of the faults are lasting and belong to configs: a kernel that hangs or computes nonsense does so each time. The
others are accidents and belong to attempts, such as the system's killing a worker. They hit any config, the best too.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._misdeeds import Fault, Misbehaving, misbehaving
from bench._recorded import dense
from bench.replay import Clock, ReplayRunner, ReplaySpace, Table
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.pool import LocalPool
from tilewright.measure.runner import Runner
from tilewright.methods.default import bayesian
from tilewright.methods.parts import combine
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner

__all__ = ["Fault", "FaultyPool", "FaultyReplay", "Plan", "as_it_should", "faults", "replayed"]


#: What the pool is to make of each: outcome, and what the message has to say.
OUTCOMES: dict[Fault, tuple[Outcome, str]] = {
    Fault.NONE: (Outcome.OK, ""),
    Fault.SEGFAULT: (Outcome.RUN_CRASHED, "SIGSEGV"),
    Fault.ILLEGAL: (Outcome.RUN_CRASHED, "SIGILL"),
    Fault.ABORT: (Outcome.RUN_CRASHED, "SIGABRT"),
    Fault.KILLED: (Outcome.RUN_CRASHED, "SIGKILL"),
    Fault.MEMORY: (Outcome.RUN_CRASHED, "of memory, where"),
    Fault.ENDLESS: (Outcome.RUN_TIMED_OUT, "took longer than"),
    Fault.NAN: (Outcome.WRONG_RESULT, "NaN"),
    Fault.WRONG: (Outcome.WRONG_RESULT, "largest error"),
    Fault.SLOW: (Outcome.OK, ""),
    Fault.BUILD_SEGFAULT: (Outcome.BUILD_FAILED, "SIGSEGV"),
    Fault.BUILD_MEMORY: (Outcome.BUILD_FAILED, "of memory, where"),
    Fault.BUILD_ENDLESS: (Outcome.BUILD_TIMED_OUT, "took longer than"),
}
#: What may befall a candidate without any fault of its own.
ACCIDENTS = (Fault.SEGFAULT, Fault.ABORT, Fault.KILLED, Fault.MEMORY, Fault.BUILD_SEGFAULT, Fault.BUILD_MEMORY)
LASTING = tuple(fault for fault in Fault if fault is not Fault.NONE)
#: Seconds that a fault costs on a recorded table: time-outs, and a crash's new worker.
_TIME_OUT, _NEW_WORKER = 10.0, 3.0
#: Candidates of a round in real workers.
_ROUND = 16
#: The machine of a recorded table; its store is empty, so nothing is looked up by it.
_NO_TARGET = Target("recorded", 2, "recorded", (), 8, 16, 1 << 15, 1 << 19, 1 << 23, "")


def as_it_should(fault: Fault, found: Measurement) -> bool:
    """Whether a candidate that was made to fail has the outcome and message that it should have."""
    outcome, message = OUTCOMES[fault]
    if fault is Fault.SLOW and found.ok:  # dropped after its first run, if there was a best to compare with
        return found.seconds > 1e-2
    return found.outcome is outcome and message in found.message


@dataclass
class Plan:
    """Which attempts go wrong, and how.

    Attributes:
        seed: of the plan; the same gives the same faults for the same attempts in the same order.
        share: of attempts that go wrong, half of them because of their config.
        spared: a config without a lasting fault (the best one: with a lasting fault it would not be the best).
        injected: how many there were of each.
    """

    seed: int
    share: float = 0.3
    spared: tuple[int, ...] | None = None
    injected: Counter[Fault] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def next(self, config: tuple[int, ...]) -> Fault:
        """What the next attempt at ``config`` comes to."""
        own = np.random.default_rng([self.seed, *config])
        lasts = config != self.spared and own.random() < self.share / 2
        chance, which = self._rng.random(), int(self._rng.integers(len(ACCIDENTS)))
        fault = Fault.NONE
        if lasts:
            fault = LASTING[int(own.integers(len(LASTING)))]
        elif chance < self.share / 2:
            fault = ACCIDENTS[which]
        self.injected[fault] += 1
        return fault


class FaultyReplay:
    """A recorded table on which attempts go wrong. A :class:`~tilewright.measure.runner.Runner`.

    Args:
        table: what was measured.
        plan: what goes wrong.
        on_measurement: called with each measurement, as by ``LocalPool``.

    Attributes:
        clock: simulated seconds.
    """

    def __init__(self, table: Table, plan: Plan, on_measurement: Callable[[Measurement], None] | None = None) -> None:
        self.clock = Clock()
        self._runner = ReplayRunner(table, self.clock)
        self._plan = plan
        self._on_measurement = on_measurement

    def measure(
        self, space: DesignSpace, configs: Configs, best: float = math.inf, deadline: float = math.inf
    ) -> list[Measurement]:
        """Look ``configs`` up, unless they go wrong."""
        found: list[Measurement] = []
        for row in configs:
            looked_up = self._runner.measure(space, row[None], best, deadline)
            if not looked_up:
                break
            found.append(self._spoilt(looked_up[0]))
            if self._on_measurement is not None:
                self._on_measurement(found[-1])
        return found

    def _spoilt(self, found: Measurement) -> Measurement:
        fault = self._plan.next(found.config)
        if fault is Fault.NONE or not found.ok:
            return found
        if fault is Fault.SLOW:
            return replace(found, repeats=(1000.0 * found.seconds,))
        outcome, message = OUTCOMES[fault]
        if outcome in (Outcome.BUILD_TIMED_OUT, Outcome.RUN_TIMED_OUT):
            self.clock.now += _TIME_OUT
        elif outcome is not Outcome.WRONG_RESULT:
            self.clock.now += _NEW_WORKER
        return replace(found, outcome=outcome, repeats=(), message=message)


class FaultyPool:
    """A local pool whose workers are told, candidate by candidate, to misbehave. A Runner and a context manager.

    What to do stands in a last column that each config gets on its way to the workers, where
    :func:`bench._misdeeds.misbehaving` makes the design space.

    Args:
        target: what is built for.
        plan: what goes wrong; where it is None, ``told`` says it.
        memory: bytes that a worker may have; small ones are soon used up.
        seconds: both time-outs.
        on_measurement: called with each measurement, of the config as it was asked for.

    Attributes:
        pool: the pool.
        told: what the next candidates are to do, in order; those after them, what the plan says, or nothing.
        log: what each measured candidate was told, and its measurement.
    """

    def __init__(
        self,
        target: Target,
        plan: Plan | None = None,
        *,
        memory: int = 1 << 30,
        seconds: float = 2.5,
        workers: int | None = None,
        on_measurement: Callable[[Measurement], None] | None = None,
    ) -> None:
        self.told: list[Fault] = []
        self.log: list[tuple[Fault, Measurement]] = []
        self._plan = plan
        self._on_measurement = on_measurement
        self.pool = LocalPool(
            target,
            workers,
            misbehaving,
            build_timeout=seconds,
            run_timeout=seconds,
            on_measurement=self._note,
            memory=memory,
        )

    def __enter__(self) -> FaultyPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """Build and time ``configs``, some of which misbehave."""
        faults = [self._fault(tuple(row)) for row in configs.tolist()]
        column: NDArray[np.int32] = np.asarray(faults, dtype=np.int32).reshape(-1, 1)
        rows = np.concatenate([configs.astype(np.int32), column], axis=1)
        return [_bare(m) for m in self.pool.measure(Misbehaving(space), rows, best, deadline)]

    def _fault(self, config: tuple[int, ...]) -> Fault:
        if self.told:
            return self.told.pop(0)
        return Fault.NONE if self._plan is None else self._plan.next(config)

    def _note(self, measurement: Measurement) -> None:
        self.log.append((Fault(measurement.config[-1]), _bare(measurement)))
        if self._on_measurement is not None:
            self._on_measurement(self.log[-1][1])


def _bare(measurement: Measurement) -> Measurement:
    """A measurement of the config without what it was told."""
    return replace(measurement, config=measurement.config[:-1])


def faults(*, seconds: float = 120.0, share: float = 0.3, seed: int = 0) -> dict[str, Any]:
    """Tune a small task for so many seconds in real workers, of whose candidates ``share`` go wrong.

    First comes one of each kind, so that none is missing by chance, after a candidate that is well.

    Returns:
        ``faults``: how many of each kind were ``injected``, and how many ``survived``: had their outcome and message.
        ``others_failed``: candidates that failed although nothing was wrong with them.
    """
    target = Target.parse()
    space = make_space(task_of("dense", dense(64, 64, 64)), target)
    end = time.monotonic() + seconds
    with FaultyPool(target, Plan(seed, share)) as pool:
        # The slow one is measured when a best is known, as it is while tuning: in the second round.
        early = [Fault.NONE, *(fault for fault in LASTING if fault is not Fault.SLOW)]
        pool.told = [*early, *[Fault.NONE] * (_ROUND - len(early)), Fault.SLOW]
        tuner = TaskTuner(space, target, pool, MemoryStore(), np.random.default_rng(seed), combine("random", "top"))
        while time.monotonic() < end and not tuner.exhausted:
            tuner.round(_ROUND, end)
        statistics = pool.pool.statistics
    injected = Counter(fault.name for fault, _ in pool.log if fault is not Fault.NONE)
    survived = Counter(
        fault.name for fault, found in pool.log if fault is not Fault.NONE and as_it_should(fault, found)
    )
    return {
        "faults": {name: {"injected": n, "survived": survived[name]} for name, n in sorted(injected.items())},
        "trials": len(pool.log),
        "others_failed": sum(not found.ok for fault, found in pool.log if fault is Fault.NONE),
        "workers_replaced": statistics.replaced,
        "longest_gap": statistics.longest_gap,
        "peak_bytes": statistics.peak_rss,
    }


def replayed(tables: Sequence[Table], *, trials: int = 500, seeds: int = 5, seconds: float = 300.0) -> dict[str, Any]:
    """Tune on recorded tables with and without faults: how often both end at the same config, and how near at worst."""
    begin, same, worst, runs = time.monotonic(), 0, 1.0, 0
    for table, seed in ((table, seed) for seed in range(seeds) for table in tables):
        if time.monotonic() - begin > seconds:
            break
        quiet = _tuned(table, ReplayRunner(table), trials, seed)
        assert quiet.best_config is not None
        plan = Plan(seed, spared=tuple(quiet.best_config.tolist()))
        faulty = _tuned(table, FaultyReplay(table, plan), trials, seed)
        runs += 1
        same += faulty.best_seconds <= quiet.best_seconds
        worst = max(worst, faulty.best_seconds / quiet.best_seconds)
    return {"runs": runs, "same_best": same, "worst_ratio": worst}


def _tuned(table: Table, runner: Runner, trials: int, seed: int) -> TaskTuner:
    tuner = TaskTuner(ReplaySpace(table), _NO_TARGET, runner, MemoryStore(), np.random.default_rng(seed), bayesian())
    while tuner.trials < trials and not tuner.exhausted:
        tuner.round(min(16, trials - tuner.trials), math.inf)
    return tuner
