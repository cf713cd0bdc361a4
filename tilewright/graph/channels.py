"""Where the channels of a blocked tensor lie: orders with gaps, and groups of channels seen as steps through them.

An order gives for each place (block times block length plus lane) the channel that lies there, -1 for none. Lanes
without a channel hold finite numbers that nobody uses: weights are zero there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Lattice", "find_lattice", "grouped_order", "padded_order", "permuted"]


@dataclass(frozen=True)
class Lattice:
    """Places of the inputs of each group: ``r * period + group * step + i`` for r < count, i < length.

    Attributes:
        count: how many stretches a group has.
        period: distance between two of them.
        step: distance between two groups.
        length: length of a stretch.
    """

    count: int
    period: int
    step: int
    length: int

    @property
    def size(self) -> int:
        """Places of a group."""
        return self.count * self.length

    def places(self, group: int) -> list[int]:
        """The places of one group, in the order of the reduction."""
        return [r * self.period + group * self.step + i for r in range(self.count) for i in range(self.length)]


def find_lattice(groups: Sequence[Sequence[int]], places: int) -> Lattice:
    """The smallest lattice over ``places`` places that covers the places of each group."""
    best = Lattice(1, places, 0, places)
    for count in (d for d in range(1, places + 1) if places % d == 0):
        period = places // count
        low = [min(p % period for p in group) for group in groups]
        high = [max(p % period for p in group) for group in groups]
        step = min((first // g for g, first in enumerate(low) if g), default=0)
        length = max(last - g * step + 1 for g, last in enumerate(high))
        if step * (len(groups) - 1) + length <= period and count * length < best.size:
            best = Lattice(count, period, step, length)
    return best


def padded_order(channels: int, multiple: int) -> tuple[int, ...]:
    """All channels, then gaps up to a multiple."""
    return (*range(channels), *(-1,) * (-channels % multiple))


def grouped_order(groups: int, channels: int, multiple: int) -> tuple[int, ...]:
    """Each group's ``channels``, then gaps up to a multiple."""
    one = padded_order(channels, multiple)
    return tuple(-1 if c < 0 else g * channels + c for g in range(groups) for c in one)


def permuted(order: Sequence[int], dims: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order after the channels, seen as an array of ``dims``, are transposed. The elements stay where they are."""
    old = np.arange(int(np.prod(dims))).reshape(dims).transpose(axes).ravel()
    new = np.empty_like(old)
    new[old] = np.arange(len(old))
    return tuple(-1 if c < 0 else int(new[c]) for c in order)
