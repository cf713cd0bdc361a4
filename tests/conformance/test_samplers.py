"""What every sampler keeps, with every searcher. A new sampler joins with one line in ``SAMPLERS``."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.test_searchers import SEARCHERS, SPACES, latency, make, score
from tests.toys import ToySpace
from tilewright.sample.adaptive import Adaptive
from tilewright.sample.diversity import Diversity
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.sampler import Sampler
from tilewright.sample.top import TopK
from tilewright.space.configs import ConfigSet, Contains, distinct, sample
from tilewright.space.space import Configs

#: Each is given the space, randomness, and what was measured.
SAMPLERS: dict[str, Callable[[ToySpace, np.random.Generator, Contains], Sampler]] = {
    "top": lambda space, rng, measured: TopK(),
    "epsilon-greedy": lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured),
    "epsilon-greedy-diversity": lambda space, rng, measured: EpsilonGreedy(space, rng, Diversity(), measured, 0.3),
    "diversity": lambda space, rng, measured: Diversity(),
    "adaptive": lambda space, rng, measured: Adaptive(space, rng, measured),
}
#: Those that may pick fewer than there are.
SPARING = {"adaptive"}

ROOT = Path(__file__).parents[2]
samplers = pytest.mark.parametrize("sampler", SAMPLERS)
spaces = pytest.mark.parametrize("space", SPACES)


def nothing(configs: Configs) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.zeros(len(configs), dtype=np.bool_)


def run(searcher: str, sampler: str, space: str, seed: int) -> list[Configs]:
    """What is measured in each round of a run, until the searcher has no more."""
    measured = ConfigSet()
    search = make(searcher, space, seed)
    choose = SAMPLERS[sampler](SPACES[space], np.random.default_rng(seed + 1), measured.has)
    batches: list[Configs] = []
    for _ in range(8):
        proposals = search.ask(math.ceil(12 * choose.oversampling))
        batch = choose.pick(proposals, score(proposals), 12)
        batches.append(batch)
        measured.add(batch)
        search.tell(batch, latency(batch))
        if len(proposals) == 0:
            break
    return batches


def digest(searcher: str, sampler: str, space: str, seed: int) -> str:
    return hashlib.sha256(b"".join(b.tobytes() for b in run(searcher, sampler, space, seed))).hexdigest()


@pytest.mark.parametrize("searcher", SEARCHERS)
@samplers
@spaces
def test_what_is_measured_is_valid_and_new_and_in_bounds(searcher: str, sampler: str, space: str) -> None:
    batches = run(searcher, sampler, space, seed=1)
    assert all(len(batch) <= 12 and batch.dtype == np.int32 for batch in batches)
    every = np.concatenate(batches)
    assert SPACES[space].valid(every).all()
    assert len(distinct(every)) == len(every) > 0


@samplers
@pytest.mark.parametrize("count", [0, 1, 40, 100])
def test_as_many_as_there_are_and_no_more(sampler: str, count: int) -> None:
    space = SPACES["table"]
    proposals = sample(space, np.random.default_rng(0), 40)
    choose = SAMPLERS[sampler](space, np.random.default_rng(1), nothing)
    picked = choose.pick(proposals, score(proposals), count)
    assert (min(count, 1) if sampler in SPARING else min(count, 40)) <= len(picked) <= count
    assert len(distinct(picked)) == len(picked)


@samplers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
def test_scores_without_meaning_are_survived(sampler: str, value: float) -> None:
    space = SPACES["table"]
    proposals = sample(space, np.random.default_rng(0), 40)
    choose = SAMPLERS[sampler](space, np.random.default_rng(1), nothing)
    assert len(distinct(choose.pick(proposals, np.full(40, value), 16))) == 16


@samplers
def test_nan_is_never_better_than_a_prediction(sampler: str) -> None:
    space = SPACES["one knob"]  # no two proposals share a choice, so diversity has no say
    proposals = np.arange(7, dtype=np.int32)[:, None]
    scores = np.asarray([np.nan, 3.0, 2.0, np.nan, -5.0, np.nan, 1.0])
    picked = SAMPLERS[sampler](space, np.random.default_rng(0), nothing).pick(proposals, scores, 3)
    assert picked.ravel().tolist() == [1, 2, 6]


@samplers
def test_oversampling_is_at_least_one(sampler: str) -> None:
    assert SAMPLERS[sampler](SPACES["table"], np.random.default_rng(0), nothing).oversampling >= 1.0


@samplers
@spaces
def test_same_seed_same_picks(sampler: str, space: str) -> None:
    assert digest("random", sampler, space, 3) == digest("random", sampler, space, 3)


def test_same_seed_same_picks_in_another_process() -> None:
    names = [("random", sampler, "10^12") for sampler in SAMPLERS]
    program = f"from tests.conformance.test_samplers import digest\nfor n in {names}: print(digest(*n, 4))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == [digest(*name, 4) for name in names]
