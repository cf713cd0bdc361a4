"""Trees as arrays: the same scores, and everything refused that would make XGBoost read elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.cost.trees import Trees, pack, unpack

State = dict[str, NDArray[Any]]
DATA = (np.random.default_rng(0).standard_normal((400, 6)) * 8).astype(np.float32)
LABELS = DATA[:, 0] + DATA[:, 1] * DATA[:, 2] + 7


def booster(**parameters: Any) -> xgboost.Booster:
    chosen = {"tree_method": "hist", "nthread": 1, "max_depth": 4, **parameters}
    return xgboost.train(chosen, xgboost.DMatrix(DATA, LABELS), 8)


STATE: State = pack(booster()).arrays()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"gamma": 1e4},  # prunes nodes away
        {"grow_policy": "lossguide", "max_leaves": 7},
        {"base_score": 0.0},
        {"base_score": -1.2345678e-7},
        {"objective": "rank:pairwise"},
    ],
    ids=str,
)
def test_the_scores_are_the_same(parameters: dict[str, Any]) -> None:
    made = booster(**parameters)
    table = DATA.copy()
    table[::3, :2] = np.nan
    for threads in (1, 2):
        again = unpack(pack(made), threads)
        assert (again.inplace_predict(table) == made.inplace_predict(table)).all()
    assert {name: array.tolist() for name, array in pack(again).arrays().items()} == {
        name: array.tolist() for name, array in pack(made).arrays().items()
    }


def changed(name: str, change: Callable[[NDArray[Any]], Any]) -> State:
    array: NDArray[Any] = STATE[name].copy()
    result = change(array)
    return STATE | {name: array if result is None else result}


def put(place: int, value: float) -> Callable[[NDArray[Any]], None]:
    def change(array: NDArray[Any]) -> None:
        array[place] = value

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("left", put(0, 0)),  # a tree that is its own child
        ("left", put(0, 10_000)),
        ("left", put(0, -2)),
        ("left", put(0, -1)),  # half a leaf
        ("left", put(0, 2)),  # two parents
        ("right", put(3, 1)),  # back up
        ("feature", put(0, 6)),
        ("feature", put(-1, -1)),
        ("threshold", put(0, np.nan)),
        ("threshold", put(-1, np.inf)),
        ("default_left", put(0, 7)),
        ("sizes", put(0, 0)),
        ("sizes", put(0, -5)),
        ("sizes", put(0, 2**31 - 1)),
        ("sizes", lambda a: a[:0]),
        ("sizes", lambda a: a[:, None]),
        ("sizes", lambda a: np.roll(a, 1) + 1),
        ("left", lambda a: a[:-1]),
        ("left", lambda a: a.astype(np.int64)),
        ("threshold", lambda a: a.astype(np.float64)),
        ("features", lambda a: np.asarray(0, np.int32)),
        ("features", lambda a: np.asarray(2_000_000_000, np.int32)),
        ("features", lambda a: a[None]),
        ("base", lambda a: np.asarray(np.nan, np.float32)),
        ("base", lambda a: np.asarray("0.5")),
    ],
)
def test_what_is_no_tree_is_refused(name: str, change: Callable[[NDArray[Any]], Any]) -> None:
    with pytest.raises(ValueError, match=r"its|it has"):
        Trees.of(changed(name, change))


@pytest.mark.parametrize("name", STATE)
def test_a_missing_array(name: str) -> None:
    with pytest.raises(KeyError, match=name):
        Trees.of({key: value for key, value in STATE.items() if key != name})


def test_trees_in_the_format_of_before() -> None:
    with pytest.raises(ValueError, match="XGBoost's own format"):
        Trees.of({"trees": np.frombuffer(bytes(booster().save_raw("ubj")), dtype=np.uint8)})


@given(st.data())
def test_any_change_is_refused_or_gives_scores(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(STATE)))
    array = np.atleast_1d(STATE[name].copy())
    content = bytearray(array.tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    state = STATE | {name: np.frombuffer(bytes(content), dtype=array.dtype).reshape(STATE[name].shape)}
    try:
        made = unpack(Trees.of(state), 1)
    except ValueError:
        return
    if int(state["features"]) == DATA.shape[1]:
        assert made.inplace_predict(DATA).shape == (len(DATA),)
