"""The genetic algorithm keeps its elite, mutates as said, and gets better from generation to generation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain
from tilewright.search.genetic import Genetic
from tilewright.space.configs import sample
from tilewright.space.space import Configs

SPACE = ToySpace(plain(*[10] * 8))


def latency(configs: Configs) -> NDArray[np.float64]:
    """Seconds: 1 ms where every knob is at 7."""
    return np.asarray(1e-3 * (1.0 + np.abs(configs - 7).sum(axis=1)))


def test_generations_get_faster() -> None:
    search = Genetic(SPACE, np.random.default_rng(0), population=40)
    means = []
    for _ in range(12):
        batch = search.ask(40)
        search.tell(batch, latency(batch))
        means.append(float(latency(batch).mean()))
    assert means[-1] < 0.8 * means[0], means


def test_without_mutation_every_knob_comes_from_a_parent() -> None:
    search = Genetic(SPACE, np.random.default_rng(0), population=40, mutation=0.0)
    parents = sample(SPACE, np.random.default_rng(1), 40) // 5 * 5  # only 0 and 5
    search.tell(parents, latency(parents))
    assert np.isin(search.ask(20), [0, 5]).all()


@pytest.mark.parametrize("mutation", [0.1, 0.5])
def test_knobs_change_as_often_as_said(mutation: float) -> None:
    search = Genetic(SPACE, np.random.default_rng(0), population=2, mutation=mutation)
    parents = np.asarray([[0] * 8, [0] * 7 + [1]], dtype=np.int32)
    search.tell(parents, latency(parents))
    children = search._breed(2000)[:, :7]
    # One choice in ten is the one that was there before.
    assert (children != 0).mean() == pytest.approx(0.9 * mutation, rel=0.1)


def test_the_elite_stay_parents_and_the_rest_go() -> None:
    search = Genetic(SPACE, np.random.default_rng(0), population=4, elite=1, mutation=0.0)
    first = np.asarray([[7] * 8, [1] * 8, [2] * 8, [3] * 8], dtype=np.int32)
    search.tell(first, latency(first))
    for value in (4, 5):
        later = np.full((4, 8), value, dtype=np.int32)
        later[:, 0] = range(4)
        search.tell(later, latency(later))
    children = search.ask(8)
    # 7 is in the elite since the first generation; of the other parents only those of the last are left.
    assert (children == 7).any()
    assert np.isin(children[:, 1:], [5, 7]).all()


def test_what_is_told_again_is_no_new_generation() -> None:
    search = Genetic(SPACE, np.random.default_rng(0), population=4, elite=1, mutation=0.0)
    first = np.asarray([[7] * 8, [1] * 8, [2] * 8], dtype=np.int32)
    search.tell(first, latency(first))
    search.tell(first, 0.99 * latency(first))
    search.tell(first, 0.98 * latency(first))
    values = np.unique(search.ask(64))
    assert not np.isin(values, [1, 2, 7]).all()  # still random: three are no generation
    last = np.full((1, 8), 3, dtype=np.int32)
    search.tell(last, latency(last))
    assert np.isin(search.ask(8), [1, 2, 3, 7]).all()
