"""The cause of wrong outputs is found: a kernel, the import, or the rewriting."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from onnx import helper

from tests.models import built, defaults
from tests.verify.onnx_models import model, normal, saved
from tilewright.compiling.build import build
from tilewright.graph.tasks import Extraction
from tilewright.verify.culprits import find_culprits
from tilewright.verify.inputs import Trials, find_trials
from tilewright.verify.reference import open_reference
from tilewright.verify.subject import judge_executable


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Extraction, Trials]:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c1"], ["s1"]),
        helper.make_node("MaxPool", ["s1"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["m", "w2"], ["c2"]),
        helper.make_node("Softmax", ["c2"], ["y"], axis=1),
    ]
    w1, w2 = 0.3 * normal(16, 8, 3, 3), normal(16, 16, 1, 1)
    whole = model(nodes, {"x": ([1, 8, 12, 12], "float32")}, {"y": "float32"}, w1=w1, w2=w2)
    folder = tmp_path_factory.mktemp("m")
    extraction, _ = built(saved(whole, folder / "m.onnx"), folder / "out")
    with open_reference(extraction.network) as reference:
        trials = find_trials(extraction.network, reference)
    return extraction, dataclasses.replace(trials, trials=trials.trials[:1])  # one trial takes half the time


def written(extraction: Extraction, functions: dict[str, Any], out: Path) -> Path:
    build(extraction, functions, out, {})
    return out


def test_a_kernel(made: tuple[Extraction, Trials], tmp_path: Path) -> None:
    """A kernel computes minima in place of maxima."""
    extraction, trials = made
    functions = defaults(extraction)
    key = next(use.task.key for use in extraction.uses if "max_pool" in use.task.name)
    functions[key] = _without_maximum(functions[key])
    out = written(extraction, functions, tmp_path / "out")
    assert judge_executable(out, trials).wrong
    found = find_culprits(out, extraction, trials)
    assert found.tasks == (key,)
    assert "wrong elements: " in found.kernels[0]


def _without_maximum(function: Any) -> Any:
    """The same function with minima in place of maxima."""
    text = tvm.ir.save_json(tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")}))
    return tvm.ir.load_json(text.replace('"prim.Max"', '"prim.Min"'))["main"]


def test_nobody_but_the_rewriting(made: tuple[Extraction, Trials], tmp_path: Path) -> None:
    """The weights were packed in a wrong order."""
    extraction, trials = made
    network = extraction.network
    weights = {name: np.ascontiguousarray(array[::-1]) for name, array in network.weights.items()}
    other = dataclasses.replace(extraction, network=dataclasses.replace(network, weights=weights))
    out = written(other, defaults(extraction), tmp_path / "out")
    assert judge_executable(out, trials).wrong
    found = find_culprits(out, extraction, trials)
    assert found.tasks == ()
    assert found.stage.startswith("the rewriting")


def test_the_import(made: tuple[Extraction, Trials], tmp_path: Path) -> None:
    """The imported network has other weights than the model."""
    extraction, trials = made
    network = extraction.network
    weights = {name: -array for name, array in network.weights.items()}
    other = dataclasses.replace(extraction, network=dataclasses.replace(network, weights=weights))
    out = written(other, defaults(extraction), tmp_path / "out")
    found = find_culprits(out, other, trials)
    assert found.tasks == ()
    assert found.stage.startswith("the import")
    assert "is wrong in" in found.stage
