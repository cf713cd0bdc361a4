"""How far the outputs of two runtimes are apart."""

from __future__ import annotations

import numpy as np

from tilewright.measure.compare import difference, relative_error


def test_the_largest_difference_of_all_outputs_counts() -> None:
    ours = [np.ones(3), np.array([1.0, 2.0])]
    assert difference(ours, [np.ones(3), np.array([1.0, 4.0])]) == 0.5
    assert difference(ours, ours) == difference([], []) == 0.0


def test_what_is_not_finite_is_not_overlooked() -> None:
    right, broken = [np.ones(3), np.ones(2)], [np.ones(3), np.full(2, np.nan)]
    assert difference(broken, right) == difference(right, broken) == np.inf
    assert difference(broken, broken) == 0.0


def test_outputs_of_another_number_or_shape() -> None:
    assert difference([np.ones(3)], [np.ones(3), np.ones(3)]) == np.inf
    assert difference([np.ones(3)], [np.ones(4)]) == np.inf


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


def test_texts_are_equal_or_not() -> None:
    texts = np.array(["a", "b"], dtype=object)
    assert relative_error(texts, np.array(["a", "b"])) == 0.0
    assert relative_error(texts, np.array(["a", "c"], dtype=object)) == np.inf
    assert difference([texts, np.ones(2)], [texts, np.array([1.0, 2.0])]) == 0.5


def test_sequences_are_compared_entry_by_entry() -> None:
    assert relative_error([np.ones(2)], [np.array([1.0, 2.0])]) == 0.5
    assert relative_error([np.ones(2)], [np.ones(2), np.ones(2)]) == np.inf
    assert relative_error([np.ones(2)], np.ones(2)) == np.inf
