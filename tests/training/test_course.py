"""The course of a training's steps: it stays small, and keeps what is before a change apart from what is after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("torch")

from tilewright.training.course import Course

NAN = float("nan")


@dataclass
class Part:
    """What a course looks at of a part."""

    name: str
    state: str = "waiting"
    slower: bool = False


def note(course: Course, seconds: float, *parts: Any) -> None:
    course.note(seconds, 0.5, parts)


def test_steps_are_counted_once_and_the_traced_one_is_not() -> None:
    course = Course()
    note(course, NAN)
    for seconds in (0.25, 0.5, 0.125):
        note(course, seconds)
    assert [each.seconds for each in course.pieces] == [0.25, 0.5, 0.125]
    assert [each.given for each in course.pieces] == [0.5] * 3
    assert all(a.end <= b.end for a, b in zip(course.pieces, course.pieces[1:], strict=False))


def test_a_long_course_is_summed_up() -> None:
    course = Course()
    for number in range(10_000):
        note(course, 1.0 + number % 2)
    pieces = course.pieces
    assert 200 <= len(pieces) <= 400
    assert sum(each.steps for each in pieces) == 10_000
    assert {(each.shortest, each.longest) for each in pieces[:-1]} == {(1.0, 2.0)}
    assert all(1.0 <= each.seconds <= 2.0 for each in pieces)


def test_changes_are_noted_and_divide_the_course() -> None:
    course, first, second = Course(), Part("first"), Part("second")
    for _ in range(1000):
        note(course, 2.0, first, second)
    first.state = "running"
    for _ in range(100):
        note(course, 1.0, first, second)
    first.slower, second.state = True, "left"
    note(course, 2.0, first, second)
    assert [(each.part, each.state) for each in course.changes] == [
        ("first", "running"),
        ("first", "slower"),
        ("second", "left"),
    ]
    assert {(each.ours, each.seconds) for each in course.pieces} == {(0, 2.0), (1, 1.0)}


def test_a_part_that_changes_all_the_time_fills_no_memory() -> None:
    course, part = Course(), Part("part", "running")
    for number in range(2000):
        part.slower = bool(number % 2)
        note(course, 1.0, part)
    assert len(course.changes) == 300
    assert len(course.pieces) <= 400
