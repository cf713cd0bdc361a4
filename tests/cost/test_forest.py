"""Trees in NumPy: the scores of XGBoost, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from tilewright.cost.forest import Forest
from tilewright.cost.model import KnobTable
from tilewright.cost.trees import pack
from tilewright.cost.xgb import Boosting, XGBoostModel

RNG = np.random.default_rng(0)
#: A few values each, so that programs lie on the trees' thresholds.
DATA = RNG.integers(0, 9, size=(600, 6)).astype(np.float32)
LABELS = DATA[:, 0] + DATA[:, 1] * DATA[:, 2] + 7


def booster(**parameters: Any) -> xgboost.Booster:
    chosen = {"tree_method": "hist", "nthread": 1, "max_depth": 3, **parameters}
    return xgboost.train(chosen, xgboost.DMatrix(DATA, LABELS), 40)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_depth": 1},
        {"gamma": 1e9},  # a leaf each
        {"gamma": 1e3},  # leaves at all depths
        {"base_score": -1.2345678e-7},
        {"objective": "rank:pairwise"},
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2, 7, 600])
def test_the_scores_are_those_of_xgboost(parameters: dict[str, Any], count: int) -> None:
    made, table = booster(**parameters), DATA[:count]
    forest = Forest.of(pack(made))
    assert forest is not None
    assert (forest.predict(table) == made.inplace_predict(table)).all()
    margin = RNG.standard_normal(count)
    assert (forest.predict(table, margin) == made.inplace_predict(table, base_margin=margin)).all()


def test_columns_may_lie_in_any_order() -> None:
    forest = Forest.of(pack(booster()))
    assert forest is not None
    assert (forest.predict(np.asfortranarray(DATA)) == forest.predict(DATA)).all()


def test_deep_trees_are_left_to_xgboost() -> None:
    assert Forest.of(pack(booster(max_depth=4))) is None


def fitted(model: XGBoostModel, labels: NDArray[np.float32] = LABELS) -> XGBoostModel:
    model.fit([KnobTable(DATA)], [1e-3 * labels.astype(np.float64)])
    return model


@pytest.mark.parametrize("depth", [3, 6])
@pytest.mark.parametrize("count", [1, 100])
def test_a_model_scores_the_same_however_often_and_of_how_many_it_is_asked(depth: int, count: int) -> None:
    model = fitted(XGBoostModel(boosting=Boosting(max_depth=depth)))
    every = model.predict(KnobTable(DATA))
    for _ in range(40):
        assert (model.predict(KnobTable(DATA[:count])) == every[:count]).all()
    holes = DATA[:count].copy()
    holes[:, 0] = np.nan
    again = XGBoostModel(boosting=Boosting(max_depth=depth))
    again.restore(model.state())
    assert (model.predict(KnobTable(holes)) == again.predict(KnobTable(holes))).all()


def test_trees_are_forgotten_with_the_next_fit() -> None:
    model, other = fitted(XGBoostModel()), fitted(XGBoostModel(), 20 - LABELS % 7)
    expected = [m.predict(KnobTable(DATA[:50])) for m in (model, other)]
    assert (expected[0] != expected[1]).any()
    for _ in range(40):
        model.predict(KnobTable(DATA[:50]))
    state = model.state()
    fitted(model, 20 - LABELS % 7)
    assert all((model.predict(KnobTable(DATA[:50])) == expected[1]).all() for _ in range(40))
    model.restore(state)
    assert all((model.predict(KnobTable(DATA[:50])) == expected[0]).all() for _ in range(40))
