"""Second chances: while they help, and only for what may have been an accident."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toys import ToySpace, plain
from tests.tuning.replay import TARGET, bowl, task
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.methods.parts import combine
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs, DesignSpace
from tilewright.tuning.retry import SecondChances
from tilewright.tuning.tuner import TaskTuner


def measured(outcome: Outcome, *which: int) -> list[Measurement]:
    seconds = (1.0,) if outcome is Outcome.OK else ()
    return [Measurement("t", "m", "toy/1", (i,), outcome, seconds) for i in which]


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.doubtful])
def test_no_second_chance_for_what_is_certain_or_dear(outcome: Outcome) -> None:
    chances = SecondChances()
    chances.note(measured(outcome, 0, 1))
    assert chances.due(16) == []


def test_two_tries_in_vain_end_it() -> None:
    chances = SecondChances()
    chances.note(measured(Outcome.RUN_CRASHED, *range(10)))
    assert chances.due(16) == [(0,), (1,)]
    assert chances.due(1) == [(0,)]
    chances.note(measured(Outcome.RUN_CRASHED, 0, 1))
    assert chances.due(16) == []


def test_tries_that_help_lead_to_more_but_three_are_all_that_a_config_gets() -> None:
    chances = SecondChances()
    chances.note(measured(Outcome.BUILD_FAILED, *range(10)))
    chances.note(measured(Outcome.OK, 0, 1))
    assert chances.due(16) == [(2,), (3,), (4,), (5,), (6,), (7,)]
    for _ in range(2):
        chances.note(measured(Outcome.OK, 3, 4))
        chances.note(measured(Outcome.RUN_CRASHED, 2))
    assert (2,) not in chances.due(100)


def test_the_best_config_is_found_although_its_worker_was_killed() -> None:
    space = ToySpace(plain(4, 5, 6), task=task("small"))
    crashed: set[tuple[int, ...]] = set()

    class Unlucky:
        """Every config crashes at its first measurement."""

        def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
            found = []
            for row, seconds in zip(configs.tolist(), bowl(configs).tolist(), strict=True):
                ok = tuple(row) in crashed
                crashed.add(tuple(row))
                outcome = Outcome.OK if ok else Outcome.RUN_CRASHED
                repeats = (seconds,) if ok else ()
                found.append(Measurement("small", TARGET.key, space.template, tuple(row), outcome, repeats))
            return found

    tuner = TaskTuner(space, TARGET, Unlucky(), MemoryStore(), np.random.default_rng(0), combine("random", "top"))
    for _ in range(40):
        tuner.round(8, np.inf)
    assert tuner.trials == 240
    assert tuner.failures == {Outcome.RUN_CRASHED: 120}
    assert tuner.best_config is not None
    assert tuner.best_config.tolist() == [3, 4, 4]
