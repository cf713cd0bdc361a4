from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.toys import ToySpace, plain
from tilewright.errors import TilewrightError
from tilewright.sample.diversity import Diversity
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.top import TopK
from tilewright.space.configs import ConfigSet, sample
from tilewright.space.space import Configs

SPACE = ToySpace(plain(30, 30))


def nothing(configs: Configs) -> NDArray[np.bool_]:
    return np.zeros(len(configs), dtype=np.bool_)


def greedy(epsilon: float = 0.05, space: ToySpace = SPACE) -> EpsilonGreedy:
    return EpsilonGreedy(space, np.random.default_rng(0), TopK(), nothing, epsilon)


def explored(picked: Configs, proposals: Configs) -> int:
    known = ConfigSet()
    known.add(proposals)
    return int((~known.has(picked)).sum())


def proposals(count: int) -> Configs:
    return sample(SPACE, np.random.default_rng(1), count)


def test_three_of_sixty_four_are_random_and_last() -> None:
    best = proposals(100)
    scores = np.linspace(1.0, 0.0, 100)
    picked = greedy().pick(best, scores, 64)
    assert (picked[:61] == best[:61]).all()
    assert explored(picked[61:], best) == 3


@given(st.floats(0.0, 1.0), st.lists(st.integers(0, 9), min_size=1, max_size=10))
def test_the_share_holds_over_picks_of_any_size(epsilon: float, counts: list[int]) -> None:
    best = proposals(50)
    sampler = greedy(epsilon)
    random = 0
    for count in counts:
        picked = sampler.pick(best, np.zeros(50), count)
        assert len(picked) == count
        random += explored(picked, best)
    assert abs(random - epsilon * sum(counts)) < 1.0


def test_random_configs_are_neither_measured_nor_repeated() -> None:
    measured = ConfigSet()
    measured.add(sample(SPACE, np.random.default_rng(2), 700))
    best = proposals(1)
    sampler = EpsilonGreedy(SPACE, np.random.default_rng(0), TopK(), measured.has, 1.0)
    total = ConfigSet()
    for _ in range(5):
        picked = sampler.pick(best, np.zeros(1), 30)
        assert not measured.has(picked).any()
        assert not total.has(picked).any()
        total.add(picked)
    assert len(total) == 150


def test_where_the_space_has_no_more_the_proposals_take_the_places() -> None:
    space = ToySpace(plain(10))
    best = sample(space, np.random.default_rng(0), 10)
    assert len(greedy(0.5, space).pick(best, np.zeros(10), 8)) == 8


def test_oversampling_is_that_of_the_inner_sampler() -> None:
    assert EpsilonGreedy(SPACE, np.random.default_rng(0), Diversity(3.0), nothing).oversampling == 3.0


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(TilewrightError, match="share of random configs, 0 to 1"):
        greedy(epsilon)
