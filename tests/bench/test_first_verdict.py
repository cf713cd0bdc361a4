"""The first verdict on a model, which the bench of conformance asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from bench._first_verdict import judge
from tests.models import normal, runs, save


@runs
def test_a_model_with_a_segment_is_judged(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Greater", ["product", "zero"], ["above"]),
        helper.make_node("NonZero", ["above"], ["places"]),
        helper.make_node("Shape", ["places"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["count"], to=1),
        helper.make_node("ReduceSum", ["count"], ["sum"]),
        helper.make_node("Sub", ["product", "sum"], ["y"]),
    ]
    weights = {"w": normal(8, 8), "zero": np.zeros((), dtype=np.float32)}
    path = save(tmp_path / "m.onnx", nodes, {"x": ["n", 8]}, ["n", 8], **weights)
    found = judge(str(path), {"x": (4, 8)})
    assert found["outcome"] == "right", found["message"]
    assert any("NonZero" in reason for reason in found["segments"][0])
    assert 0 < found["left_out"] < found["operators"]
