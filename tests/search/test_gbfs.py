"""Greedy best-first search expands the fastest first, by as many neighbours as said."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain
from tilewright.search.gbfs import GreedyBestFirst
from tilewright.space.configs import sample
from tilewright.space.space import Configs

SPACE = ToySpace(plain(*[10] * 8))


def latency(configs: Configs) -> NDArray[np.float64]:
    """Seconds: 1 ms where every knob is at 7."""
    return np.asarray(1e-3 * (1.0 + np.abs(configs - 7).sum(axis=1)))


def distance(left: Configs, right: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.asarray(np.abs(left - right).sum(axis=1))


@pytest.mark.parametrize("breadth", [1, 5, 8])
def test_the_fastest_is_expanded_first_and_then_the_next(breadth: int) -> None:
    search = GreedyBestFirst(SPACE, np.random.default_rng(0), breadth=breadth)
    told = np.asarray([[2] * 8, [6] * 8, [4] * 8], dtype=np.int32)
    search.tell(told, latency(told))
    found = search.ask(3 * breadth)
    for part, centre in enumerate((6, 4, 2)):
        near = found[part * breadth : (part + 1) * breadth]
        assert (distance(near, np.full(8, centre, dtype=np.int32)) == 1).all()


def test_a_failure_is_not_expanded() -> None:
    search = GreedyBestFirst(SPACE, np.random.default_rng(0))
    told = np.asarray([[2] * 8, [6] * 8], dtype=np.int32)
    search.tell(told, np.asarray([1.0, np.nan]))
    assert (distance(search.ask(10), told[0]) == 1).all()


def test_it_descends() -> None:
    search = GreedyBestFirst(SPACE, np.random.default_rng(0))
    best = np.inf
    for _ in range(60):
        batch = search.ask(5)
        search.tell(batch, latency(batch))
        best = min(best, float(latency(batch).min()))
    assert best <= 3e-3


def test_a_scorer_chooses_where_to_begin_and_where_to_go() -> None:
    search = GreedyBestFirst(SPACE, np.random.default_rng(0), lambda configs: -latency(configs))
    first = search.ask(9)[1:]
    chance = sample(SPACE, np.random.default_rng(1), 512)
    assert latency(first).max() < np.quantile(latency(chance), 0.1)
    search.tell(first, latency(first))
    fastest = first[latency(first).argmin()]
    step = search.ask(3)
    assert (distance(step, fastest) == 1).all()
    assert (latency(step) < latency(fastest[None])).all()


def test_what_is_told_again_is_not_expanded_again() -> None:
    search = GreedyBestFirst(SPACE, np.random.default_rng(0), breadth=5)
    told = np.asarray([[6] * 8, [4] * 8], dtype=np.int32)
    search.tell(told, latency(told))
    search.ask(5)
    search.tell(told, 0.99 * latency(told))  # readings of the task were corrected
    assert (distance(search.ask(5), np.full(8, 4, dtype=np.int32)) == 1).all()


def test_an_expansion_that_the_batch_cut_short_goes_on() -> None:
    search = GreedyBestFirst(SPACE, np.random.default_rng(0), breadth=5)
    told = np.asarray([[6] * 8, [2] * 8], dtype=np.int32)
    search.tell(told, latency(told))
    found = np.concatenate([search.ask(3), search.ask(3)])
    assert (distance(found, np.full(8, 6, dtype=np.int32)) == 1).all()
