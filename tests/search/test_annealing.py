"""Simulated annealing climbs, spares the scorer, and heeds its parameters."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain, toy_spaces
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.space.configs import ConfigSet, distinct, empty, neighbours
from tilewright.space.space import Configs

SPACE = ToySpace(plain(*[10] * 8))


class Recorder:
    """A scorer that remembers what it was asked: minus the distance from a target, so 0 is the best."""

    def __init__(self, target: int = 7) -> None:
        self.target = target
        self.calls: list[Configs] = []

    def __call__(self, configs: Configs) -> NDArray[np.float64]:
        self.calls.append(configs.copy())
        distance: NDArray[np.float64] = np.abs(configs.astype(np.float64) - self.target).sum(axis=1)
        return -distance

    def rows(self) -> Configs:
        return np.concatenate(self.calls)


def told(
    scorer: Recorder,
    space: ToySpace = SPACE,
    *,
    chains: int = 128,
    steps: int = 500,
    patience: int = 50,
    temperature: float = 1.0,
) -> SimulatedAnnealing:
    """A search after its first, random round."""
    rng = np.random.default_rng(0)
    search = SimulatedAnnealing(
        space, rng, scorer, chains=chains, steps=steps, patience=patience, temperature=temperature
    )
    search.tell(search.ask(8), np.ones(8))
    return search


def test_the_first_round_does_not_ask_the_scorer() -> None:
    scorer = Recorder()
    search = SimulatedAnnealing(SPACE, np.random.default_rng(0), scorer)
    search.ask(8)
    search.tell(empty(SPACE), np.empty(0))
    search.ask(8)
    assert scorer.calls == []


def test_the_optimum_of_10_to_the_8_is_found_and_comes_first() -> None:
    found = told(Recorder()).ask(16)
    scores = Recorder()(found)
    assert (found[0] == 7).all()
    assert (np.diff(scores) <= 0.0).all()
    assert scores[-1] >= -2.0  # all 16 within two steps of the optimum


def test_what_was_seen_is_passed_through_but_not_proposed() -> None:
    search = told(Recorder())
    ring = np.concatenate([np.full((1, 8), 7, dtype=np.int32), neighbours(SPACE, np.full(8, 7, dtype=np.int32))])
    search.tell(ring, np.ones(len(ring)))
    found = search.ask(16)
    known = ConfigSet()
    known.add(ring)
    assert not known.has(found).any()
    assert Recorder()(found).max() == -2.0  # next to the ring


def test_each_valid_config_is_scored_once_per_ask() -> None:
    space = toy_spaces()["half valid"]
    scorer = Recorder(2)
    search = told(scorer, space)
    for _ in range(2):
        scorer.calls.clear()
        search.ask(4)
        rows = scorer.rows()
        assert space.valid(rows).all()
        assert len(distinct(rows)) == len(rows)


def test_chains_persist_but_follow_a_changed_model() -> None:
    scorer = Recorder(7)
    search = told(scorer)
    search.ask(16)
    scorer.calls.clear()
    search.ask(16)
    # Chains begin where they ended: near the optimum, not at random (distance 25 on average).
    assert np.abs(scorer.calls[0] - 7).sum(axis=1).mean() < 12
    scorer.target = 1
    assert (search.ask(16)[0] == 1).all()


@pytest.mark.parametrize("steps", [0, 1, 10])
def test_steps_bound_the_walk(steps: int) -> None:
    scorer = Recorder()
    assert len(told(scorer, steps=steps).ask(8)) == 8
    assert len(scorer.calls) == steps + 1


def test_patience_ends_the_walk_early() -> None:
    lengths = []
    for patience in (1, 20, 10_000):
        scorer = Recorder()
        told(scorer, patience=patience, steps=300).ask(4)
        lengths.append(len(scorer.calls))
    assert lengths[0] < lengths[1] < lengths[2] == 301


def test_chains_are_as_many_as_said() -> None:
    scorer = Recorder()
    told(scorer, chains=5).ask(4)
    assert all(len(rows) <= 5 for rows in scorer.calls)
    assert len(scorer.calls[0]) == 5


def test_heat_makes_chains_wander() -> None:
    spread = []
    for temperature in (0.0, 100.0):
        scorer = Recorder()
        told(scorer, temperature=temperature, patience=10_000, steps=100).ask(4)
        spread.append(float(np.mean([-scorer(rows).mean() for rows in scorer.calls[50:60]])))
    assert spread[0] < 0.7 * spread[1]


def test_a_score_that_is_always_negative_is_no_reason_to_stop() -> None:
    scorer = Recorder()
    search = SimulatedAnnealing(SPACE, np.random.default_rng(0), lambda configs: scorer(configs) - 100.0)
    search.tell(search.ask(8), np.ones(8))
    assert (search.ask(8)[0] == 7).all()


def test_an_informed_scorer_is_asked_before_the_first_tell() -> None:
    for informed in (False, True):
        scorer = Recorder()
        first = SimulatedAnnealing(SPACE, np.random.default_rng(0), scorer, informed=informed).ask(16)
        assert bool(scorer.calls) == informed
        assert (np.median(np.abs(first - 7).sum(axis=1)) <= 4) == informed
