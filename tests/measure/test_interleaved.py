"""Races on made-up noise: what they cost, who drops out, who wins."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.measure.interleaved import MOST_ROUNDS, as_often, interleave, ratios, winner
from tilewright.measure.outcome import Measurement, Outcome


class Course:
    """Racers of known latencies, on a clock that only they move."""

    def __init__(self, latencies: list[float], seed: int, share: float = 0.0, factor: float = 2.0) -> None:
        self.now = 0.0
        self.log: list[int] = []
        self._latencies, self._share, self._factor = latencies, share, factor
        self._rng = np.random.default_rng(seed)

    def racer(self, number: int) -> Callable[[], float]:
        def block() -> float:
            self.log.append(number)
            seconds = self._latencies[number] * (1.0 + 0.002 * abs(self._rng.normal()))
            if self._rng.random() < self._share:
                seconds *= self._rng.uniform(1.0, self._factor)
            self.now += 2e-3
            return float(seconds)

        return block

    def race(self, seconds: float = math.inf) -> list[tuple[float, ...]]:
        racers = [self.racer(number) for number in range(len(self._latencies))]
        return interleave(racers, seconds, clock=lambda: self.now)


@given(st.lists(st.floats(1.0, 1.3), min_size=1, max_size=6), st.integers(0, 100), st.floats(0.0, 0.8))
def test_blocks_alternate_and_those_who_stay_have_them_all(latencies: list[float], seed: int, share: float) -> None:
    course = Course(latencies, seed, share)
    blocks = course.race()
    assert [len(times) for times in blocks] == [course.log.count(number) for number in range(len(latencies))]
    rounds = max(len(times) for times in blocks)
    assert 7 <= rounds <= MOST_ROUNDS
    assert min(len(times) for times in blocks) >= 7
    for number in range(7):  # in each round each runs once
        part = course.log[number * len(latencies) : (number + 1) * len(latencies)]
        assert sorted(part) == list(range(len(latencies)))
    assert len(blocks[winner(blocks)]) == rounds


def test_nobody_always_follows_the_same_one() -> None:
    course = Course([1.0, 1.0, 1.0], 0, 0.9, 3.0)
    course.race()
    followers = {pair for pair in zip(course.log, course.log[1:], strict=False) if pair[0] != pair[1]}
    assert followers == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_the_slower_drop_out_and_a_clear_race_is_short() -> None:
    course = Course([1.0, 1.02, 1.5, 1.2], 0)
    blocks = course.race()
    assert [len(times) for times in blocks] == [7] * 4  # one is left: it is decided


def test_equals_are_not_raced_for_ever() -> None:
    assert max(len(times) for times in Course([1.0, 1.0, 1.0], 0).race()) < MOST_ROUNDS


def test_more_noise_takes_more_rounds() -> None:
    def rounds(share: float) -> float:
        return float(np.mean([max(map(len, Course([1.0, 1.02, 1.03], seed, share).race())) for seed in range(20)]))

    assert rounds(0.0) < rounds(0.3) < rounds(0.7) <= MOST_ROUNDS


def test_the_time_ends_it_but_not_before_anything_can_be_said() -> None:
    course = Course([1.0, 1.001, 1.002], 0, 0.9)
    assert [len(times) for times in course.race(0.0)] == [3] * 3
    course = Course([1.0, 1.001, 1.002], 0, 0.9)
    assert max(len(times) for times in course.race(0.06)) <= 11


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_fastest_wins_whatever_disturbs_30_percent_of_the_blocks(share: float) -> None:
    latencies = [1.02, 1.05, 1.0, 1.1, 1.03, 1.15, 1.08, 1.12]
    won = [winner(Course(latencies, seed, share, 3.0).race()) == 2 for seed in range(60)]
    assert np.mean(won) >= 0.95


def test_a_disturbance_of_whole_rounds_is_nobodys() -> None:
    blocks = np.tile([[1.0], [1.02]], (1, 12)) * np.repeat([1.0, 3.0, 1.5, 2.0], 3)[None]
    low, high = ratios(blocks)
    assert low[1] == pytest.approx(1.02)
    assert high[1] == pytest.approx(1.02)
    assert (low[0], high[0]) == (1.0, 1.0)


def test_a_lucky_block_does_not_win() -> None:
    steady, lucky = (1.0,) * 12, (1.05,) * 11 + (0.8,)
    assert winner([lucky, steady]) == 1


def test_only_those_who_stayed_can_win() -> None:
    assert winner([(0.1,) * 7, (1.0,) * 9, (0.9,) * 9, ()]) == 2
    with pytest.raises(ValueError, match="nobody did"):
        winner([(), ()])


def test_nobody_wins_a_race_that_was_given_up_by_having_more_repeats() -> None:
    repeats = [(1.0,) * 5, (1.02,) * 20, (3.0,), ()]
    outcomes = [Outcome.OK, Outcome.OK, Outcome.OK, Outcome.RUN_CRASHED]
    measured = [
        Measurement("t", "cpu", "a/1", (i,), o, r) for i, (o, r) in enumerate(zip(outcomes, repeats, strict=True))
    ]
    assert winner(repeats) == 1
    cut = [m.repeats for m in as_often(measured)]
    assert [len(times) for times in cut] == [5, 5, 1, 0]
    assert winner(cut) == 0
