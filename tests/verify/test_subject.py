"""Executables under test: cases that were wrong, or were judged wrong by mistake, built with default schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.models import built
from tests.verify.onnx_models import model, normal, saved
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.judge import judge
from tilewright.verify.reference import open_reference
from tilewright.verify.subject import judge_executable, open_executable


def detector(bias: float, sign: int = 1) -> Any:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["y"]),
    ]
    w = (sign * 0.3 * normal(1, 3, 3, 3)).astype(np.float32)
    return model(nodes, {"x": ([1, 3, 32, 32], "float32")}, {"y": "float32"}, w=w, b=np.full(1, bias, np.float32))


def build(made: Any, folder: Path) -> tuple[Trials, Path]:
    extraction, _ = built(saved(made, folder.with_suffix(".onnx")), folder)
    with open_reference(extraction.network) as reference:
        return find_trials(extraction.network, reference), folder


@pytest.mark.parametrize("bias", [-16, -25])
def test_a_detector_that_sees_nothing(bias: float, tmp_path: Path) -> None:
    trials, folder = build(detector(bias), tmp_path / "right")
    verdict = judge_executable(folder, trials)
    assert verdict.right
    assert verdict.error is not None
    assert verdict.error < 1e-5
    assert verdict.precision == "float64"
    assert verdict.inputs >= 2
    _, other = build(detector(bias, -1), tmp_path / "negated")
    assert judge_executable(other, trials).wrong


def test_an_integer_division(tmp_path: Path) -> None:
    nodes = [helper.make_node("Div", ["i", "d"], ["q"]), helper.make_node("Add", ["q", "i"], ["y"])]
    trials, folder = build(model(nodes, {"i": ([8, 8], "int64")}, {"y": "int64"}, d=np.array(16)), tmp_path / "out")
    assert judge_executable(folder, trials).right


def test_a_program_that_dies_is_wrong(tmp_path: Path) -> None:
    nodes = [helper.make_node("Div", ["a", "b"], ["y"])]
    made = model(nodes, {"a": ([8], "int64"), "b": ([8], "int64")}, {"y": "int64"})
    trials, folder = build(made, tmp_path / "out")
    with open_executable(folder) as run:

        def by_zero(inputs: Any) -> list[Any]:
            return run([inputs[0], np.zeros_like(inputs[1])])

        verdict = judge(by_zero, trials)
    assert verdict.wrong
    assert "SIGFPE" in verdict.evidence


def test_what_is_no_executable_is_wrong(tmp_path: Path) -> None:
    trials, _ = build(detector(-16), tmp_path / "out")
    verdict = judge_executable(tmp_path / "missing", trials)
    assert verdict.wrong
    assert "failed" in verdict.evidence
