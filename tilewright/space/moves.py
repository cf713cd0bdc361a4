"""Small moves: the choices next to a choice of a knob, and the configs next to a config."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tilewright.space.configs import canonical, distinct, empty
from tilewright.space.knob import Knob, OrderKnob, SplitKnob
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Moves", "nearby", "steps"]


class Moves:
    """The configs one small move away from a config.

    G-BFS and N-A2C (arXiv 1909.10616, section 4) move a factor of 2 from one level of a split to another. Here every
    prime factor moves, in every split knob. The other knobs move to a choice next to the present one.

    Args:
        space: the design space of the configs.
    """

    def __init__(self, space: DesignSpace) -> None:
        self._space = space
        self._near = [nearby(knob) for knob in space.knobs]

    def of(self, config: NDArray[np.int32]) -> Configs:
        """``(n, knobs)``: the valid configs next to ``config``, without repeats."""
        parts = [empty(self._space)]
        for column, near in enumerate(self._near):
            choices = near[int(config[column])]
            rows = np.tile(np.asarray(config, dtype=np.int32), (len(choices), 1))
            rows[:, column] = choices
            parts.append(rows)
        rows = canonical(self._space, np.concatenate(parts))
        rows = rows[(rows != config).any(axis=1)]
        return distinct(rows[self._space.valid(rows)])


@cache
def nearby(knob: Knob) -> tuple[NDArray[np.int32], ...]:
    """For each choice of ``knob`` the indices of the choices next to it, ascending.

    - Splits: a prime factor moves from one loop to another, or one inner factor becomes the next larger or smaller one
      of the knob. Where a tile need not divide the loop, the outermost factor covers the rest.
    - Orders: two loops change places.
    - Other knobs: the choices before and after.
    """
    if isinstance(knob, SplitKnob):
        return _of_split(knob)
    if isinstance(knob, OrderKnob):
        return _of_order(knob)
    last = len(knob) - 1
    return tuple(np.asarray([j for j in (i - 1, i + 1) if 0 <= j <= last], dtype=np.int32) for i in range(len(knob)))


def _of_split(knob: SplitKnob) -> tuple[NDArray[np.int32], ...]:
    inner = {choice[1:]: index for index, choice in enumerate(knob.choices)}
    near: list[set[int]] = [set() for _ in knob.choices]
    parts = len(knob.choices[0])
    for index, choice in enumerate(knob.choices):
        factors = list(choice[1:])
        for source, prime in ((s, p) for s in range(parts) for p in _primes(choice[s])):
            for target in range(parts):
                moved = list(factors)
                if source > 0:
                    moved[source - 1] //= prime
                if target > 0:
                    moved[target - 1] *= prime
                other = inner.get(tuple(moved))
                if source != target and other is not None:
                    near[index].add(other)
                    # The way back may not exist by itself: with tails, the outermost factor may lack the prime.
                    near[other].add(index)
    # The next value of one factor while the other inner factors stay: tiles may have no prime in common.
    for position in range(parts - 1):
        lines: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for factors_, index in inner.items():
            lines.setdefault(factors_[:position] + factors_[position + 1 :], []).append((factors_[position], index))
        for line in lines.values():
            for (_, one), (_, next_) in itertools.pairwise(sorted(line)):
                near[one].add(next_)
                near[next_].add(one)
    return tuple(np.asarray(sorted(n - {i}), dtype=np.int32) for i, n in enumerate(near))


def _of_order(knob: OrderKnob) -> tuple[NDArray[np.int32], ...]:
    table = knob.table
    differ = (table[:, None, :] != table[None, :, :]).sum(axis=2)
    return tuple(np.flatnonzero(row == 2).astype(np.int32) for row in differ)


@cache
def _primes(number: int) -> tuple[int, ...]:
    """The prime factors of ``number``, each once."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            found.append(divisor)
            while number % divisor == 0:
                number //= divisor
        divisor += 1
    return tuple([*found, number] if number > 1 else found)


@cache
def steps(knob: Knob) -> NDArray[np.int32]:
    """``(choices, actions)``: the choice that each action leads to from each choice; -1 where it leads nowhere.

    A split of ``p`` loops has ``p (p - 1)`` actions. Each moves the smallest prime that can move from one loop to
    another. Where no prime can, an inner loop gets the next larger or smaller factor of the knob. An order has one
    action for each pair of neighbouring loops, which change places. Other knobs have two: the choice before, and the
    choice after.
    """
    if isinstance(knob, SplitKnob):
        return _steps_of_split(knob)
    if isinstance(knob, OrderKnob):
        return _steps_of_order(knob)
    index = np.arange(len(knob), dtype=np.int32)
    return np.stack([index - 1, np.where(index + 1 < len(knob), index + 1, -1)], axis=1).astype(np.int32)


def _steps_of_split(knob: SplitKnob) -> NDArray[np.int32]:
    inner = {choice[1:]: index for index, choice in enumerate(knob.choices)}
    parts = len(knob.choices[0])
    pairs = [(s, t) for s in range(parts) for t in range(parts) if s != t]
    table = np.full((len(knob), len(pairs)), -1, dtype=np.int32)
    for index, choice in enumerate(knob.choices):
        for action, (source, target) in enumerate(pairs):
            for prime in _primes(choice[source]):
                moved = list(choice)
                moved[source] //= prime
                moved[target] *= prime
                other = inner.get(tuple(moved[1:]), -1)
                if other >= 0:
                    table[index, action] = other
                    break
            else:
                if 0 in (source, target):
                    table[index, action] = _next_factor(inner, choice, source or target, larger=source == 0)
    return table


def _next_factor(inner: dict[tuple[int, ...], int], choice: tuple[int, ...], part: int, *, larger: bool) -> int:
    """The split in which one inner factor is the next larger or smaller one, and the other inner ones are equal."""
    rest = choice[1:part] + choice[part + 1 :]
    line = sorted((f[part - 1], i) for f, i in inner.items() if f[: part - 1] + f[part:] == rest)
    values = [factor for factor, _ in line]
    place = values.index(choice[part]) + (1 if larger else -1)
    return line[place][1] if 0 <= place < len(line) else -1


def _steps_of_order(knob: OrderKnob) -> NDArray[np.int32]:
    index = {choice: number for number, choice in enumerate(knob.choices)}
    width = max(len(knob.choices[0]) - 1, 1)
    table = np.full((len(knob), width), -1, dtype=np.int32)
    for number, choice in enumerate(knob.choices):
        for place in range(len(choice) - 1):
            swapped = list(choice)
            swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
            table[number, place] = index.get(tuple(swapped), -1)
    return table
