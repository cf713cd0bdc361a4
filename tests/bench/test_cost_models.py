"""What the shipped model is worth on the recorded tables, whose tasks it was not fitted to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.cost_models import HERE, data_of, search, slowdown_after, tables
from bench.search import Run, table_of
from tilewright.cost.evaluate import evaluate
from tilewright.cost.prior import SHIPPED, load_pretrained


def test_with_the_shipped_prior_16_trials_come_within_8_percent_of_the_optimum() -> None:
    warm: dict[int, list[float]] = {16: [], 48: []}
    cold: list[float] = []
    for path in tables():
        found = search(path, "default", SHIPPED, seed=0)
        for count, values in warm.items():
            values.append(slowdown_after(found, count))
        cold.append(slowdown_after(search(path, "default", None, seed=0), 16))
    assert np.mean(warm[16]) <= 1.08
    assert np.mean(warm[48]) <= 1.05
    assert np.mean(warm[16]) < np.mean(cold) - 0.03


def test_the_shipped_model_was_fitted_to_this_data_set_and_no_table() -> None:
    stored, data = load_pretrained(), data_of(HERE / "dataset.parquet")
    assert (stored.about["tasks"], stored.about["programs"]) == (len(data.tasks), sum(map(len, data.tasks)))
    assert {task.template for task in data.tasks} == {stored.template}
    assert len(data.tasks) >= 60
    assert len(data.networks) >= 6
    recorded = [table_of(path) for path in tables()]
    assert not {table.task.key for table in recorded} & {task.task for task in data.tasks}
    # Nor to the same operator in another function: data and weights of such a one are of the same size.
    sizes = {tuple(task.nest.touched[0, :2, 0].tolist()) for task in data.tasks}
    assert not {tuple(table.nest.touched[0, :2, 0].tolist()) for table in recorded} & sizes
    assert np.mean([q.pairwise_accuracy for q in evaluate(stored.model, data.tasks)]) > 0.8


def test_the_best_so_far_is_what_was_known_by_then() -> None:
    found = Run(trials=[1, 5, 40], seconds=[0.1, 0.5, 4.0], slowdown=[2.0, 1.5, 1.01], rounds=[16, 32, 48], asked=48)
    assert [slowdown_after(found, n) for n in (0, 1, 4, 5, 48)] == [math.inf, 2.0, 2.0, 1.5, pytest.approx(1.01)]
