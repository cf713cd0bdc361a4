"""Numbers in messages agree with their nouns."""

from __future__ import annotations

from tilewright.wording import counted


def test_a_noun_follows_its_number() -> None:
    assert [counted(n, "task") for n in (0, 1, 2, "?")] == ["0 tasks", "1 task", "2 tasks", "? tasks"]
