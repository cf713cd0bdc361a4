"""Executables for more threads than this machine has cores compute the same as on one thread."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import TARGET, built, normal, save
from tilewright.executable.executable import load_executable


@pytest.mark.parametrize("cores", [4, 8])
def test_executables_for_more_threads_are_right(cores: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "d"], ["c"], pads=[1, 1, 1, 1], group=64),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("Conv", ["m", "p"], ["e"]),
        helper.make_node("MaxPool", ["e"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    weights = {"w": normal(64, 16, 3, 3), "d": normal(64, 1, 3, 3), "p": normal(32, 64, 1, 1)}
    model = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 62, 58]}, [1, 32, 15, 14], **weights)
    target = dataclasses.replace(TARGET, cores=cores)
    built(model, tmp_path / "out", target)
    x = normal(1, 16, 62, 58, seed=1)
    with load_executable(tmp_path / "out", threads=1) as alone:
        (want,) = alone(x)
    with load_executable(tmp_path / "out", threads=cores) as together:
        for _ in range(20):  # threads take parts from each other as it comes
            (got,) = together(x)
            np.testing.assert_array_equal(got, want)
