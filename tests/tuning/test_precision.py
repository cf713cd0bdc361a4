"""In which precision products of few rows read their weights: by latencies that are made up."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import TARGET, normal, save
from tilewright.frontend.shapes import ShapeRequest
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.quantising.choosing import list_here
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.space.space import Configs, DesignSpace
from tilewright.tuning.precision import ProductTimes, choose_precisions, dense_task, measure_products


class Times:
    """A runner with one latency for each task: by its key, or else a second."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.store, self.asked = seconds, MemoryStore(), 0

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        self.asked += 1
        seconds = self.seconds.get(space.task.key, 1.0)
        made = [
            Measurement(space.task.key, TARGET.key, space.template, tuple(map(int, config)), Outcome.OK, (seconds,))
            for config in configs
        ]
        self.store.add(made)
        return made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
    weights = {"w": normal(48, 40), "v": normal(40, 24, seed=1)}
    return save(tmp_path / "m.onnx", nodes, {"x": [2, 48]}, [2, 24], **weights)


def measure(model: Path, first: float, second: float, deadline: float = 1.0) -> list[ProductTimes]:
    """The products, whose calls take a second with weights in float32, and so many with bfloat16."""
    keys = [dense_task(2, *shape, TARGET.lanes, True).key for shape in ((48, 40), (40, 24))]
    runner = Times(dict(zip(keys, (first, second), strict=True)))
    matrices = list_here(model, None, 100)
    return measure_products(matrices, TARGET, runner, runner.store, deadline, clock=lambda: 0.5)[0]


@pytest.mark.parametrize(("first", "gains"), [(0.5, True), (0.97, False), (1.2, False)])
def test_bfloat16_must_be_faster(model: Path, first: float, gains: bool) -> None:
    times = measure(model, first, 0.6)
    assert [(each.depth, each.float32, each.bf16, each.gains) for each in times] == [
        (48, 1.0, first, gains),
        (40, 1.0, 0.6, True),
    ]


def test_after_the_deadline_nothing_is_measured(model: Path) -> None:
    times = measure(model, 0.5, 0.5, deadline=0.0)
    assert all(math.isinf(each.float32) and not each.gains for each in times)
    reports, chosen = choose_precisions(times, model, model.with_name("out.onnx"), None, 0.1, 0)
    assert chosen is None
    assert {(r.chosen, r.float32_ms, r.bf16_ms, r.error) for r in reports} == {("float32", None, None, None)}


def test_no_more_trials_are_made_than_may_be(model: Path) -> None:
    runner, matrices = Times({}), list_here(model, None, 100)

    def count(most: float) -> tuple[list[bool], int]:
        """Which products were measured or are on record, the largest first, and how many trials were made."""
        times, trials = measure_products(matrices, TARGET, runner, runner.store, 1.0, most, clock=lambda: 0.5)
        assert len(list(runner.store.scan(Query()))) >= trials
        return [math.isfinite(each.float32) and math.isfinite(each.bf16) for each in times], trials

    assert count(0) == ([False, False], 0)
    measured, trials = count(9)  # one product in both precisions
    assert (measured, 0 < trials <= 9) == ([True, False], True)
    assert count(0) == ([True, False], 0)  # what is on record is free
    measured, trials = count(math.inf)
    assert (measured, trials) == ([True, True], len(list(runner.store.scan(Query()))) - trials)


def test_the_report_says_what_was_chosen_and_why(model: Path) -> None:
    out = model.with_name("out.onnx")
    faster, slower = choose_precisions(measure(model, 0.5, 1.5), model, out, ShapeRequest(), 0.1, 0)[0]
    assert (faster.task, faster.products, faster.chosen) == ("2x48 times 48x40", 1, "bf16")
    assert (faster.float32_ms, faster.bf16_ms) == (1000.0, 500.0)
    assert faster.error is not None
    assert 0 < faster.error < 0.02
    assert (slower.chosen, slower.bf16_ms, slower.error) == ("float32", 1500.0, None)
    (strict, _), chosen = choose_precisions(measure(model, 0.5, 1.5), model, out, ShapeRequest(), 1e-9, 0)
    assert (strict.chosen, strict.error) == ("float32", faster.error)
    assert chosen is not None
    assert chosen.groups == ()


def test_the_task_is_that_of_the_graph() -> None:
    task = dense_task(1, 64, 37, 16, halves=True)
    assert task.kind == "contraction"
    assert np.isfinite(task.flop)
