"""Design spaces for Hypothesis to draw."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.toys import ToySpace
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob
from tilewright.space.space import Configs

__all__ = ["HUGE", "LONELY", "MIXED", "ONE_CONFIG", "ONE_KNOB", "Recipe", "recipes"]


@dataclass(frozen=True)
class Recipe:
    """How a space is made: its repr makes the same space in another process.

    Attributes:
        knobs: of each its kind and two numbers:
            ("split", extent, loops), ("choice", values, first), ("order", loops, 0).
        sieve: about one config in so many is valid, the default always.
        start: a number that chooses the default.
    """

    knobs: tuple[tuple[str, int, int], ...]
    sieve: int = 1
    start: int = 0

    def space(self) -> ToySpace:
        knobs = tuple(_knob(f"knob{i}", *spec) for i, spec in enumerate(self.knobs))
        start = tuple(self.start % len(knob) for knob in knobs)
        residue = _hash(np.asarray([start], dtype=np.int32))[0] % self.sieve
        return ToySpace(knobs, lambda configs: np.asarray(_hash(configs) % self.sieve == residue), start)


def _knob(name: str, kind: str, number: int, other: int) -> Knob:
    if kind == "split":
        return SplitKnob.exact(name, number, other)
    if kind == "order":
        return OrderKnob.of(name, list(itertools.permutations(range(number))))
    return ChoiceKnob.of(name, range(other, other + number))


def _hash(configs: Configs) -> NDArray[np.uint64]:
    """``(n,)``: numbers without a pattern; the constants are FNV's and Knuth's."""
    mixed = np.full(len(configs), 2166136261, dtype=np.uint64)
    for column in configs.T:
        mixed = ((mixed ^ column.astype(np.uint64)) * np.uint64(2654435761)) & np.uint64((1 << 48) - 1)
        mixed ^= mixed >> np.uint64(15)
    return mixed


ONE_CONFIG = Recipe((("choice", 1, 3), ("split", 1, 2), ("order", 1, 0)))
ONE_KNOB = Recipe((("split", 720, 2),))
LONELY = Recipe((("choice", 9, 0), ("split", 12, 2), ("order", 2, 0)), sieve=1 << 40, start=5)
MIXED = Recipe((("split", 36, 2), ("choice", 4, -2), ("order", 3, 0)), sieve=3, start=7)
HUGE = Recipe((("split", 4096, 4), ("split", 360, 3), ("order", 4, 0), *[("choice", 10, 1)] * 6), sieve=4)

_knobs = st.one_of(
    st.tuples(st.just("split"), st.integers(1, 60), st.integers(1, 3)),
    st.tuples(st.just("choice"), st.integers(1, 9), st.integers(-2, 8)),
    st.tuples(st.just("order"), st.integers(1, 3), st.just(0)),
)


def recipes(most: int) -> st.SearchStrategy[Recipe]:
    """Mixtures of all kinds of knobs, of at most ``most`` configs, with random constraints and defaults."""
    drawn = st.builds(
        Recipe,
        st.lists(_knobs, min_size=1, max_size=4).map(tuple),
        st.sampled_from([1, 1, 2, 5, 1 << 40]),
        st.integers(0, 50),
    )
    return drawn.filter(lambda recipe: math.prod(len(knob) for knob in recipe.space().knobs) <= most)
