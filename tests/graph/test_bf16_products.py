"""Networks whose model asks for products of bfloat16 numbers, in plain code where there is no instruction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.models import build_lean, defaults, normal, read, runs, save
from tests.targets import LANES, lane_target, require
from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.tasks import extract
from tilewright.ops.contraction.bf16 import round_to_bf16
from tilewright.quantising.rounding import mark_products
from tilewright.records.memory import MemoryStore
from tilewright.target import Target
from tilewright.tuning.building import build_model
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome


def network(folder: Path) -> Path:
    """A convolution of odd channels with a stride, a depthwise one, one that is a product of pixels, and a product."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["d"], kernel_shape=[3, 3], group=20),
        helper.make_node("Conv", ["d", "e"], ["f"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["f"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    weights = {"a": normal(20, 3, 3, 3), "b": normal(20, 1, 3, 3), "e": normal(40, 20, 1, 1), "w": normal(40, 10)}
    return save(folder / "m.onnx", nodes, {"x": [1, 3, 17, 19]}, [1, 10], **weights)


def marked(path: Path) -> Path:
    out = path.with_name("marked.onnx")
    mark_products(path, out)
    return out


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")
def test_a_product_has_rounded_operands(lanes: int, tmp_path: Path) -> None:
    require(lane_target(lanes))
    weight, x = normal(40, 37), normal(5, 40, seed=1)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    path = marked(save(tmp_path / "m.onnx", nodes, {"x": [5, 40]}, [5, 37], w=weight))
    extraction = extract(read(path), lane_target(lanes))
    assert [use.task.name.split()[0] for use in extraction.uses] == ["bf16_dense_relu"]
    (found,) = build_lean(extraction, defaults(extraction), tmp_path / "out")(x)
    left, right = ((round_to_bf16(a).astype(np.uint32) << 16).view(np.float32).astype(float) for a in (x, weight))
    wanted = np.maximum(left @ right, 0)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * wanted.max())


def test_what_can_be_is_of_bfloat16(tmp_path: Path) -> None:
    path = network(tmp_path)
    plain, halved = (extract(read(each), Target.parse()) for each in (path, marked(path)))
    kinds = {use.task.name.split()[0].partition("_")[0] for use in halved.uses}
    assert {"bf16", "depthwise"} <= kinds
    assert not any(use.task.name.startswith("half") for use in plain.uses)
    assert sum(use.weight for use in halved.uses if use.task.name.startswith("bf16_")) == 3


def test_an_odd_number_of_inputs_stays_float32(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = marked(save(tmp_path / "m.onnx", nodes, {"x": [5, 41]}, [5, 32], w=normal(41, 32)))
    assert [use.task.name.split()[0] for use in extract(read(path), Target.parse()).uses] == ["dense"]


@runs
def test_the_verdict_allows_for_rounded_operands_only_where_they_are_wanted(tmp_path: Path) -> None:
    path = network(tmp_path)
    built = build_model(marked(path), tmp_path / "out", Target.parse(), ShapeRequest(), MemoryStore())
    assert built.verdict.outcome is Outcome.RIGHT
    assert (built.verdict.error or 0) > 0
    with Checker(read(path), 10.0) as strict:
        assert strict.judge(tmp_path / "out").wrong


@runs
def test_the_verdict_still_finds_mistakes(tmp_path: Path) -> None:
    """Weights that are off by a hundredth of their size, at random, are more than rounding explains."""
    path = network(tmp_path)
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        off = (array * (1 + 0.05 * rng.standard_normal(array.shape))).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(off, tensor.name))
    onnx.save(model, tmp_path / "off.onnx")
    extraction = extract(read(tmp_path / "off.onnx"), Target.parse())
    build_lean(extraction, defaults(extraction), tmp_path / "out")
    with Checker(read(marked(path)), 10.0) as checker:
        assert checker.judge(tmp_path / "out").wrong
