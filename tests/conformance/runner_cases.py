"""What every runner must do, by what it can do: a runner, a racer, a parallel runner, a pool."""

from __future__ import annotations

import math
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bench._recorded import dense
from tilewright.fleet.cluster import connected
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.runner import FleetRunner
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Job, ParallelRunner, Pool, Racer, Runner
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["AS_FALLIBLE", "AS_PARALLEL", "AS_POOL", "AS_RACER", "AS_RUNNER", "Case", "Check", "check_on_ray"]

#: Seconds that a few candidates never take, on a machine that is busy with other tests.
_LONG = 240.0


@dataclass
class Case:
    """A runner and what it can measure.

    Attributes:
        runner: the runner.
        space: a design space.
        configs: at least six that work.
        target: the key of the target that is measured for.
        failing: a config that fails; None: the space has none, and the checks ``AS_FALLIBLE`` are left out.
        told: what the runner has told to ``on_measurement``.
        clock: whose readings deadlines are.
    """

    runner: Runner
    space: DesignSpace
    configs: Configs
    target: str
    failing: tuple[int, ...] | None = None
    told: list[Measurement] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def measure(self, configs: Configs, seconds: float = _LONG, best: float = math.inf) -> list[Measurement]:
        return self.runner.measure(self.space, configs, best, self.clock() + seconds)

    def check_whose(self, measured: list[Measurement]) -> None:
        whose = (self.space.task.key, self.target, self.space.template)
        assert {(m.task, m.target, m.template) for m in measured} <= {whose}


Check = Callable[[Case], None]


def _rows(configs: Configs) -> list[tuple[int, ...]]:
    return [tuple(row) for row in configs.tolist()]


def measures_candidates_in_order(case: Case) -> None:
    case.told.clear()
    measured = case.measure(case.configs[:6])
    assert [m.config for m in measured] == _rows(case.configs[:6])
    case.check_whose(measured)
    assert all(m.ok and m.repeats and 0.0 < m.seconds < 1.0 for m in measured)
    assert all(m.elapsed >= 0.0 for m in measured)
    assert Counter(m.config for m in case.told) == Counter(_rows(case.configs[:6]))


def measures_nothing_where_nothing_is_asked(case: Case) -> None:
    case.told.clear()
    assert case.measure(case.configs[:0]) == []
    assert case.told == []


def begins_nothing_after_the_deadline(case: Case) -> None:
    case.told.clear()
    assert case.measure(case.configs[:4], seconds=-1.0) == []
    assert case.told == []


def measures_a_candidate_again_if_asked_again(case: Case) -> None:
    first, second = case.measure(case.configs[:1]), case.measure(case.configs[:1])
    assert [m.config for m in (*first, *second)] == _rows(case.configs[:1]) * 2


def keeps_a_slow_candidate(case: Case) -> None:
    """Candidates that are far from the best so far are dropped early, but they are measurements all the same."""
    measured = case.measure(case.configs[:2], best=1e-12)
    assert [m.config for m in measured] == _rows(case.configs[:2])
    assert all(m.ok and m.repeats for m in measured)


def takes_a_failure_for_a_measurement(case: Case) -> None:
    assert case.failing is not None
    rows = np.asarray([*case.configs[:1].tolist(), case.failing, *case.configs[1:2].tolist()], dtype=np.int32)
    measured = case.measure(rows)
    assert [m.ok for m in measured] == [True, False, True]
    assert measured[1].repeats == ()
    assert measured[1].config == case.failing
    case.check_whose(measured)


def races_in_order(case: Case) -> None:
    assert isinstance(case.runner, Racer)
    measured = case.runner.race(case.space, case.configs[:3], case.clock() + _LONG)
    assert [m.config for m in measured] == _rows(case.configs[:3])
    case.check_whose(measured)
    assert all(m.ok and m.repeats for m in measured)


def races_nothing_after_the_deadline(case: Case) -> None:
    assert isinstance(case.runner, Racer)
    assert case.runner.race(case.space, case.configs[:3], case.clock() - 1.0) == []
    assert case.runner.race(case.space, case.configs[:0], case.clock() + _LONG) == []


def works_on_several_batches(case: Case) -> None:
    assert isinstance(case.runner, ParallelRunner)
    assert case.runner.machines >= 1
    assert case.runner.slots >= 1
    batches = {7: case.configs[:2], 3: case.configs[2:5], 5: case.configs[:0]}
    for ticket, rows in batches.items():
        case.runner.submit(ticket, Job(case.space, rows, math.inf, case.clock() + _LONG))
    done: dict[int, list[Measurement]] = {}
    while len(done) < len(batches):
        for ticket, measured in case.runner.finished():
            assert ticket not in done
            done[ticket] = measured
    assert {ticket: [m.config for m in measured] for ticket, measured in done.items()} == {
        ticket: _rows(rows) for ticket, rows in batches.items()
    }
    assert case.runner.finished() == []  # nothing is open, so there is nothing to wait for


def forgets_a_batch_that_is_cancelled(case: Case) -> None:
    assert isinstance(case.runner, ParallelRunner)
    for ticket in (1, 2):
        case.runner.submit(ticket, Job(case.space, case.configs[:2], math.inf, case.clock() + _LONG))
    case.runner.cancel(1)
    assert [ticket for ticket, _ in case.runner.finished()] == [2]
    assert case.runner.finished() == []


def counts_what_it_measured(case: Case) -> None:
    pool: Pool = case.runner  # type: ignore[assignment]  # as the list of cases says
    before = pool.statistics.measured
    case.measure(case.configs[:2])
    assert pool.statistics.measured == before + 2
    assert pool.statistics.building > 0.0
    assert pool.statistics.timing > 0.0


def names_the_target_of_large_networks(case: Case) -> None:
    pool: Pool = case.runner  # type: ignore[assignment]
    pool.weigh(1 << 10)
    case.check_whose(case.measure(case.configs[:1]))
    pool.weigh(1 << 50)
    case.target += "-streamed"
    assert isinstance(case.runner, Racer)
    raced = case.runner.race(case.space, case.configs[:2], case.clock() + _LONG)
    measured = [*case.measure(case.configs[:2]), *raced]
    assert [m.ok for m in measured] == [True] * 4
    case.check_whose(measured)


def closes_more_than_once(case: Case) -> None:
    pool: Pool = case.runner  # type: ignore[assignment]
    pool.close()
    pool.close()


AS_RUNNER: tuple[Check, ...] = (
    measures_candidates_in_order,
    measures_nothing_where_nothing_is_asked,
    begins_nothing_after_the_deadline,
    measures_a_candidate_again_if_asked_again,
    keeps_a_slow_candidate,
)
AS_FALLIBLE: tuple[Check, ...] = (takes_a_failure_for_a_measurement,)
AS_RACER: tuple[Check, ...] = (races_in_order, races_nothing_after_the_deadline)
AS_PARALLEL: tuple[Check, ...] = (works_on_several_batches, forgets_a_batch_that_is_cancelled)
#: In this order: they change the target, and close.
AS_POOL: tuple[Check, ...] = (counts_what_it_measured, names_the_target_of_large_networks, closes_more_than_once)


def check_on_ray() -> dict[str, str]:
    """All checks on a cluster that is started here, in a process of its own: Ray reads the environment once.

    Returns:
        what went wrong, by the name of the check.
    """
    problems = {}
    with connected("local") as crew:
        fleet = Fleet(crew)
        fleet.gather()
        (target,) = fleet.kinds.values()
        space = make_space(task_of("dense", dense(32, 32, 32)), target)
        told: list[Measurement] = []
        runner = FleetRunner(target, fleet, told.append)
        case = Case(runner, space, sample(space, np.random.default_rng(0), 6), target.key, told=told)
        for check in (*AS_RUNNER, *AS_RACER, *AS_PARALLEL, *AS_POOL):
            try:
                check(case)
            except AssertionError:
                problems[check.__name__] = traceback.format_exc()
    return problems
