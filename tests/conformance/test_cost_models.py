"""What every cost model keeps. A new model joins with one line in ``COST_MODELS``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import TableSpace
from tilewright.cost.ensemble import Ensemble
from tilewright.cost.gcn import GCNModel
from tilewright.cost.mlp import MLPModel
from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.cost.xgb import XGBoostModel
from tilewright.space.configs import knob_values, sample

#: Each is given a seed.
COST_MODELS: dict[str, Callable[[int], CostModel]] = {
    "xgb-rank": lambda seed: XGBoostModel("rank", seed=seed),
    "xgb-regression": lambda seed: XGBoostModel("regression", seed=seed),
    "xgb-curves": lambda seed: XGBoostModel("rank", seed=seed, view="both"),
    "xgb-ensemble": lambda seed: Ensemble(lambda each: XGBoostModel("regression", seed=each), 3, seed),
}
if find_spec("torch") is not None:
    COST_MODELS |= {
        "mlp-rank": lambda seed: MLPModel("rank", seed=seed),
        "mlp-regression": lambda seed: MLPModel("regression", seed=seed),
    }
if find_spec("torch_geometric") is not None:
    COST_MODELS |= {
        "gcn-mean": lambda seed: GCNModel("rank", pooling="mean", hidden=(16, 16), seed=seed),
        "gcn-attention": lambda seed: GCNModel("rank", pooling="attention", hidden=(16, 16), seed=seed),
        "gcn-regression": lambda seed: GCNModel("regression", pooling="attention", seed=seed),
    }
SPACE = TableSpace()
VIEWS = {"loop nest": True, "knobs": False}

models = pytest.mark.parametrize("model", COST_MODELS)
views = pytest.mark.parametrize("view", VIEWS)


def programs(view: str, seed: int, count: int) -> tuple[Programs, NDArray[np.float64]]:
    """Random programs of the table space as a model sees them, and their latencies."""
    configs = sample(SPACE, np.random.default_rng(seed), count)
    seen = SPACE.loop_nest(configs) if VIEWS[view] else KnobTable(knob_values(SPACE, configs))
    return seen, SPACE.seconds(configs)


def agreement(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """The share of pairs that are in the right order; 0.5 is chance."""
    faster = seconds[:, None] < seconds[None, :]
    return float((scores[:, None] > scores[None, :])[faster].mean())


def fit(model: str, view: str, count: int, seed: int = 0) -> CostModel:
    fitted = COST_MODELS[model](seed)
    seen, seconds = programs(view, 0, count)
    fitted.fit([seen], [seconds])
    return fitted


def digest(model: str) -> str:
    scores = fit(model, "loop nest", 100, seed=5).predict(programs("loop nest", 1, 50)[0])
    return hashlib.sha256(scores.tobytes()).hexdigest()


@models
@views
def test_unmeasured_programs_are_put_in_order(model: str, view: str) -> None:
    fitted = fit(model, view, 200)
    assert fitted.ready
    test, seconds = programs(view, 1, 500)
    scores = fitted.predict(test)
    assert scores.shape == (500,)
    assert scores.dtype == np.float64
    assert agreement(scores, seconds) > 0.75


@models
def test_failures_are_not_predicted_to_be_fast(model: str) -> None:
    configs = sample(SPACE, np.random.default_rng(0), 300)
    seconds = SPACE.seconds(configs)
    failed = SPACE.factors(configs)[:, 4] >= 32
    fitted = COST_MODELS[model](0)
    fitted.fit([SPACE.loop_nest(configs)], [np.where(failed, np.nan, seconds)])
    scores = fitted.predict(SPACE.loop_nest(configs))
    assert failed.mean() > 0.2
    assert failed[np.argsort(-scores)[:64]].sum() <= 1


@models
def test_tasks_of_different_scale_do_not_disturb_each_other(model: str) -> None:
    fitted = COST_MODELS[model](0)
    parts = [programs("loop nest", seed, 100) for seed in range(3)]
    fitted.fit([p for p, _ in parts], [s * scale for (_, s), scale in zip(parts, (1.0, 1e-3, 1e3), strict=True)])
    test, seconds = programs("loop nest", 9, 300)
    assert agreement(fitted.predict(test), seconds) > 0.75


@models
def test_before_any_fit_nothing_is_preferred(model: str) -> None:
    fresh = COST_MODELS[model](0)
    assert not fresh.ready
    assert (fresh.predict(programs("knobs", 0, 5)[0]) == 0.0).all()


@models
@pytest.mark.parametrize("count", [0, 1, 30])
def test_nothing_but_failures_leaves_the_model_unready(model: str, count: int) -> None:
    fitted = COST_MODELS[model](0)
    fitted.fit([], [])
    fitted.fit([programs("knobs", 0, count)[0]], [np.full(count, np.nan)])
    assert not fitted.ready
    assert len(fitted.predict(programs("knobs", 0, 5)[0])) == 5


@models
def test_a_fit_replaces_what_was_learnt(model: str) -> None:
    table, seconds = programs("loop nest", 0, 100)
    fitted = COST_MODELS[model](0)
    fitted.fit([table], [1.0 / seconds])
    fitted.fit([table], [seconds])
    fresh = COST_MODELS[model](0)
    fresh.fit([table], [seconds])
    assert (fitted.predict(table) == fresh.predict(table)).all()


@models
def test_small_and_empty_tasks_are_survived(model: str) -> None:
    fitted = COST_MODELS[model](0)
    parts = [programs("knobs", count, count) for count in (0, 1, 2, 90)]
    fitted.fit([p for p, _ in parts], [s for _, s in parts])
    assert fitted.ready
    assert fitted.predict(programs("knobs", 0, 0)[0]).shape == (0,)


def digests() -> dict[str, str]:
    """For a comparison with another process."""
    return {name: digest(name) for name in COST_MODELS}


@models
def test_same_seed_same_scores_in_another_process(model: str, elsewhere: dict[str, dict[str, str]]) -> None:
    assert elsewhere["test_cost_models"][model] == digest(model) == digest(model)
