"""What every sampler keeps, with every searcher. A new sampler joins with one line in ``SAMPLERS``."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.conformance.test_searchers import SEARCHERS, SPACES, latency, score
from tests.space.strategies import HUGE, LONELY, MIXED, ONE_CONFIG, ONE_KNOB, Recipe, recipes
from tests.toys import SwitchedSpace, ToySpace
from tilewright.sample.adaptive import Adaptive
from tilewright.sample.diversity import Diversity
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.sampler import Sampler
from tilewright.sample.top import TopK
from tilewright.space.configs import ConfigSet, Contains, distinct, sample, size
from tilewright.space.space import Configs

#: Each is given the space, randomness, and what was measured.
SAMPLERS: dict[str, Callable[[ToySpace, np.random.Generator, Contains], Sampler]] = {
    "top": lambda space, rng, measured: TopK(),
    "epsilon-greedy": lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured),
    "epsilon-greedy-diversity": lambda space, rng, measured: EpsilonGreedy(space, rng, Diversity(), measured, 0.3),
    "epsilon-greedy-adaptive": lambda space, rng, measured: EpsilonGreedy(
        space, rng, Adaptive(space, rng, measured), measured, 0.3
    ),
    "diversity": lambda space, rng, measured: Diversity(),
    "adaptive": lambda space, rng, measured: Adaptive(space, rng, measured),
}
#: Those that decide themselves how many are worth measuring: at least one of what is proposed, and at most the count.
#: All others pick as many as they can.
SPARING = {"adaptive", "epsilon-greedy-adaptive"}

samplers = pytest.mark.parametrize("sampler", SAMPLERS)
searchers = pytest.mark.parametrize("searcher", SEARCHERS)


def nothing(configs: Configs) -> NDArray[np.bool_]:
    return np.zeros(len(configs), dtype=np.bool_)


def failing(configs: Configs) -> NDArray[np.float64]:
    return np.full(len(configs), np.nan)


def fewest(sampler: str, count: int, there: int) -> int:
    """How many have to be picked of so many proposals."""
    return min(count, there, 1) if sampler in SPARING else min(count, there)


def run(
    searcher: str,
    sampler: str,
    space: ToySpace,
    seed: int,
    rounds: int = 4,
    seconds: Callable[[Configs], NDArray[np.float64]] = latency,
    count: int = 12,
) -> list[Configs]:
    """What is measured in each round of a run, until the searcher has no more."""
    measured = ConfigSet()
    search = SEARCHERS[searcher](space, np.random.default_rng(seed), score)
    choose = SAMPLERS[sampler](space, np.random.default_rng(seed + 1), measured.has)
    batches: list[Configs] = []
    for _ in range(rounds):
        proposals = search.ask(math.ceil(count * choose.oversampling))
        if len(proposals) == 0:
            return batches
        batch = choose.pick(proposals, score(proposals), count)
        assert fewest(sampler, count, len(proposals)) <= len(batch) <= count
        assert batch.dtype == np.int32
        batches.append(batch)
        measured.add(batch)
        search.tell(batch, seconds(batch))
    return batches


def digest(searcher: str, sampler: str, space: ToySpace, seed: int) -> str:
    return hashlib.sha256(b"".join(b.tobytes() for b in run(searcher, sampler, space, seed))).hexdigest()


def choose_runs() -> list[tuple[str, str, str]]:
    """Searchers, samplers and spaces: each sampler in each space with two searchers, and each searcher in each space.

    The latter meets another sampler in the next space. Tests below have each searcher with each sampler.
    """
    runs = list(itertools.product(("random", "genetic"), SAMPLERS, SPACES))
    names = list(SAMPLERS)
    for first, searcher in enumerate(SEARCHERS):
        runs += [(searcher, names[(first + place) % len(names)], space) for place, space in enumerate(SPACES)]
    return list(dict.fromkeys(runs))


@pytest.mark.parametrize(("searcher", "sampler", "space"), choose_runs())
def test_what_is_measured_is_valid_and_new_and_in_bounds(searcher: str, sampler: str, space: str) -> None:
    every = np.concatenate(run(searcher, sampler, SPACES[space], seed=1))
    assert SPACES[space].valid(every).all()
    assert len(distinct(every)) == len(every) > 0


def check_all_is_measured_once(searcher: str, sampler: str, space: ToySpace, seed: int, *, works: bool) -> None:
    exists = sample(space, np.random.default_rng(0), size(space))
    batches = run(searcher, sampler, space, seed, len(exists) + 1, latency if works else failing)
    every = np.concatenate(batches)
    assert space.valid(every).all()
    assert len(distinct(every)) == len(every) == len(exists)


@searchers
@samplers
@pytest.mark.parametrize("space", [SPACES["no knob"], SwitchedSpace(3, 3, 3, 2)], ids=["no knob", "idle knobs"])
def test_it_ends_with_the_space(searcher: str, sampler: str, space: ToySpace) -> None:
    check_all_is_measured_once(searcher, sampler, space, 2, works=True)


@searchers
@samplers
@given(recipe=recipes(most=40), seed=st.integers(0, 99), works=st.booleans())
@example(recipe=ONE_CONFIG, seed=0, works=True)
@example(recipe=ONE_KNOB, seed=0, works=False)
@example(recipe=LONELY, seed=0, works=False)
@settings(max_examples=2)
def test_it_ends_with_any_space(searcher: str, sampler: str, recipe: Recipe, seed: int, works: bool) -> None:
    check_all_is_measured_once(searcher, sampler, recipe.space(), seed, works=works)


@searchers
@samplers
@pytest.mark.parametrize("seconds", [latency, failing], ids=["some fail", "all fail"])
def test_a_space_without_end(searcher: str, sampler: str, seconds: Callable[[Configs], NDArray[np.float64]]) -> None:
    space = HUGE.space()
    assert size(space) > 10**12
    every = np.concatenate(run(searcher, sampler, space, 3, 3, seconds))
    assert space.valid(every).all()
    assert len(distinct(every)) == len(every) > 0


@samplers
@pytest.mark.parametrize("count", [0, 1, 40, 100])
def test_as_many_as_there_are_and_no_more(sampler: str, count: int) -> None:
    space = SPACES["table"]
    proposals = sample(space, np.random.default_rng(0), 40)
    choose = SAMPLERS[sampler](space, np.random.default_rng(1), nothing)
    picked = choose.pick(proposals, score(proposals), count)
    assert fewest(sampler, count, 40) <= len(picked) <= count
    assert len(distinct(picked)) == len(picked)


@samplers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_scores_without_meaning_are_survived(sampler: str, value: float) -> None:
    space = SPACES["table"]
    proposals = sample(space, np.random.default_rng(0), 40)
    choose = SAMPLERS[sampler](space, np.random.default_rng(1), nothing)
    picked = choose.pick(proposals, np.full(40, value), 16)
    assert fewest(sampler, 16, 40) <= len(picked) <= 16
    assert len(distinct(picked)) == len(picked)
    assert space.valid(picked).all()


@samplers
def test_nan_is_never_better_than_a_prediction(sampler: str) -> None:
    space = SPACES["one knob"]  # no two proposals share a choice, so diversity has no say
    proposals = np.arange(7, dtype=np.int32)[:, None]
    scores = np.asarray([np.nan, 3.0, 2.0, np.nan, -5.0, np.nan, 1.0])
    picked = SAMPLERS[sampler](space, np.random.default_rng(0), nothing).pick(proposals, scores, 3).ravel().tolist()
    if sampler in SPARING:  # the centre of a cluster need not have the best score of it
        assert set(picked) <= {1, 2, 4, 6}
    else:
        assert picked == [1, 2, 6]


@samplers
def test_a_pick_leaves_what_it_is_given_as_it_is(sampler: str) -> None:
    space = SPACES["table"]
    proposals = sample(space, np.random.default_rng(0), 40)
    scores = score(proposals)
    before = proposals.copy(), scores.copy()
    SAMPLERS[sampler](space, np.random.default_rng(1), nothing).pick(proposals, scores, 16)
    np.testing.assert_array_equal(proposals, before[0])
    np.testing.assert_array_equal(scores, before[1])


@samplers
def test_oversampling_is_at_least_one(sampler: str) -> None:
    assert SAMPLERS[sampler](SPACES["table"], np.random.default_rng(0), nothing).oversampling >= 1.0


@samplers
@pytest.mark.parametrize("space", ["half valid", "idle knobs", "10^12", "table"])
def test_same_seed_same_picks(sampler: str, space: str) -> None:
    assert digest("random", sampler, SPACES[space], 3) == digest("random", sampler, SPACES[space], 3)


def digests() -> dict[str, str]:
    """For a comparison with another process."""
    mixed, huge = MIXED.space(), HUGE.space()
    return {
        **{f"{one}, {other}": digest(one, other, mixed, 4) for one in SEARCHERS for other in SAMPLERS},
        **{f"{sampler}, huge": digest("random", sampler, huge, 4) for sampler in SAMPLERS},
    }


def test_same_seed_same_picks_in_another_process(elsewhere: dict[str, dict[str, str]]) -> None:
    assert elsewhere["test_samplers"] == digests()
