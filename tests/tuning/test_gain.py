"""Which task promises most: the rules by themselves, on tasks whose past is made up."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from tests.tuning.replay import Use, task
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.tuning.gain import Rule, Share, ansor_gains, learning_gains
from tilewright.tuning.tuner import RoundResult, TaskTuner


@dataclass
class Tuned:
    """What a share asks of its tuner."""

    best_seconds: float = 1e-3
    trials: int = 16
    recorded: int = 0
    exhausted: bool = False
    failures: Counter[Outcome] = field(default_factory=Counter)


def trial(ok: bool = True) -> Measurement:
    repeats = (1e-3,) if ok else ()
    return Measurement("k", "t", "s/1", (0,), Outcome.OK if ok else Outcome.RUN_CRASHED, repeats)


def share(weight: int = 1, flop: float = 1e6, possible: float = 0.0, **tuned: Any) -> Share:
    tuner = cast(TaskTuner, Tuned(**tuned))
    return Share(Use(task("k", flop), weight), np.random.default_rng(0), tuner, possible=possible)


def after(found: Share, before: float, now: float, trials: int = 16, seconds: float = 4.0) -> Share:
    """A round that is over."""
    tuner = cast(Any, found.tuner)
    tuner.trials, tuner.best_seconds = tuner.trials + trials, now
    found.note(RoundResult(tuple([trial()] * trials), before, now, seconds, 0.0))
    return found


RULES = pytest.mark.parametrize("rule", [learning_gains, ansor_gains])


@RULES
def test_weight_and_latency_count(rule: Rule) -> None:
    shares = [share(), share(weight=3), share(best_seconds=2e-3)]
    one, often, slow = rule(shares, shares, 16)
    assert often == pytest.approx(3 * one)
    assert slow > one > 0


@RULES
def test_a_task_without_a_latency_is_wanted(rule: Rule) -> None:
    shares = [share(), share(best_seconds=math.inf, trials=0)]
    settled, unknown = rule(shares, shares, 16)
    assert unknown >= settled
    if rule is learning_gains:
        assert unknown > 2 * settled


@RULES
def test_what_takes_longer_promises_less(rule: Rule) -> None:
    quick, slow = (after(share(), 1e-3, 1e-3, seconds=seconds) for seconds in (4.0, 8.0))
    gains = rule([quick, slow], [quick, slow], 16)
    assert gains[0] == pytest.approx(2 * gains[1])


def test_the_more_was_tried_the_less_is_expected() -> None:
    expected = [share(trials=trials).improvement(16) for trials in (1, 4, 16, 64, 256)]
    assert expected == sorted(expected, reverse=True)
    assert expected[0] < 1
    assert share(trials=8, recorded=8).improvement(16) == share(trials=16).improvement(16)


def test_a_task_that_gained_is_expected_to_gain_and_one_that_did_not_is_not() -> None:
    gained, dry, usual = after(share(), 1e-3, 0.7e-3), after(share(), 1e-3, 1e-3), share(trials=32)
    assert gained.improvement(16) > usual.improvement(16) > dry.improvement(16) > 0


def test_failures_bring_nothing() -> None:
    failing = share(trials=32, failures=Counter({Outcome.RUN_CRASHED: 24}))
    assert failing.improvement(16) < 0.5 * share(trials=32).improvement(16)


def test_nothing_is_expected_beyond_what_the_machine_can_do() -> None:
    near, far = share(possible=0.999e-3, trials=4), share(possible=0.2e-3, trials=4)
    assert near.improvement(16) == pytest.approx(1e-3)
    assert far.improvement(16) == share(trials=4).improvement(16)


def test_a_task_at_its_limit_is_done_and_one_that_passed_it_moves_the_limit() -> None:
    at_limit, other = share(possible=1e-3, trials=4), share(possible=0.5e-3, trials=4)
    gains = learning_gains([at_limit, other], [at_limit, other], 16)
    # The limit leaves the fastest some room, as it is measured, too.
    assert 0 < gains[0] < gains[1]
    assert not at_limit.done
    beyond = share(possible=2e-3, trials=4)
    assert not math.isclose(learning_gains([at_limit], [at_limit, beyond], 16)[0], gains[0])


def test_next_to_nothing_left_is_the_end() -> None:
    known = share(trials=100_000)
    assert learning_gains([known], [known], 16)[0] >= 0
    assert known.done
    assert not known.live
    assert known.describe()["done"]


def test_what_can_be_borrowed_counts() -> None:
    settled, promised = share(trials=512), share(trials=512)
    promised.promise = 0.2
    gains = learning_gains([settled, promised], [settled, promised], 16)
    assert gains[1] > 10 * gains[0]
