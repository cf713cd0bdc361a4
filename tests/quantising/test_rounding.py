"""Weights that are rounded to bfloat16: which ones, to what, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.models import normal, save
from tilewright.frontend.shapes import ShapeRequest
from tilewright.quantising.rounding import round_array, round_here, round_weights


def test_numbers_are_rounded_to_the_nearest_and_halves_to_even() -> None:
    step = 2.0**-7  # between neighbours from 1 on
    given = np.asarray([1, 1 + 0.49 * step, 1 + 0.5 * step, 1 + 1.5 * step, -1 - 0.51 * step, 0, -0.0], np.float32)
    wanted = np.asarray([1, 1, 1, 1 + 2 * step, -1 - step, 0, -0.0], np.float32)
    assert np.array_equal(round_array(given).view(np.uint32), wanted.view(np.uint32))
    many = normal(1000)
    assert np.abs(round_array(many) - many).max() <= 2.0**-8 * np.abs(many).max()
    assert np.array_equal(round_array(round_array(many)), round_array(many))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Products with one row and with many; with a weight that is added, too; with small weights."""
    nodes = [
        helper.make_node("MatMul", ["x", "few"], ["a"]),
        helper.make_node("Gemm", ["a", "turned"], ["b"], transB=1),
        helper.make_node("Reshape", ["b", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "many"], ["c"]),
        helper.make_node("Reshape", ["c", "flat"], ["d"]),
        helper.make_node("MatMul", ["d", "added"], ["e"]),
        helper.make_node("Add", ["e", "added"], ["f"]),
        helper.make_node("MatMul", ["f", "small"], ["y"]),
    ]
    weights = {
        "few": normal(32, 64),
        "turned": normal(64, 64, seed=1),
        "many": normal(4, 64, seed=2),
        "added": normal(1024, 32, seed=3),
        "small": normal(32, 4, seed=4),
        "shape": np.asarray([16, 4]),
        "flat": np.asarray([1, 1024]),
    }
    return save(tmp_path / "m.onnx", nodes, {"x": ["batch", 32]}, [1024, 4], **weights)


def test_weights_of_few_rows_are_rounded(model: Path) -> None:
    out = model.with_name("rounded.onnx")
    request = ShapeRequest((("batch", ((1,),)),))
    found = round_weights(model, out, request, cached=600, seed=0)
    assert (found.products, found.nbytes) == (2, 4 * (32 * 64 + 64 * 64))
    (output,) = found.outputs
    assert 0 < output.largest_relative_error < 0.02
    assert output.cosine > 0.9999
    assert "2 products, 0.0246 MB" in str(found)
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
        for path in (model, out)
    )
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["few", "turned"]
    assert np.array_equal(after["few"], round_array(before["few"]))


def test_nothing_is_rounded_in_vain(model: Path) -> None:
    out = model.with_name("rounded.onnx")
    for request, cached in ((ShapeRequest((("batch", ((64,),)),)), 600), (None, 600), (None, 1 << 20)):
        assert round_here(model, out, request, cached, 0).products == 0
        assert not out.exists()


def test_outputs_are_compared_on_samples(model: Path) -> None:
    sample = {"x": normal(1, 32)}
    request = ShapeRequest(whole=({"x": (1, 32)},), samples=(sample,))
    found = round_here(model, model.with_name("rounded.onnx"), request, 600, 0)
    assert (found.samples, found.random) == (1, False)
