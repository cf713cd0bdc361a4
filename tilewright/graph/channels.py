"""Orders of the channels in a blocked tensor, with gaps, and the places of each group of channels.

A place is the number ``block * block length + lane``. An order lists the channel at each place; -1 is a gap. The lanes
of gaps hold finite numbers. Weights are zero there, so that these numbers change no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Lattice", "find_lattice", "grouped_order", "padded_order", "permuted"]


@dataclass(frozen=True)
class Lattice:
    """The places of each group's inputs: ``r * period + group * step + i`` for r < count and i < length.

    Attributes:
        count: the number of stretches of a group.
        period: the distance between two stretches of a group, in places.
        step: the distance between two groups, in places.
        length: the length of a stretch, in places.
    """

    count: int
    period: int
    step: int
    length: int

    @property
    def size(self) -> int:
        """The number of places of a group."""
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
    """The order of all channels, then gaps up to a multiple of ``multiple`` places."""
    return (*range(channels), *(-1,) * (-channels % multiple))


def grouped_order(groups: int, channels: int, multiple: int) -> tuple[int, ...]:
    """The order of each group's ``channels``, followed by gaps up to a multiple of ``multiple`` places."""
    one = padded_order(channels, multiple)
    return tuple(-1 if c < 0 else g * channels + c for g in range(groups) for c in one)


def permuted(order: Sequence[int], dims: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The order after a transposition of the channels, whose elements stay in their places.

    Args:
        order: the order before.
        dims: the shape of the channels as an array.
        axes: the order of these axes after the transposition.
    """
    old = np.arange(int(np.prod(dims))).reshape(dims).transpose(axes).ravel()
    new = np.empty_like(old)
    new[old] = np.arange(len(old))
    return tuple(-1 if c < 0 else int(new[c]) for c in order)
