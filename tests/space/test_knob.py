"""Knobs list exactly the choices they promise."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.errors import SpaceError
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob, divisors

extents = st.integers(1, 600)


@given(extents)
def test_divisors_are_all_and_ascending(extent: int) -> None:
    assert divisors(extent) == [d for d in range(1, extent + 1) if extent % d == 0]


@given(extents, st.integers(1, 3))
def test_exact_split_lists_every_factorisation_once(extent: int, parts: int) -> None:
    knob = SplitKnob.exact("tile", extent, parts)
    assert all(len(choice) == parts and math.prod(choice) == extent for choice in knob.choices)
    # The number of ways to write n as an ordered product of k factors, from the exponents of its primes.
    expected, rest, prime = 1, extent, 2
    while rest > 1:
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        expected *= math.comb(power + parts - 1, parts - 1)
        prime += 1
    assert len(knob) == expected


@given(extents, st.lists(st.integers(1, 32), min_size=1, max_size=2))
def test_bounds_drop_the_larger_inner_factors_only(extent: int, most: list[int]) -> None:
    every = SplitKnob.exact("tile", extent, len(most) + 1).choices
    bounded = SplitKnob.exact("tile", extent, len(most) + 1, most).choices
    assert list(bounded) == [c for c in every if all(f <= b for f, b in zip(c[1:], most, strict=True))]


@given(extents, st.lists(st.integers(1, 64), min_size=1, max_size=8, unique=True))
def test_split_with_tails_covers_the_extent_with_the_fewest_blocks(extent: int, factors: list[int]) -> None:
    factors = [1, *(f for f in factors if f > 1)]
    for outer, inner in SplitKnob.of("tile", extent, [factors]).choices:
        assert outer * inner >= extent > (outer - 1) * inner
        assert inner <= extent


@given(st.lists(st.integers(-100, 100), min_size=1, unique=True))
def test_choice_knob_keeps_values_and_order(values: list[int]) -> None:
    knob = ChoiceKnob.of("unroll", values)
    assert len(knob) == len(values)
    assert knob.table[:, 0].tolist() == values


def test_table_has_one_row_per_choice() -> None:
    assert SplitKnob.exact("tile", 12, 3).table.shape == (18, 3)
    assert SplitKnob.exact("tile", 12, 3).table.dtype == np.int64
    assert OrderKnob.of("order", [(0, 1), (1, 0)]).table.tolist() == [[0, 1], [1, 0]]


def test_knobs_are_values() -> None:
    knob = SplitKnob.exact("tile", 12, 2)
    assert knob == SplitKnob.exact("tile", 12, 2)
    assert knob != SplitKnob.exact("tile", 6, 2)
    assert pickle.loads(pickle.dumps(knob)) == knob


def test_a_knob_without_choices_is_refused() -> None:
    with pytest.raises(SpaceError, match="at least one choice, but 'empty'"):
        Knob("empty", ())


def test_a_knob_with_equal_choices_is_refused() -> None:
    with pytest.raises(SpaceError, match="differ from each other, but those of 'twice'"):
        ChoiceKnob.of("twice", [1, 2, 1])
