"""Weights of bfloat16 numbers: products of few rows read them as half the bytes, with the same results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import build_lean, defaults, normal, read, save
from tests.targets import LANES, lack, lane_target
from tilewright.graph.tasks import Extraction, extract
from tilewright.quantising.rounding import round_array
from tilewright.target import Target
from tilewright.tensor import Array, fill_uniform


def network(path: Path, rows: int, weight: Array) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return save(path, nodes, {"x": [rows, len(weight)]}, [rows, weight.shape[1]], w=weight)


def small(lanes: int) -> Target:
    """A target whose second cache holds no weights."""
    return replace(lane_target(lanes), l2=1024)


def kinds(extraction: Extraction) -> set[str]:
    return {recipe.dtype for recipe in extraction.rewritten.recipes}


@pytest.mark.parametrize("lanes", LANES, ids=lambda lanes: f"{lanes} lanes")
def test_results_are_those_of_float32(lanes: int, tmp_path: Path) -> None:
    if lack(lane_target(lanes)):
        pytest.skip(lack(lane_target(lanes)))
    weight = round_array(normal(40, 37))
    weight[:2] = np.asarray([[0.0], [-0.0]])
    path = network(tmp_path / "m.onnx", 3, weight)
    x, found = normal(3, 40), []
    for target, dtype in ((small(lanes), "uint16"), (lane_target(lanes), "float32")):
        extraction = extract(read(path), target)
        assert kinds(extraction) == {dtype}
        found.append(build_lean(extraction, defaults(extraction), tmp_path / dtype)(x)[0])
    assert np.array_equal(found[0], found[1])
    assert (
        np.abs(found[0] - np.maximum(np.matmul(x, weight.astype(np.float32)), 0)).max() < 1e-5 * np.abs(found[0]).max()
    )


def test_other_weights_stay_float32(tmp_path: Path) -> None:
    assert kinds(extract(read(network(tmp_path / "a.onnx", 1, normal(40, 37))), small(16))) == {"float32"}
    many = network(tmp_path / "b.onnx", 64, round_array(normal(40, 37)))
    assert kinds(extract(read(many), small(16))) == {"float32"}


def test_kernels_are_timed_on_normal_numbers() -> None:
    """Small integers would be the bits of denormal numbers, with which processors are slow."""
    bits = np.zeros(1000, np.uint16)
    fill_uniform(bits, np.random.default_rng(0))
    numbers = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.abs(numbers).max() <= 1
    assert np.mean(np.abs(numbers) > 0.01) > 0.9
