"""The comparison of a quantised model's outputs with those in floating point."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.models import save
from tilewright.quantising.accuracy import compare_outputs, run_model


def test_the_cosine_and_the_error_are_over_all_samples() -> None:
    wanted = [[np.array([1.0, 0.0])], [np.array([0.0, 4.0])]]
    (same,) = compare_outputs(["y"], wanted, wanted)
    assert (same.cosine, same.largest_relative_error) == (1.0, 0.0)
    found = [[np.array([1.0, 1.0])], [np.array([0.0, 4.0])]]
    (other,) = compare_outputs(["y"], wanted, found)
    assert other.cosine == pytest.approx(17 / math.sqrt(17 * 18))
    assert other.largest_relative_error == 0.25


def test_integers_differ_or_do_not() -> None:
    (found,) = compare_outputs(["y"], [[np.array([1, 2, 3, 4])]], [[np.array([1, 2, 3, 9])]])
    assert found.largest_relative_error == 0.25


def test_outputs_that_cannot_be_compared() -> None:
    text = np.array(["text"])
    found = compare_outputs(["a", "b"], [[np.zeros(2), text]], [[np.zeros(3), text]])
    assert [(o.name, o.largest_relative_error) for o in found] == [("a", math.inf)]
    (dead,) = compare_outputs(["y"], [[np.zeros(2)]], [[np.zeros(2)]])
    assert math.isnan(dead.cosine)
    assert dead.largest_relative_error == 0.0


@pytest.mark.parametrize("shared", [False, True])
def test_sums_of_products_of_bytes_are_exact(shared: bool, tmp_path: Path) -> None:
    """Without VNNI, ONNX Runtime's own choice would limit the sum of two products to int16: 2 * 255 * 127 to 32,767."""
    constants: dict[str, Any] = {
        "w": np.full((64, 16), 127, np.int8),
        "one": np.ones((), np.float32),
        "zero": np.zeros((), np.uint8),
        "none": np.zeros((), np.int8),
        "step": np.asarray(2.0**14, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
    ]
    for n in range(1 + shared):
        nodes += [
            helper.make_node("DequantizeLinear", ["w", "one", "none"], [f"w{n}"]),
            helper.make_node("MatMul", ["d", f"w{n}"], [f"p{n}"]),
            helper.make_node("QuantizeLinear", [f"p{n}", "step", "zero"], [f"r{n}"]),
            helper.make_node("DequantizeLinear", [f"r{n}", "step", "zero"], [f"y{n}"]),
        ]
    nodes.append(helper.make_node("Max", [f"y{n}" for n in range(1 + shared)], ["y"]))
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 64]}, [2, 16], **constants)
    ((y,),) = run_model(path, [{"x": np.full((2, 64), 255, np.float32)}])
    assert (y == 2.0**14 * round(64 * 255 * 127 / 2.0**14)).all()
