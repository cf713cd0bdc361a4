"""Pieces of memory and their places in the arena. Those that are needed at the same time do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ALIGNMENT", "Buffer", "place_buffers"]

#: Bytes that the address of each buffer is a multiple of: a cache line. No vector register is larger.
ALIGNMENT = 64


@dataclass(eq=False)
class Buffer:
    """A piece of memory.

    Attributes:
        bytes: its size.
        first, last: the numbers of the first and the last call that need it.
        parent: the larger buffer that it is a part of; None: it is a part of none.
        offset: where in the parent it begins, in bytes.
        weight: the number of the weight that it holds; None: it holds none.
        given: the number of the caller's tensor that it is; None: it is none.
        movable: whether it may become a part of another buffer.
    """

    bytes: int
    first: int
    last: int
    parent: Buffer | None = None
    offset: int = 0
    weight: int | None = None
    given: int | None = None
    movable: bool = True

    def root(self) -> tuple[Buffer, int]:
        """The buffer that this one is a part of and that is a part of none, and the offset in it in bytes."""
        buffer, offset = self, 0
        while buffer.parent is not None:
            buffer, offset = buffer.parent, offset + buffer.offset
        return buffer, offset


def place_buffers(buffers: Sequence[Buffer]) -> dict[int, int]:
    """The offset of each buffer in the arena in bytes, by the buffer's ``id``.

    The largest buffer is placed first. Each buffer goes to the lowest place that is free while it is needed.
    """
    ordered = sorted(buffers, key=lambda b: (-b.bytes, b.first))
    first, last = (np.asarray([getattr(b, name) for b in ordered], dtype=np.int64) for name in ("first", "last"))
    starts = np.zeros(len(ordered), dtype=np.int64)
    for number, buffer in enumerate(ordered):
        offset = 0
        alive = np.flatnonzero((first[:number] <= buffer.last) & (buffer.first <= last[:number]))
        for other in alive[np.argsort(starts[alive], kind="stable")]:
            start = int(starts[other])
            if offset + buffer.bytes <= start:
                break
            offset = max(offset, -(-(start + ordered[other].bytes) // ALIGNMENT) * ALIGNMENT)
        starts[number] = offset
    return {id(buffer): int(start) for buffer, start in zip(ordered, starts, strict=True)}
