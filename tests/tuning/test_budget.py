from __future__ import annotations

import math
import time
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import BudgetError
from tilewright.tuning.budget import Budget


class FakeClock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300), ("90s", 90), ("1h30m", 5400), ("300", 300), ("1h2m3s", 3723), ("1h2m3", 3723), ("1.5m", 90),
        ("0.25", 0.25), (" 5M ", 300), ("2h", 7200), ("0h5m", 300),
    ],
)  # fmt: skip
def test_parse(text: str, seconds: float) -> None:
    assert Budget.parse(text) == Budget(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", "s", "five minutes", "5 minutes", "5d", "m5", "1m1h", "5m5m", "nan", "inf", "1e3", "-5m", "+5m",
     "1:30", "5.m", ".5m", "\u0665m", "5m 30s", "0", "0s", "0h0m", "9" * 400],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(BudgetError) as refusal:
        Budget.parse(text)
    message = str(refusal.value)
    assert "a budget is a" in message  # the rule
    assert repr(text) in message  # what it got
    assert "5m" in message  # the remedy


def test_parse_with_trials() -> None:
    assert Budget.parse("5m", trials=100) == Budget(300.0, 100)


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, -math.inf, True, "5m"])
def test_seconds_must_be_positive_and_finite(seconds: float) -> None:
    with pytest.raises(BudgetError, match="positive"):
        Budget(seconds)


@pytest.mark.parametrize("trials", [0, -3, 1.5, math.nan, math.inf, True])
def test_trials_must_be_a_positive_whole_number(trials: int) -> None:
    with pytest.raises(BudgetError, match="whole number"):
        Budget(trials=trials)


def test_limits_neither() -> None:
    with pytest.raises(BudgetError, match="neither"):
        Budget()


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Budget(1.0).seconds = 2.0  # type: ignore[misc]


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_text_round_trip(hours: int, minutes: int, seconds: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    if total:
        assert Budget.parse(str(Budget(total))) == Budget(total)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(300), "5m"),
        (Budget(90.5), "1m30.5s"),
        (Budget(trials=1), "1 trial"),
        (Budget(3600, 20), "1h, 20 trials"),
    ],
)
def test_text(budget: Budget, text: str) -> None:
    assert str(budget) == text


def test_time_runs_out() -> None:
    clock = FakeClock()
    running = Budget(60).start(clock=clock)
    assert (running.elapsed, running.remaining_seconds, running.deadline) == (0, 60, 1060)
    assert running.remaining_trials == math.inf
    clock.now += 45
    assert (running.elapsed, running.remaining_seconds) == (45, 15)
    assert not running.exhausted()
    assert not running.exhausted(reserve=14)
    assert running.exhausted(reserve=15)
    clock.now += 100
    assert running.remaining_seconds == 0
    assert running.exhausted()


def test_trials_run_out() -> None:
    running = Budget(trials=10).start(clock=FakeClock())
    assert running.deadline == running.remaining_seconds == math.inf
    running.spend(8)
    assert running.remaining_trials == 2
    assert not running.exhausted(reserve=1e9)
    running.spend(64)
    assert running.remaining_trials == 0
    assert running.trials == 72
    assert running.exhausted()


def test_whichever_ends_first() -> None:
    clock = FakeClock()
    running = Budget(60, 10).start(clock=clock)
    running.spend(3)
    clock.now += 6
    assert not running.exhausted()
    running.spend(7)
    assert running.exhausted()


def test_trials_are_not_given_back() -> None:
    with pytest.raises(BudgetError, match="never given back"):
        Budget(60).start().spend(-1)


def test_what_was_spent_before_the_start_counts() -> None:
    clock = FakeClock(1002.0)
    running = Budget(60).start(began=1000.0, clock=clock)
    assert running.elapsed == 2
    assert running.deadline == 1060


def test_the_real_clock() -> None:
    before = time.monotonic()
    running = Budget(60).start()
    assert before + 60 <= running.deadline <= time.monotonic() + 60


def test_two_starts_are_independent() -> None:
    budget = Budget(trials=5)
    first, second = budget.start(), budget.start()
    first.spend(5)
    assert first.exhausted()
    assert not second.exhausted()
