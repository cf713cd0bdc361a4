"""The rule that says when a candidate has been timed enough, on made-up noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.measure.outcome import robust_seconds
from tilewright.measure.rule import HOPELESS_FACTOR, LEAST_BLOCKS, MOST_NEAR_BLOCKS, enough, interval

Noise = Callable[[np.random.Generator, float], float]
TIMES = st.floats(1e-6, 1.0)


def sequence(blocks: Iterator[float], best: float, length: float = 0.002) -> list[float]:
    """The blocks of a candidate until it has enough; each takes ``length`` seconds."""
    repeats: list[float] = []
    while not enough(repeats, len(repeats) * length, best):
        repeats.append(next(blocks))
    return repeats


def noisy(seed: int, share: float, factor: float) -> Iterator[float]:
    """Blocks of a kernel of 1 ms; the given share of them takes up to ``factor`` times as long."""
    rng = np.random.default_rng(seed)
    while True:
        disturbed = rng.random() < share
        yield 1e-3 * (1.0 + 0.002 * abs(rng.normal())) * (rng.uniform(1.0, factor) if disturbed else 1.0)


@given(st.lists(TIMES, min_size=1, max_size=60), st.one_of(TIMES, st.just(math.inf)))
def test_the_interval_holds_the_estimate_and_is_one_of_the_repeats(repeats: list[float], best: float) -> None:
    low, high = interval(repeats)
    assert low <= robust_seconds(tuple(repeats)) * (1 + 1e-12)
    assert high >= robust_seconds(tuple(repeats)) * (1 - 1e-12) or len(repeats) == 1
    assert {low, high} <= set(repeats)
    assert interval(sorted(repeats)) == (low, high)


@pytest.mark.parametrize("count", [5, 10, 20, 60])
def test_each_end_of_the_interval_is_right_nine_times_in_ten(count: int) -> None:
    draws = np.random.default_rng(0).lognormal(0.0, 0.5, (4000, count))
    truth = math.exp(0.5 * -0.8416212335729143)  # the 0.2-quantile of the distribution
    ends = np.asarray([interval(row.tolist()) for row in draws])
    assert (ends[:, 1] >= truth).mean() >= 0.89
    if count >= 11:  # fewer repeats have no order statistic that low
        assert (ends[:, 0] <= truth).mean() >= 0.89


def test_no_repeats_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one repeat"):
        interval([])


@given(st.lists(TIMES, min_size=MOST_NEAR_BLOCKS, max_size=MOST_NEAR_BLOCKS), st.one_of(TIMES, st.just(math.inf)))
def test_it_always_ends(repeats: list[float], best: float) -> None:
    assert not enough([], 0.0, best)
    assert enough(repeats, 0.0, best)
    assert enough(repeats[:2], 1.0, best)


@given(st.lists(TIMES, min_size=LEAST_BLOCKS, max_size=30))
def test_what_is_clearly_slower_ends_at_once(repeats: list[float]) -> None:
    assert enough(repeats, 0.0, min(repeats) / HOPELESS_FACTOR / 1.01)


@pytest.mark.parametrize(("best", "least", "most"), [(math.inf, 5, 5), (1e-3, 5, 5), (0.8e-3, 3, 4), (0.6e-3, 3, 3)])
def test_a_steady_kernel_gets_few_blocks(best: float, least: int, most: int) -> None:
    counts = [len(sequence(noisy(seed, 0.0, 1.0), best)) for seed in range(50)]
    assert least <= min(counts)
    assert np.median(counts) <= most


def test_more_blocks_go_to_those_near_the_best_only() -> None:
    def mean(best: float) -> float:
        return float(np.mean([len(sequence(noisy(seed, 0.6, 1.5), best)) for seed in range(200)]))

    near, apart, far = mean(1e-3), mean(0.85e-3), mean(0.6e-3)
    assert far == LEAST_BLOCKS
    assert LEAST_BLOCKS < apart <= 10
    assert apart + 2 < near <= MOST_NEAR_BLOCKS


def test_the_time_share_ends_it() -> None:
    unsettled = [1.0, 1.5, 2.0, 1.2]
    assert not enough(unsettled, 0.1, math.inf)
    assert enough(unsettled, 0.2, math.inf)
    assert enough(unsettled, 0.1, 0.9)  # those that are not near the best have less
    assert not enough(unsettled[:1], 10.0, math.inf)  # one reading is none


@given(st.integers(0, 1000), st.floats(0.0, 0.3), st.floats(1.2, 4.0))
def test_disturbance_of_up_to_30_percent_of_blocks_leaves_the_estimate_unbiased(
    seed: int, share: float, factor: float
) -> None:
    estimates = [
        robust_seconds(tuple(sequence(noisy(1000 * seed + i, share, factor), math.inf))) / 1e-3 for i in range(60)
    ]
    assert abs(float(np.median(estimates)) - 1.0) < 0.01
    assert np.mean(np.abs(np.asarray(estimates) - 1.0) < 0.02) > 0.8
