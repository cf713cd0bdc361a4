"""ONNX Runtime's own rounding is allowed in executables with segments, and nothing beyond it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.models import TARGET, runs
from tests.verify.onnx_models import model, normal, saved
from tilewright.compiling.build import build
from tilewright.frontend.load import load
from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.left_out import leave_out_all
from tilewright.graph.tasks import extract
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome

pytestmark = runs


def detector(path: Path, bias: float) -> Path:
    """A detector that sees nothing: ONNX Runtime's sigmoid is 0 below -18, and off by 2^-24 above."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Sigmoid", ["c"], ["y"]),
    ]
    w, b = (0.3 * normal(1, 3, 3, 3)).astype(np.float32), np.full(1, bias, np.float32)
    return saved(model(nodes, {"x": ([1, 3, 32, 32], "float32")}, {"y": "float32"}, w=w, b=b), path)


def build_whole(path: Path, out: Path) -> Path:
    """An executable that is ONNX Runtime on the whole model."""
    build(extract(leave_out_all(load(path), "a test"), TARGET), {}, out, {})
    return out


def test_a_segment_may_be_as_far_off_as_onnx_runtime(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", -12)
    with Checker(load(path), 20.0) as checker:
        verdict = checker.judge(build_whole(path, tmp_path / "out"))
    assert verdict.right
    assert verdict.precision == "float64"


def test_nothing_is_right_where_onnx_runtime_is_further_off_than_a_mistake(tmp_path: Path) -> None:
    path = detector(tmp_path / "m.onnx", -17)
    with Checker(load(path), 20.0) as checker:
        assert checker.judge(build_whole(path, tmp_path / "out")).outcome is Outcome.UNDECIDABLE


@pytest.mark.parametrize("bias", [-11.9, -18])
def test_a_segment_that_computes_something_else_is_wrong(bias: float, tmp_path: Path) -> None:
    path, other = detector(tmp_path / "m.onnx", -12), detector(tmp_path / "other.onnx", bias)
    with Checker(load(path), 20.0) as checker:
        assert checker.judge(build_whole(other, tmp_path / "out")).wrong


def test_a_value_that_was_fixed_does_not_end_onnx_runtime(tmp_path: Path) -> None:
    """ONNX Runtime 1.32 ends its process if it folds the If of a fixed value, so its error would not be known."""
    text = """<ir_version: 8, opset_import: ["" : 16]>
        g (float[1,3,32,32] x, int64 rate) => (float[1,1,32,32] y) {
            usual = Constant<value_int = 16000>()
            high = Equal(rate, usual)
            c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
            y = If (high) <
                then_branch = a () => (float[1,1,32,32] p) { p = Sigmoid(c) },
                else_branch = b () => (float[1,1,32,32] q) { q = Neg(c) }
            >
        }"""
    made = onnx.parser.parse_model(text)
    other = onnx.load(detector(tmp_path / "weights.onnx", -12))
    made.graph.initializer.extend(other.graph.initializer)
    onnx.save(made, tmp_path / "m.onnx")
    network = load(tmp_path / "m.onnx", ShapeRequest(values={"rate": (16000.0,)}))
    build(extract(leave_out_all(network, "a test"), TARGET), {}, tmp_path / "out", {})
    with Checker(network, 20.0) as checker:
        assert checker.judge(tmp_path / "out").right
