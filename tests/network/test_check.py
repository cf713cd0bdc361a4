"""What counts as agreement, and on which inputs it is looked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.network.models import built, normal, save
from tilewright.network.check import network_error, relative_error, telling


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (normal(1, 1000), True),
        (np.eye(1, 1000), False),  # a softmax that is sure
        (np.zeros(10), False),
        (np.ones(1), True),
        (np.zeros((0, 4)), True),
        (np.array([np.inf, 1.0, 2.0, 3.0]), True),
    ],
)
def test_telling(output: np.ndarray, expected: bool) -> None:
    assert telling([output]) is expected
    assert telling([normal(5), output]) is expected


def test_a_network_that_is_sure_is_asked_something_harder(tmp_path: Path) -> None:
    """Logits of some hundreds: 1 in one place, unless the inputs are small."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Softmax", ["f"], ["y"], axis=1),
    ]
    w = 30 * normal(8, 8, 3, 3)
    extraction, executable = built(save(tmp_path / "m.onnx", nodes, {"x": [1, 8, 6, 6]}, [1, 128], w=w), tmp_path / "o")
    inputs = extraction.network.random_inputs()
    assert not telling(executable(*inputs))
    error = network_error(executable, extraction.network)
    assert error is not None
    assert 0 < error <= 1e-3


def test_relative_error() -> None:
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert relative_error(np.array([np.nan, 2.0]), np.array([1.0, 4.0])) == np.inf
    assert relative_error(np.zeros(3), np.zeros(4)) == np.inf
    assert relative_error(np.zeros((0, 2)), np.zeros((0, 2))) == 0.0
    assert relative_error(np.array([1, 2]), np.array([1, 4])) == 0.5


def test_what_is_not_finite_has_to_be_the_same() -> None:
    masked = np.array([-np.inf, np.nan, 1.0, 2.0])
    assert relative_error(masked.copy(), masked) == 0.0
    assert relative_error(np.array([-np.inf, np.nan, 1.0, 3.0]), masked) == 0.5
    assert relative_error(np.array([np.inf, np.nan, 1.0, 2.0]), masked) == np.inf
    assert relative_error(np.array([np.nan, np.nan, 1.0, 2.0]), masked) == np.inf
    assert relative_error(np.full(2, np.inf), np.full(2, np.inf)) == 0.0
