"""The comparison of arrays: what counts as a difference, and how large it is."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.difference import Difference, compare_arrays, scaled_tolerance

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("found", "expected", "allowed", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], [0.1, 0.1], Difference(0, (), 0.0)),
        ([1.0, 2.5], [1.0, 2.0], [0.1, 0.5], Difference(0, (), 0.25)),
        ([1.5, 3.0], [1.0, 2.0], [0.1, 0.1], Difference(2, (1,), 0.5)),
        ([1.5, 3.0], [1.0, 2.0], [0.1, 1.0], Difference(1, (0,), 0.5)),
        ([9.0, 2.0], [1.0, 2.0], [INF, 0.1], Difference(0, (), 0.0)),
        ([NAN, INF, -INF], [NAN, INF, -INF], [0.1] * 3, Difference(0, (), 0.0)),
        ([NAN, 1.0], [1.0, 1.0], [0.1] * 2, Difference(1, (0,), INF)),
        ([1.0, 1.0], [1.0, NAN], [0.1] * 2, Difference(1, (1,), INF)),
        ([INF, 1.0], [-INF, 1.0], [0.1] * 2, Difference(1, (0,), INF)),
        ([], [], [], Difference(0, (), 0.0)),
    ],
)
def test_floating_point(
    found: list[float], expected: list[float], allowed: list[float], difference: Difference
) -> None:
    assert compare_arrays(np.array(found), np.array(expected), np.array(allowed)) == difference


def test_the_tolerance_itself_is_allowed_and_nothing_more() -> None:
    wanted, allowed = np.zeros(1000), np.random.default_rng(0).random(1000)
    assert compare_arrays(wanted + allowed, wanted, allowed).count == 0
    assert compare_arrays(wanted + np.nextafter(allowed, 2), wanted, allowed).count == 1000


def test_integers_are_equal_but_for_some_where_others_are_exempt() -> None:
    wanted = np.arange(20)
    found = wanted.copy()
    found[3] = 7
    sure, some = np.zeros(20), np.zeros(20)
    some[5:10] = INF
    assert compare_arrays(wanted, wanted, sure) == Difference(0, (), 0.0)
    assert compare_arrays(found, wanted, sure) == Difference(1, (3,), 1.0)
    assert compare_arrays(found, wanted, some) == Difference(0, (), 0.0)
    found[10:12] = 0
    assert compare_arrays(found, wanted, some) == Difference(3, (3,), 1.0)


def test_a_scaled_tolerance() -> None:
    wanted = np.array([[1.0, -4.0], [INF, NAN]], np.float32)
    np.testing.assert_array_equal(scaled_tolerance(wanted, 0.5, 0.25), np.full((2, 2), 2.25))
    np.testing.assert_array_equal(scaled_tolerance(np.zeros(3, np.int32), 0.5, 0.25), np.full(3, 0.25))
    assert scaled_tolerance(np.zeros(0), 0.5, 0.25).shape == (0,)
