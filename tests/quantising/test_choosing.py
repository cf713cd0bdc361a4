"""Which weights are rounded: those whose error the user allows."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.models import normal, save
from tilewright.difference import compare_arrays
from tilewright.frontend.shapes import ShapeRequest
from tilewright.quantising.accuracy import run_model
from tilewright.quantising.choosing import choose_here, choose_weights, keep_within, list_here
from tilewright.quantising.rounding import make_samples, round_array


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two branches. The weights of the second one are multiplied by numbers that hide the first one."""
    nodes = [
        helper.make_node("MatMul", ["x", "small"], ["a"]),
        helper.make_node("MatMul", ["x", "large"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights: dict[str, Any] = {"small": normal(32, 16) / 1000, "large": normal(32, 16, seed=1)}
    return save(tmp_path / "m.onnx", nodes, {"x": ["batch", 32]}, ["batch", 16], **weights)


ONE = ShapeRequest((("batch", ((1,),)),))
GROUPS = (("small",), ("large",))


def rounded(path: Path) -> set[str]:
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}
    return {name for name, array in found.items() if np.array_equal(array, round_array(array))}


def test_what_brings_too_much_stays(model: Path) -> None:
    out = model.with_name("out.onnx")
    every = choose_weights(model, out, ONE, GROUPS, 0.5, 0)
    assert (every.groups, rounded(out), every.double, every.random) == ((0, 1), {"small", "large"}, True, True)
    small, large = every.alone
    assert every.plain < small < large / 10
    assert large < 0.02
    some = choose_here(model, out, ONE, GROUPS, small * 2, 0)
    assert (some.groups, rounded(out), some.error) == ((0,), {"small"}, small)
    out.unlink()
    none = choose_here(model, out, ONE, GROUPS, small / 2, 0)
    assert (none.groups, none.error) == ((), none.plain)


def test_the_error_is_that_of_the_written_model_against_double_precision(model: Path) -> None:
    out = model.with_name("out.onnx")
    found = choose_here(model, out, ONE, GROUPS, 0.5, 0)
    samples, _ = make_samples(onnx.load(str(model)), ONE, 0)
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(str(model)).graph.initializer}
    errors = []
    for sample, (ours,) in zip(samples, run_model(out, samples), strict=True):
        right = sample["x"].astype(np.float64) @ (arrays["small"] + arrays["large"])
        errors.append(compare_arrays(ours, right, np.ones(right.shape)).error)
    assert found.error == pytest.approx(max(errors))


def test_the_worst_is_given_up_first_until_the_rest_fits() -> None:
    asked = []

    def error_of(chosen: Collection[int]) -> float:
        asked.append(tuple(chosen))
        return 0.004 * len(chosen)

    assert keep_within((0.003, 0.001, 0.02, 0.002), 0.01, error_of) == ((1, 3), 0.008)
    assert asked == [(1, 3, 0), (1, 3)]


def test_every_bucket_is_looked_at(model: Path) -> None:
    many = ShapeRequest((("batch", ((64,),)),))
    both = ShapeRequest((("batch", ((64, 1, 4),)),))
    assert list_here(model, many, 100) == []
    found = list_here(model, both, 100)
    assert [(m.name, m.rows, m.depth, m.outputs, m.products, m.nbytes) for m in found] == [
        (name, (1, 4), 32, 16, 1, 2048) for name in ("small", "large")
    ]
    samples, _ = make_samples(onnx.load(str(model)), both, 0)
    assert [len(sample["x"]) for sample in samples] == [64, 64, 1, 1, 4, 4]
