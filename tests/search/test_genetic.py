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


def grown(generations: int, mutation: float = 0.1, elite: int = 3) -> tuple[Genetic, Configs]:
    search = Genetic(SPACE, np.random.default_rng(0), population=40, elite=elite, mutation=mutation)
    told = []
    for _ in range(generations):
        told.append(search.ask(40))
        search.tell(told[-1], latency(told[-1]))
    return search, np.concatenate(told)


def test_generations_get_faster() -> None:
    _, told = grown(8)
    means = latency(told).reshape(8, 40).mean(axis=1)
    assert means[-1] < 0.6 * means[0]


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
    # One choice in ten is the one that was there before; of the last knob both parents' are not counted.
    changed = (search.ask(400)[:, :7] != 0).mean()
    # Children without a change are known, and dropped.
    assert 0.9 * mutation * 0.9 < changed < 1.1 * mutation / (1 - (1 - 0.9 * mutation) ** 7)


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
