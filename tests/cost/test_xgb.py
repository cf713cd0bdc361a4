from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilewright.cost.model import KnobTable
from tilewright.cost.xgb import AverageRecall, Boosting, XGBoostModel, relative_throughput
from tilewright.errors import TilewrightError


def table(count: int, seed: int = 0) -> tuple[KnobTable, NDArray[np.float64]]:
    values = np.random.default_rng(seed).integers(0, 9, size=(count, 6)).astype(np.float32)
    return KnobTable(values), 1e-3 * (1.0 + np.abs(values[:, 0] - 4) + 0.5 * np.abs(values[:, 1] - values[:, 2]))


def test_throughput_is_relative_to_the_best_and_failures_are_zero() -> None:
    labels = relative_throughput(np.asarray([2.0, np.nan, 1.0, 4.0]))
    assert labels.dtype == np.float32
    assert labels.tolist() == [0.5, 0.0, 1.0, 0.25]
    assert relative_throughput(np.asarray([np.nan, np.nan])).tolist() == [0.0, 0.0]
    assert relative_throughput(np.empty(0)).tolist() == []


@given(st.lists(st.integers(0, 150), min_size=1, max_size=4).filter(lambda sizes: min(sizes) > 0), st.integers(0, 99))
def test_average_recall_is_what_its_definition_says(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels, scores = rng.permutation(len(groups)).astype(np.float32), rng.standard_normal(len(groups), np.float32)
    recalls = []
    for group in range(len(sizes)):
        true, predicted = (np.argsort(-values[groups == group]) for values in (labels, scores))
        tops = range(1, min(64, sizes[group]) + 1)
        recalls.append(np.mean([len(set(true[:k].tolist()) & set(predicted[:k].tolist())) / k for k in tops]))
    assert AverageRecall(labels, groups)(scores) == pytest.approx(np.mean(recalls))
    assert AverageRecall(labels, groups)(labels) == 1.0


def test_losses_and_parameters_make_a_difference() -> None:
    seen, seconds = table(150)
    models: list[dict[str, Any]] = [{}, {"loss": "regression"}, {"boosting": Boosting(rounds=3)}]
    models.append({"boosting": Boosting(patience=1)})
    predictions = []
    for parameters in models:
        model = XGBoostModel(**parameters)
        model.fit([seen], [seconds])
        predictions.append(tuple(model.predict(seen).tolist()))
    assert len(set(predictions)) == len(models)


def test_regression_predicts_relative_throughput() -> None:
    seen, seconds = table(300)
    model = XGBoostModel("regression")
    model.fit([seen], [seconds])
    assert np.abs(model.predict(seen) - relative_throughput(seconds)).mean() < 0.05


@pytest.mark.parametrize("loss", ["rank", "regression"])
def test_threads_do_not_change_the_scores(loss: Any) -> None:
    seen, seconds = table(300)
    scores = []
    for threads in (1, 2):
        model = XGBoostModel(loss, threads=threads)
        model.fit([seen], [seconds])
        scores.append(model.predict(seen))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(TilewrightError, match="one of rank, regression, but this is 'hinge'"):
        XGBoostModel("hinge")  # type: ignore[arg-type]


def test_programs_of_two_widths_are_refused() -> None:
    seen, seconds = table(10)
    with pytest.raises(TilewrightError, match="use a model per template"):
        XGBoostModel().fit([seen, KnobTable(seen.values[:, :3])], [seconds, seconds])


def test_programs_without_their_latencies_are_refused() -> None:
    seen, seconds = table(10)
    with pytest.raises(TilewrightError, match="each with its latency"):
        XGBoostModel().fit([seen], [seconds[:9]])
