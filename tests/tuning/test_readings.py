"""Readings of moments when the machine was not equally fast."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.measure.outcome import Measurement, Outcome
from tilewright.tuning.readings import Readings

DEFAULT, GOOD, LUCKY = (0, 0), (0, 1), (1, 0)


def read(config: tuple[int, ...], seconds: float, anchor: float = 0.0) -> Measurement:
    return Measurement("k", "t", "s/1", config, Outcome.OK, (seconds,) * 5, anchor=anchor)


def test_without_an_anchor_a_reading_counts_as_it_is() -> None:
    readings = Readings(DEFAULT)
    assert not readings.add(read(GOOD, 2.0))
    assert readings.seconds(GOOD) == 2.0
    assert math.isnan(readings.seconds(LUCKY))


def test_what_was_read_while_the_machine_was_slow_is_lowered() -> None:
    readings = Readings(DEFAULT)
    assert readings.add(read(DEFAULT, 1.1, anchor=1.1))
    readings.add(read(GOOD, 0.99, anchor=1.1))
    assert readings.seconds(GOOD) == pytest.approx(0.99)
    # A faster moment: one that is slower than GOOD in truth looks faster, and what was read before counts anew.
    assert readings.add(read(LUCKY, 0.95, anchor=1.0))
    assert readings.seconds(GOOD) == pytest.approx(0.9)
    assert readings.seconds(LUCKY) == pytest.approx(0.95)
    assert not readings.add(read(LUCKY, 0.95, anchor=1.05))


def test_the_default_is_what_it_was_at_its_fastest() -> None:
    readings = Readings(DEFAULT)
    readings.add(read(DEFAULT, 1.3, anchor=1.05))  # disturbed for a moment
    readings.add(read(GOOD, 1.2, anchor=1.0))
    assert readings.seconds(DEFAULT) == 1.0


def test_a_disturbed_default_makes_nobody_fast() -> None:
    readings = Readings(DEFAULT)
    readings.add(read(DEFAULT, 1.0, anchor=1.0))
    readings.add(read(GOOD, 1.0, anchor=3.0))
    assert readings.seconds(GOOD) == pytest.approx(0.88)


def test_a_race_in_a_slow_moment_does_not_make_a_task_slow() -> None:
    readings = Readings(DEFAULT)
    readings.add(read(DEFAULT, 1.0, anchor=1.0))
    readings.add(read(GOOD, 1.6, anchor=2.0), raced=True)
    readings.add(read(LUCKY, 1.8, anchor=2.0), raced=True)
    assert (readings.seconds(GOOD), readings.seconds(LUCKY)) == pytest.approx((0.8, 0.9))


def test_what_is_forgotten_counts_no_more() -> None:
    readings = Readings(DEFAULT)
    readings.add(read(GOOD, 1.0))
    readings.forget(GOOD)
    readings.forget(LUCKY)
    readings.add(read(GOOD, 2.0))
    assert readings.seconds(GOOD) == 2.0


@given(speeds=st.lists(st.floats(1.0, 1.13), min_size=2, max_size=8), ratio=st.floats(0.5, 2.0))
def test_a_steady_ratio_to_the_default_is_found_whatever_the_machine_does(speeds: list[float], ratio: float) -> None:
    readings = Readings(DEFAULT)
    for number, speed in enumerate(speeds):
        readings.add(read((1, number), speed * ratio, anchor=speed))
    found = [readings.seconds((1, number)) for number in range(len(speeds))]
    assert found == pytest.approx([min(speeds) * ratio] * len(speeds), rel=3e-3)
