"""What every searcher keeps, on every toy space. A new searcher joins with one line in ``SEARCHERS``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import ToySpace, plain, toy_spaces
from tilewright.errors import SpaceError
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.search.bayesian import BayesianSearch
from tilewright.search.gbfs import GreedyBestFirst
from tilewright.search.genetic import Genetic
from tilewright.search.random import RandomSearch
from tilewright.search.searcher import Scorer, Searcher
from tilewright.space.configs import ConfigSet, distinct, empty, sample
from tilewright.space.space import Configs

SEARCHERS: dict[str, Callable[[ToySpace, np.random.Generator, Scorer], Searcher]] = {
    "random": lambda space, rng, scorer: RandomSearch(space, rng),
    "annealing": lambda space, rng, scorer: SimulatedAnnealing(space, rng, scorer, steps=30),
    "bayesian": lambda space, rng, scorer: BayesianSearch(space, rng),
    "genetic": lambda space, rng, scorer: Genetic(space, rng, population=20),
    "gbfs": lambda space, rng, scorer: GreedyBestFirst(space, rng),
    "gbfs-guided": lambda space, rng, scorer: GreedyBestFirst(space, rng, scorer),
}
if find_spec("torch") is not None:
    from tilewright.search.na2c import NeighbourhoodActorCritic

    SEARCHERS["na2c"] = lambda space, rng, scorer: NeighbourhoodActorCritic(space, rng)
if find_spec("stable_baselines3") is not None:
    from tilewright.search.ppo import PPOSearch

    SEARCHERS["ppo"] = lambda space, rng, scorer: PPOSearch(space, rng, scorer, walkers=16, steps=8)

SPACES = toy_spaces()
#: How many valid configs there are, where that is soon exhausted.
SMALL = {
    "no knob": 1,
    "one knob": 7,
    "one config": 1,
    "all but one invalid": 1,
    "one of 10^12 valid": 1,
    "half valid": 60,
    "idle knobs": 94,
}

searchers = pytest.mark.parametrize("searcher", SEARCHERS)
spaces = pytest.mark.parametrize("space", SPACES)
small_spaces = pytest.mark.parametrize("space", SMALL)


def score(configs: Configs) -> NDArray[np.float64]:
    """Of any space: negative, rough, best at 0, and nan for some."""
    values = -np.sqrt(configs.astype(np.float64)).sum(axis=1)
    return np.where(configs.sum(axis=1) % 11 == 5, np.nan, values)


def latency(configs: Configs) -> NDArray[np.float64]:
    """In seconds, with failures."""
    return np.where(configs.sum(axis=1) % 7 == 3, np.nan, 1e-3 * (1.0 + configs.sum(axis=1)))


def make(searcher: str, space: str, seed: int = 0, scorer: Scorer = score) -> Searcher:
    return SEARCHERS[searcher](SPACES[space], np.random.default_rng(seed), scorer)


def run(searcher: str, space: str, seed: int, rounds: int = 6, count: int = 16) -> list[Configs]:
    """The batches of a run in which everything that is asked for is measured."""
    search = make(searcher, space, seed)
    batches = []
    for _ in range(rounds):
        batches.append(search.ask(count))
        search.tell(batches[-1], latency(batches[-1]))
    return batches


@cache
def first_run(searcher: str, space: str) -> list[Configs]:
    """A run with seed 1: most tests need one, and some searchers take half a second for it."""
    return run(searcher, space, seed=1)


def digest(batches: Sequence[Configs]) -> str:
    return hashlib.sha256(b"".join(batch.tobytes() for batch in batches)).hexdigest()


@searchers
@spaces
def test_proposals_are_valid_and_new_and_no_more_than_asked_for(searcher: str, space: str) -> None:
    batches = first_run(searcher, space)
    assert all(batch.dtype == np.int32 and batch.shape[1] == len(SPACES[space].knobs) for batch in batches)
    assert all(len(batch) <= 16 for batch in batches)
    every = np.concatenate(batches)
    assert SPACES[space].valid(every).all()
    assert len(distinct(every)) == len(every) > 0


@searchers
@small_spaces
def test_every_config_is_proposed_and_then_none(searcher: str, space: str) -> None:
    batches = run(searcher, space, seed=2, rounds=SMALL[space] // 16 + 3)
    assert sum(len(batch) for batch in batches) == SMALL[space]
    assert len(batches[-1]) == 0


@searchers
@spaces
def test_same_seed_same_run(searcher: str, space: str) -> None:
    assert digest(run(searcher, space, seed=1)) == digest(first_run(searcher, space))


def digests() -> dict[str, str]:
    """For a comparison with another process."""
    names = ("half valid", "10^12", "idle knobs")
    return {f"{searcher}, {space}": digest(first_run(searcher, space)) for searcher in SEARCHERS for space in names}


def test_same_seed_same_run_in_another_process(elsewhere: dict[str, dict[str, str]]) -> None:
    assert elsewhere["test_searchers"] == digests()


@searchers
def test_other_seed_other_run(searcher: str) -> None:
    assert digest(run(searcher, "10^12", seed=2)) != digest(first_run(searcher, "10^12"))


@searchers
def test_nothing_is_proposed_twice_when_nothing_is_told(searcher: str) -> None:
    search = make(searcher, "half valid")
    every = np.concatenate([search.ask(25) for _ in range(4)])
    assert len(distinct(every)) == len(every) == 60


@searchers
def test_records_of_an_earlier_run_are_not_proposed(searcher: str) -> None:
    space = SPACES["half valid"]
    told = sample(space, np.random.default_rng(7), 50)
    search = make(searcher, "half valid")
    search.tell(told, latency(told))
    known = ConfigSet()
    known.add(told)
    proposed = search.ask(60)
    assert len(proposed) == 10
    assert not known.has(proposed).any()


@searchers
def test_failures_only_are_survived(searcher: str) -> None:
    search = make(searcher, "table")
    for _ in range(3):
        batch = search.ask(8)
        assert len(batch) == 8
        search.tell(batch, np.full(8, np.nan))


@searchers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_a_scorer_that_knows_nothing_is_survived(searcher: str, value: float) -> None:
    search = make(searcher, "table", scorer=lambda configs: np.full(len(configs), value))
    for _ in range(3):
        batch = search.ask(8)
        assert len(batch) == 8
        search.tell(batch, latency(batch))


@searchers
@spaces
def test_asking_for_none_gives_none(searcher: str, space: str) -> None:
    search = make(searcher, space)
    search.tell(empty(SPACES[space]), np.empty(0))
    assert search.ask(0).shape == (0, len(SPACES[space].knobs))
    search.tell(SPACES[space].default()[None], np.asarray([1e-3]))
    assert search.ask(0).shape == (0, len(SPACES[space].knobs))


@searchers
def test_rows_of_another_space_are_refused(searcher: str) -> None:
    search = SEARCHERS[searcher](ToySpace(plain(3, 3)), np.random.default_rng(0), score)
    with pytest.raises(SpaceError, match="has indices 0 to 2, but row 0 has 3"):
        search.tell(np.asarray([[3, 0]], dtype=np.int32), np.asarray([1.0]))
