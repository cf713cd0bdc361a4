"""How far the outputs of two runtimes are apart."""

from __future__ import annotations

import numpy as np

from tilewright.measure.compare import difference


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
