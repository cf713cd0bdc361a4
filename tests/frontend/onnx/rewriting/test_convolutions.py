"""Convolutions over one dimension, and slices by constant indices, in the tasks that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.models import agrees, normal, runs, save


@runs
def test_convolutions_over_one_dimension_meet_without_a_change_of_layout(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v", "b"], ["a"], pads=[1, 2], strides=[2]),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["y"], dilations=[2]),
    ]
    weights = {"v": normal(32, 16, 3), "b": normal(32), "w": normal(48, 32, 2)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 16, 41]}, [1, 48, 19], **weights)
    extraction = agrees(path, tmp_path / "out")
    kinds = [use.task.kind for use in extraction.uses if "conv" in use.task.name]
    assert kinds == ["contraction", "contraction"]
    assert len(extraction.uses) == 4  # besides these, one change of layout at each end


@runs
def test_an_index_that_is_constant_is_no_kernel(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["x", "one"], ["a"], axis=1),
        helper.make_node("Gather", ["x", "last"], ["b"], axis=1),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    weights = {"one": np.asarray(1), "last": np.asarray(-1)}
    path = save(tmp_path / "m.onnx", nodes, {"x": [2, 3, 64]}, [2, 64], **weights)
    assert len(agrees(path, tmp_path / "out").uses) == 1
