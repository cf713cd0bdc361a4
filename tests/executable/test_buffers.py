"""Places of buffers: buffers that are needed at the same time do not overlap."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tilewright.executable.buffers import ALIGNMENT, Buffer, place_buffers


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_buffers_alive_at_once_are_apart(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(size, min(one, other), max(one, other)) for size, one, other in drawn]
    offsets = place_buffers(buffers)
    for a, b in itertools.combinations(buffers, 2):
        if a.first <= b.last and b.first <= a.last:
            one, other = offsets[id(a)], offsets[id(b)]
            assert one + a.bytes <= other or other + b.bytes <= one
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())


def test_a_part_lies_where_its_whole_lies() -> None:
    whole, part, piece = Buffer(256, 0, 3), Buffer(128, 0, 1), Buffer(64, 0, 1)
    part.parent, part.offset, piece.parent, piece.offset = whole, 128, part, 64
    assert piece.root() == (whole, 192)
    assert whole.root() == (whole, 0)
