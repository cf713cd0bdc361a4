"""Rounds go to the task that promises most, as MetaSchedule gives them out."""

from __future__ import annotations

import math

import pytest

from bench._gradient import Gradient


def test_each_task_has_a_round_first() -> None:
    gradient = Gradient([1.0, 1.0, 1.0])
    assert gradient.choose([]) is None
    assert [gradient.choose([0, 1, 2]) for _ in range(3)] == [0, 1, 2]


def test_then_the_task_whose_time_weighs_most() -> None:
    gradient = Gradient([1.0, 3.0, 1.0])
    for _ in range(3):
        gradient.choose([0, 1, 2])
    for task, seconds in enumerate((0.02, 0.01, 0.004)):
        gradient.note(task, [seconds, 2 * seconds, math.inf])
    assert gradient.choose([0, 1, 2]) == 1
    assert gradient.choose([0, 2]) == 0
    gradient.note(1, [0.01])  # two rounds without a gain: half the promise
    assert gradient.choose([0, 1, 2]) == 0


def test_a_recent_gain_counts() -> None:
    gradient = Gradient([1.0, 1.0])
    gradient.remember(0, [0.010, 0.010, 0.010, 0.010], 1)
    gradient.remember(1, [0.040, 0.012, 0.011, 0.010], 1)
    assert gradient.histories == [[0.01] * 4, [0.04, 0.012, 0.011, 0.01]]
    # 0.2 * (0.040 - 0.010) / 3 + 0.8 * 0.010 / 4 against 0.8 * 0.010 / 4
    assert gradient.choose([0, 1]) == 1


def test_what_has_never_run_comes_last() -> None:
    gradient = Gradient([1.0, 1.0])
    gradient.remember(0, [math.inf, math.inf], 2)
    gradient.remember(1, [1e-9], 2)
    assert gradient.choose([0, 1]) == 1
    assert gradient.choose([0]) == 0


def test_a_first_run_is_a_finite_gain() -> None:
    gradient = Gradient([1.0])
    gradient.remember(0, [math.inf, math.inf, math.inf, 0.01], 1)
    assert gradient.choose([0]) == 0
    assert gradient.histories[0][-1] == pytest.approx(0.01)


def test_earlier_calls_are_no_further_first_round() -> None:
    gradient = Gradient([1.0, 1.0, 1.0])
    gradient.remember(0, [0.03, 0.02, 0.01], 2)
    gradient.remember(2, [0.5], 2)
    assert gradient.histories == [[0.02, 0.01], [], [0.5]]
    assert [gradient.choose([0, 1, 2]) for _ in range(2)] == [1, 2]
