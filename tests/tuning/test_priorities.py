"""Which task promises most: the rules by themselves, on tasks whose past is made up."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tilewright.measure.outcome import Measurement, Outcome
from tilewright.tuning.learning_curve import expected_saving
from tilewright.tuning.priorities import Rule, ansor_gains, learning_gains
from tilewright.tuning.task_state import TaskSnapshot
from tilewright.tuning.tuner import RoundResult

TRIAL = Measurement("k", "t", "s/1", (0,), Outcome.OK, (1e-3,))
#: A task of which much is known, and no round of this tuning.
TASK = TaskSnapshot(flop=1e6, best=1e-3, trials=16)


def after(task: TaskSnapshot, before: float, now: float, trials: int = 16, seconds: float = 4.0) -> TaskSnapshot:
    """The task when another round is over."""
    return replace(
        task,
        best=now,
        trials=task.trials + trials,
        rounds=(*task.rounds, RoundResult((TRIAL,) * trials, before, now, seconds, 0.0)),
        expected_gain=task.expected_gain + expected_saving(task.measured, trials),
        gained=task.gained + math.log(before / now),
    )


RULES = pytest.mark.parametrize("rule", [learning_gains, ansor_gains])


@RULES
def test_weight_and_latency_count(rule: Rule) -> None:
    tasks = [TASK, replace(TASK, weight=3), replace(TASK, best=2e-3)]
    one, often, slow = rule(tasks, tasks, 16)
    assert often == pytest.approx(3 * one)
    assert slow > one > 0


@RULES
def test_a_task_without_a_latency_is_wanted(rule: Rule) -> None:
    tasks = [TASK, replace(TASK, best=math.inf, trials=0)]
    settled, unknown = rule(tasks, tasks, 16)
    assert unknown >= settled
    if rule is learning_gains:
        assert unknown > 2 * settled


@RULES
def test_what_takes_longer_promises_less(rule: Rule) -> None:
    quick, slow = (after(TASK, 1e-3, 1e-3, seconds=seconds) for seconds in (4.0, 8.0))
    gains = rule([quick, slow], [quick, slow], 16)
    assert gains[0] == pytest.approx(2 * gains[1])


def test_the_more_was_tried_the_less_is_expected() -> None:
    expected = [replace(TASK, trials=trials).improvement(16) for trials in (1, 4, 16, 64, 256)]
    assert expected == sorted(expected, reverse=True)
    assert expected[0] < 1
    assert replace(TASK, trials=8, recorded=8).improvement(16) == TASK.improvement(16)


def test_a_task_that_gained_is_expected_to_gain_and_one_that_did_not_is_not() -> None:
    gained, dry, usual = after(TASK, 1e-3, 0.7e-3), after(TASK, 1e-3, 1e-3), replace(TASK, trials=32)
    assert gained.improvement(16) > usual.improvement(16) > dry.improvement(16) > 0


def test_failures_bring_nothing() -> None:
    many = replace(TASK, trials=32)
    assert replace(many, failed=24).improvement(16) < 0.5 * many.improvement(16)


def test_nothing_is_expected_beyond_what_the_machine_can_do() -> None:
    near, far = (replace(TASK, possible=seconds, trials=4) for seconds in (0.999e-3, 0.2e-3))
    assert near.improvement(16) == pytest.approx(1e-3)
    assert far.improvement(16) == replace(TASK, trials=4).improvement(16)


def test_a_task_at_its_limit_gains_little_and_one_that_passed_it_moves_the_limit() -> None:
    at_limit, other = (replace(TASK, possible=seconds, trials=4) for seconds in (1e-3, 0.5e-3))
    gains = learning_gains([at_limit, other], [at_limit, other], 16)
    # The limit leaves the fastest some room, as it is measured, too.
    assert 0 < gains[0] < gains[1]
    beyond = replace(TASK, possible=2e-3, trials=4)
    assert not math.isclose(learning_gains([at_limit], [at_limit, beyond], 16)[0], gains[0])


def test_next_to_nothing_left_is_the_end() -> None:
    known = replace(TASK, trials=100_000)
    assert learning_gains([known], [known], 16) == [0.0]


def test_a_round_is_as_large_as_what_is_known_within_bounds() -> None:
    assert [replace(TASK, trials=trials).round_size(16) for trials in (0, 8, 12, 99)] == [8, 8, 12, 16]
