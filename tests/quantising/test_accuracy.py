"""The comparison of a quantised model's outputs with those in floating point."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tilewright.quantising.accuracy import compare_outputs


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
