"""Numbers in messages agree with their nouns, and errors are told in words."""

from __future__ import annotations

from tilewright.wording import counted, describe_error


def test_a_noun_follows_its_number() -> None:
    assert [counted(n, "task") for n in (0, 1, 2, "?")] == ["0 tasks", "1 task", "2 tasks", "? tasks"]


def test_an_error_is_told_in_words() -> None:
    assert describe_error(KeyError("num_heads")) == "'num_heads' is missing"
    assert describe_error(AssertionError()) == "AssertionError"
    assert describe_error(ValueError("axis")) == "ValueError: axis"
    assert describe_error(RuntimeError("\n  no such shape\nat line 7")) == "no such shape"
