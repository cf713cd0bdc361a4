from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilewright.sample.diversity import Diversity
from tilewright.space.space import Configs


def coverage(configs: Configs) -> int:
    return sum(len(np.unique(column)) for column in configs.T)


def test_the_best_comes_first_and_copies_of_it_come_last() -> None:
    configs = np.asarray([[0, 0], [0, 1], [1, 1], [2, 2]], dtype=np.int32)
    picked = Diversity().pick(configs, np.asarray([1.0, 0.9, 0.1, 0.0]), 4)
    assert picked.tolist() == [[0, 0], [1, 1], [2, 2], [0, 1]]


def test_without_weight_it_is_the_order_of_the_scores() -> None:
    configs = np.asarray([[0, 0], [0, 1], [1, 1], [2, 2]], dtype=np.int32)
    picked = Diversity(weight=0.0).pick(configs, np.asarray([-7.0, -3.0, -9.0, -1.0]), 3)
    assert picked.tolist() == [[2, 2], [0, 1], [0, 0]]


def test_the_unit_of_the_scores_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    configs = rng.integers(0, 6, size=(60, 4), dtype=np.int32)
    scores = rng.standard_normal(60)
    assert (Diversity().pick(configs, scores, 20) == Diversity().pick(configs, 1000 * scores - 3, 20)).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_the_greedy_pick_is_within_its_bound_of_the_best_subset(seed: int, count: int) -> None:
    configs = np.random.default_rng(seed).integers(0, 4, size=(8, 3), dtype=np.int32)
    greedy = coverage(Diversity().pick(configs, np.zeros(8), count))
    best = max(coverage(configs[list(rows)]) for rows in itertools.combinations(range(8), count))
    assert greedy >= (1.0 - 1.0 / np.e) * best


def test_more_choices_are_covered_than_by_the_top() -> None:
    rng = np.random.default_rng(0)
    configs = rng.integers(0, 8, size=(128, 6), dtype=np.int32)
    scores = -configs[:, 0].astype(np.float64)
    assert coverage(Diversity().pick(configs, scores, 16)) > coverage(configs[np.argsort(-scores)[:16]])


def test_no_knobs_is_survived() -> None:
    assert Diversity().pick(np.zeros((1, 0), dtype=np.int32), np.zeros(1), 3).shape == (1, 0)
