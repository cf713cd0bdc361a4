from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cost.data import task_data
from tilewright.cost.evaluate import Quality, bootstrap, evaluate, pairwise_accuracy, quality, recall_at, top_regret
from tilewright.cost.xgb import XGBoostModel

NAN = math.nan


def of(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.asarray(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("scores", "seconds", "expected"),
    [
        (of(3, 2, 1), of(1, 2, 3), 1.0),
        (of(1, 2, 3), of(1, 2, 3), 0.0),
        (of(3, 1, 2), of(1, 2, 3), 2 / 3),
        (of(0, 0, 0), of(1, 2, 3), 0.5),
        (of(2, 2, 1), of(1, 2, 3), 2.5 / 3),  # a tie counts half
        (of(9, 1, 5), of(1, 1, 2), 0.5),  # the pair of equal latencies does not count
        (of(NAN, 2, 1), of(1, 2, 3), 2 / 3),  # no score, no order
        (of(math.inf, -math.inf), of(1, 2), 1.0),
        (of(1, 2), of(1, 1), NAN),
    ],
)
def test_pairwise_accuracy(scores: np.ndarray, seconds: np.ndarray, expected: float) -> None:
    assert pairwise_accuracy(scores, seconds) == pytest.approx(expected, nan_ok=True)


def test_pairwise_accuracy_of_more_programs_than_are_compared_at_a_time() -> None:
    generator = np.random.default_rng(0)
    seconds, scores = generator.integers(1, 50, 2500).astype(float), generator.integers(0, 50, 2500).astype(float)
    faster = np.sign(seconds[None] - seconds[:, None])
    higher = np.sign(scores[:, None] - scores[None])
    assert pairwise_accuracy(scores, seconds) == pytest.approx((0.5 + 0.5 * (faster * higher)[faster != 0]).mean())


@pytest.mark.parametrize(
    ("scores", "seconds", "count", "expected"),
    [
        (of(4, 3, 2, 1), of(1, 2, 3, 4), 2, 1.0),
        (of(4, 1, 3, 2), of(1, 2, 3, 4), 2, 0.5),
        (of(1, 2, 3, 4), of(1, 2, 3, 4), 2, 0.0),
        (of(0, 0, 0, 0), of(1, 2, 3, 4), 1, 0.25),  # drawn by lot
        (of(4, 2, 2, 1), of(1, 2, 3, 4), 2, 0.75),
        (of(1, 4, 3, 2), of(1, 1, 1, 4), 1, 1.0),  # as fast as the fastest
        (of(NAN, 3, 2, 1), of(1, 2, 3, 4), 2, 0.5),
        (of(4, 3), of(1, 2), 2, NAN),  # any scores have both
    ],
)
def test_recall(scores: np.ndarray, seconds: np.ndarray, count: int, expected: float) -> None:
    assert recall_at(scores, seconds, count) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "seconds", "count", "expected"),
    [
        (of(3, 2, 1), of(1, 2, 3), 1, 0.0),
        (of(1, 3, 2), of(1, 1.5, 3), 1, 0.5),
        (of(1, 2, 3), of(1, 2, 3), 2, 1.0),
        (of(0, 0, 0), of(1, 2, 3), 1, 1.0),  # drawn by lot: 0, 1 or 2
        (of(NAN, 0, NAN), of(1, 2, 3), 1, 1.0),
        (of(1, 2), of(1, 2), 5, 0.0),
        (of(2, 1), of(0, 2), 1, NAN),
    ],
)
def test_regret(scores: np.ndarray, seconds: np.ndarray, count: int, expected: float) -> None:
    assert top_regret(scores, seconds, count) == pytest.approx(expected, nan_ok=True)


@given(
    scores=st.lists(st.integers(0, 2), min_size=2, max_size=6),
    seconds=st.lists(st.integers(1, 4), min_size=6, max_size=6),
    count=st.integers(1, 5),
)
def test_ties_are_what_lots_give_on_average(scores: list[int], seconds: list[int], count: int) -> None:
    """Against all orders of the programs, each with ties broken by place."""
    times = seconds[: len(scores)]
    limit = sorted(times)[min(count, len(times)) - 1]
    recalls, regrets = [], []
    for order in itertools.permutations(range(len(scores))):
        top = sorted(order, key=lambda i: -scores[i])[:count]
        recalls.append(sum(times[i] <= limit for i in top) / count)
        regrets.append(min(times[i] for i in top) / min(times) - 1)
    s, t = of(*scores), of(*times)
    assert top_regret(s, t, count) == pytest.approx(np.mean(regrets))
    if len(scores) > count:
        assert recall_at(s, t, count) == pytest.approx(np.mean(recalls))


def test_failures_do_not_count() -> None:
    scores, seconds = of(9, *range(12, 0, -1)), of(NAN, *range(1, 13))
    assert quality(scores, seconds) == Quality(1.0, 1.0, 0.0)


@pytest.mark.parametrize("seconds", [of(), of(NAN, NAN), of(1, NAN)])
def test_too_few_latencies(seconds: np.ndarray) -> None:
    found = quality(np.zeros(len(seconds)), seconds)
    assert all(math.isnan(value) for value in vars(found).values())


def test_evaluate() -> None:
    train, test = task_data(0, 200), task_data(1, 100)
    model = XGBoostModel()
    model.fit([train.nest], [train.seconds])
    found = evaluate(model, [train, test, task_data(2, 1)])
    assert found[0].pairwise_accuracy > found[1].pairwise_accuracy > 0.7
    assert math.isnan(found[2].pairwise_accuracy)


def test_bootstrap() -> None:
    assert bootstrap([2.0, 2.0, NAN]) == (2.0, 2.0, 2.0)
    mean, low, high = bootstrap([0.0, 1.0] * 50)
    assert mean == 0.5
    assert 0.38 < low < 0.42 < 0.58 < high < 0.62
    uneven = np.random.default_rng(0).random(9).tolist()
    assert bootstrap(uneven) == bootstrap(uneven) != bootstrap(uneven, seed=1)
    assert all(math.isnan(value) for value in bootstrap([NAN]))
