"""Knobs: named finite choices. A config holds one index per knob."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError

__all__ = ["ChoiceKnob", "Knob", "OrderKnob", "SplitKnob", "divisors", "points"]


def divisors(extent: int) -> list[int]:
    """The divisors of ``extent``, ascending."""
    small = [d for d in range(1, math.isqrt(extent) + 1) if extent % d == 0]
    return sorted({*small, *(extent // d for d in small)})


@dataclass(frozen=True)
class Knob:
    """A named finite choice.

    Attributes:
        name: unique within its space.
        choices: the meaning of each index. All are tuples of ints, of one length.
    """

    name: str
    choices: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise SpaceError(f"a knob needs at least one choice, but {self.name!r} has none; leave the knob out")
        if len(set(self.choices)) != len(self.choices):
            raise SpaceError(f"the choices of a knob differ from each other, but those of {self.name!r} repeat")

    def __len__(self) -> int:
        return len(self.choices)

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """``(choices, width)``: the choices as an array, to look up whole columns of configs."""
        return np.asarray(self.choices, dtype=np.int64).reshape(len(self.choices), -1)

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """``(choices, width)``: the choices as a cost model sees them, here the numbers themselves."""
        return self.table.astype(np.float32)


@dataclass(frozen=True)
class ChoiceKnob(Knob):
    """One of some numbers. ``ChoiceKnob.of("unroll", [1, 2, 4])``."""

    @classmethod
    def of(cls, name: str, values: Sequence[int]) -> ChoiceKnob:
        """A knob called ``name`` whose choices are ``values``."""
        return cls(name, tuple((int(v),) for v in values))


@dataclass(frozen=True)
class SplitKnob(Knob):
    """A split of a loop of ``extent`` into an outer loop and ``parts - 1`` inner ones.

    A choice lists all factors from outside in. Their product is the extent. Where tails are allowed, it is the smallest
    multiple of the inner factors' product that covers the extent.
    """

    extent: int = 1

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """``(choices, parts)``: log2(1 + factor), so that equal ratios are equal steps."""
        return np.asarray(np.log2(1.0 + self.table), dtype=np.float32)

    @classmethod
    def exact(cls, name: str, extent: int, parts: int, most: Sequence[int | None] | None = None) -> SplitKnob:
        """Every way to write ``extent`` as a product of ``parts`` factors.

        Args:
            name: the knob's name.
            extent: the loop's trip count.
            parts: number of factors.
            most: for each inner factor (``parts - 1`` of them) its upper bound, or None.
        """
        return cls.of(name, extent, [divisors(extent)] * (parts - 1), most, exact=True)

    @classmethod
    def of(
        cls,
        name: str,
        extent: int,
        inner: Sequence[Sequence[int]],
        most: Sequence[int | None] | None = None,
        exact: bool = False,
    ) -> SplitKnob:
        """Every combination of the ``inner`` factors. The outermost factor covers the rest.

        Args:
            name: the knob's name.
            extent: the loop's trip count.
            inner: the factors that each inner loop may have, from outside in.
            most: for each inner factor its upper bound, or None.
            exact: drop splits with a tail.
        """
        bounds = most or [None] * len(inner)
        allowed = [[f for f in fs if b is None or f <= b] for fs, b in zip(inner, bounds, strict=True)]
        choices = []
        for factors in itertools.product(*allowed):
            product = math.prod(factors)
            if (exact and extent % product) or (product > extent and product > 1):
                continue
            choices.append((-(-extent // product), *factors))
        return cls(name, tuple(choices), extent)


@dataclass(frozen=True)
class OrderKnob(Knob):
    """An order of ``k`` loops. A choice is a permutation of ``range(k)``, outermost loop first."""

    @classmethod
    def of(cls, name: str, orders: Sequence[Sequence[int]]) -> OrderKnob:
        """A knob called ``name`` whose choices are ``orders``."""
        return cls(name, tuple(tuple(o) for o in orders))


def points(knob: Knob) -> NDArray[np.float64]:
    """``(choices, dimensions)``: where the choices of a knob lie. Choices that are near make similar programs.

    The coordinates are the places of an order's loops, the inner factors of a split, or the values of another knob;
    factors and values as logarithms to base 2.
    """
    table = knob.table.astype(np.float64)
    if isinstance(knob, OrderKnob):
        return np.argsort(table, axis=1).astype(np.float64)
    if isinstance(knob, SplitKnob):
        return np.asarray(np.log2(1.0 + table[:, 1:]))
    return np.asarray(np.sign(table) * np.log2(1.0 + np.abs(table)))
