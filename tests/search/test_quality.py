"""Searchers find a known optimum with few measurements, which random search does not: on a toy and on real tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench._arms import name_arm
from bench.search import Cell, run, speed_after
from tests.toys import TableSpace
from tilewright.cost.xgb import XGBoostModel
from tilewright.methods.parts import SEARCHERS
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.search.random import RandomSearch
from tilewright.search.searcher import Searcher
from tilewright.space.configs import empty, sample

SPACE = TableSpace()
EVERY = sample(SPACE, np.random.default_rng(0), 10_000)
OPTIMUM = float(SPACE.seconds(EVERY).min())
SEEDS = range(10)
TRIALS, BATCH = 128, 32
RECORDED = Path(__file__).parents[2] / "bench" / "tables"
#: How much nearer to the optimum's speed than random search, which has 0.87. Over ten seeds of all ten tables
#: annealing, PPO and our own are nearer by 0.05, 0.06 and 0.08 (bench.search).
MARGINS = {"annealing": 0.04, "ppo": 0.05, "bayesian": 0.06}


def speed_found(searcher: Searcher, model: XGBoostModel | None) -> float:
    """The best of 128 measurements as a share of the optimum's speed."""
    configs = empty(SPACE)
    while len(configs) < TRIALS:
        batch = searcher.ask(BATCH)
        searcher.tell(batch, SPACE.seconds(batch))
        configs = np.concatenate([configs, batch])
        if model is not None:
            model.fit([SPACE.loop_nest(configs)], [SPACE.seconds(configs)])
    assert len(configs) == TRIALS
    return OPTIMUM / float(SPACE.seconds(configs).min())


def guided(seed: int) -> float:
    model = XGBoostModel(seed=seed)
    rng = np.random.default_rng(seed)
    return speed_found(SimulatedAnnealing(SPACE, rng, lambda c: model.predict(SPACE.loop_nest(c))), model)


def test_the_table_is_what_it_is_said_to_be() -> None:
    assert len(EVERY) == 7398
    # Chance does not do it: one config in 1,200 is within 5 %.
    assert (SPACE.seconds(EVERY) < OPTIMUM / 0.95).sum() == 6


def test_annealing_comes_within_five_percent_of_the_optimum_and_beats_random() -> None:
    found = np.asarray([guided(seed) for seed in SEEDS])
    chance = np.asarray([speed_found(RandomSearch(SPACE, np.random.default_rng(seed)), None) for seed in SEEDS])
    assert np.median(found) >= 0.95
    assert np.median(found) > np.median(chance)
    assert (found >= chance).sum() >= 8


TABLES = ("conv1x1-256-64-56", "dense-512x512x512", "depthwise3x3-256-28")


def on_tables(searcher: str) -> float:
    """The mean speed after 64 trials, of the optimum's: recorded tables, 4 fixed seeds each, rounds of 16."""
    found = [
        speed_after(run(RECORDED / f"{table}.parquet", Cell(table, name_arm(searcher, "top"), 16, seed), 64), 64)
        for table in TABLES
        for seed in range(4)
    ]
    return float(np.mean(found))


@pytest.fixture(scope="module")
def by_chance() -> float:
    return on_tables("random")


@pytest.mark.parametrize(("searcher", "margin"), MARGINS.items())
def test_on_recorded_tables_a_searcher_beats_random_by_its_margin(
    searcher: str, margin: float, by_chance: float
) -> None:
    if SEARCHERS[searcher].module:
        pytest.importorskip(SEARCHERS[searcher].module)
    assert on_tables(searcher) >= by_chance + margin
