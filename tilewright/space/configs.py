"""Vectorised operations on the configs of any design space: draw, mutate, cross, list neighbours, tell apart.

Configs are ``(n, knobs)`` int32 arrays of knob indices. Which of them are valid is up to the space
(``DesignSpace.valid``). Only :func:`sample` asks for it.

In some spaces a knob may be idle: the choice of another knob makes it useless. Such a space offers
``canonical(configs)``, which sets idle knobs to 0, so that each program has one config. All functions here that make
configs apply it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.space.space import Configs, DesignSpace

__all__ = [
    "ConfigSet",
    "Contains",
    "canonical",
    "cardinalities",
    "check",
    "choices_of",
    "crossover",
    "distinct",
    "empty",
    "from_keys",
    "keys",
    "knob_values",
    "mutate",
    "neighbours",
    "sample",
    "size",
]

#: A function that says which of ``(n, knobs)`` configs are in a set, ``(n,)``; such as ``ConfigSet.has``.
Contains: TypeAlias = Callable[[Configs], NDArray[np.bool_]]

#: Configs of the largest space that is listed in full, where rejection does not find enough.
_ENUMERABLE = 1 << 18
#: Rows that are handled at a time. It bounds the memory of a draw.
_CHUNK = 1 << 16
#: Draws that rejection may spend: at least so many, and so many for each config that is asked for.
_DRAWS, _DRAWS_PER_CONFIG = 1 << 16, 32
#: Rounds, and moves in each round, of the walk through a space that is too large to list and too sparse to hit.
_WALK_ROUNDS, _WALK_MOVES = 64, 512
#: Tries to find a knob that is not idle.
_MUTATIONS = 32


def cardinalities(space: DesignSpace) -> NDArray[np.int64]:
    """``(knobs,)`` int64: the number of choices of each knob."""
    return np.asarray([len(knob) for knob in space.knobs], dtype=np.int64)


def size(space: DesignSpace) -> int:
    """The number of configs of ``space``, valid or not; exact however large."""
    return math.prod(len(knob) for knob in space.knobs)


def empty(space: DesignSpace) -> Configs:
    """``(0, knobs)`` int32: no configs."""
    return np.empty((0, len(space.knobs)), dtype=np.int32)


def check(space: DesignSpace, configs: Configs) -> Configs:
    """``configs`` of ``space`` as a contiguous ``(n, knobs)`` int32 array.

    Raises:
        SpaceError: they have another shape, are no integers, or hold an index that its knob does not have.
    """
    given = np.asarray(configs)
    width = len(space.knobs)
    if given.ndim != 2 or given.shape[1] != width:
        raise SpaceError(f"configs of {space.template} have shape (n, {width}), but these have {given.shape}")
    if given.dtype.kind not in "iu":
        raise SpaceError(f"configs are rows of integers, but these are of type {given.dtype}; convert them to int32")
    wrong = (given < 0) | (given >= cardinalities(space))
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        knob = space.knobs[column]
        raise SpaceError(
            f"knob {knob.name!r} of {space.template} has indices 0 to {len(knob) - 1}, but row {row} has "
            f"{given[row, column]}; was it written by another version of the template?"
        )
    return np.ascontiguousarray(given, dtype=np.int32)


def choices_of(space: DesignSpace, config: NDArray[np.int32]) -> tuple[tuple[int, ...], ...]:
    """What each knob of ``space`` is set to in one ``config``, ``(knobs,)``.

    Raises:
        SpaceError: ``config`` is no config of the space.
    """
    row = check(space, np.asarray(config)[None])[0]
    return tuple(knob.choices[int(i)] for knob, i in zip(space.knobs, row, strict=True))


def canonical(space: DesignSpace, configs: Configs) -> Configs:
    """``configs`` with idle knobs at 0 (:class:`tilewright.space.space.Canonical`); as they are in other spaces."""
    rewrite: Callable[[Configs], Configs] | None = getattr(space, "canonical", None)
    return configs if rewrite is None else rewrite(configs)


def keys(configs: Configs) -> NDArray[np.void]:
    """``(n,)`` one opaque value for each row. Two values are equal if their rows are: for ``np.unique`` and sets.

    ``keys(configs).tolist()`` is a list of hashable ``bytes``.
    """
    count, width = configs.shape
    if width == 0:
        return np.zeros(count, dtype=np.dtype((np.void, 1)))
    rows = np.ascontiguousarray(configs, dtype=np.int32)
    return rows.view(np.dtype((np.void, rows.itemsize * width))).reshape(count)


def from_keys(space: DesignSpace, rows: list[bytes]) -> Configs:
    """``(n, knobs)`` int32: the configs whose :func:`keys` these are."""
    width = len(space.knobs)
    if width == 0:
        return np.zeros((len(rows), 0), dtype=np.int32)
    return np.frombuffer(b"".join(rows), dtype=np.int32).reshape(-1, width).copy()


def distinct(configs: Configs) -> Configs:
    """The rows of ``configs`` without repeats, each where it first occurred. ``(m, knobs)``."""
    names = keys(configs).tolist()
    # Later writes win, so walking backwards leaves each row's first position.
    first = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))
    return configs if len(first) == len(names) else configs[np.sort(np.fromiter(first.values(), dtype=np.intp))]


class ConfigSet:
    """A growing set of configs of one space."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, configs: Configs) -> None:
        """Put in every row of ``configs``, ``(n, knobs)``."""
        self._keys.update(keys(configs).tolist())

    def has(self, configs: Configs) -> NDArray[np.bool_]:
        """``(n,)``: which rows of ``configs`` are in the set."""
        known = self._keys
        return np.fromiter((key in known for key in keys(configs).tolist()), dtype=np.bool_, count=len(configs))


def sample(space: DesignSpace, rng: np.random.Generator, count: int, exclude: Contains | None = None) -> Configs:
    """At most ``count`` random valid configs, ``(n, knobs)``, no two equal and none that ``exclude`` contains.

    The draw is uniform among what is left (with idle knobs: uniform in each knob that is used), by rejection. A space
    of at most 2^18 configs is listed if rejection finds too few. So fewer are returned only if there are fewer. In a
    larger space that is nearly all invalid, the rest are found by random one-knob moves from valid configs, first of
    all from the default. Then fewer may be returned than exist.

    Args:
        space: the design space.
        rng: the only source of randomness.
        count: the most configs to return.
        exclude: tells which configs must not be returned; None excludes nothing.
    """
    draw = _Draw(count, exclude, empty(space))
    total = size(space)
    small = total <= _ENUMERABLE
    # If a quarter of the space is wanted, listing it is cheaper than guessing what is left of it.
    if count > 0 and ((small and total <= 4 * count) or not _by_rejection(space, rng, draw)):
        if small:
            draw.take(rng.permutation(_every_valid(space), axis=0))
        else:
            _by_walking(space, rng, draw)
    return np.concatenate(draw.parts)


class _Draw:
    """The configs that a call of :func:`sample` has found so far."""

    def __init__(self, count: int, exclude: Contains | None, start: Configs) -> None:
        self.missing = count
        self.parts = [start]
        self._found = ConfigSet()
        self._exclude = exclude

    def take(self, valid: Configs) -> bool:
        """Keep the new ones among ``valid`` configs. Returns whether enough are found."""
        new = valid[~self._found.has(valid)]
        if self._exclude is not None:
            new = new[~self._exclude(new)]
        rows = distinct(new)[: self.missing]
        self._found.add(rows)
        self.parts.append(rows)
        self.missing -= len(rows)
        return self.missing <= 0


def _by_rejection(space: DesignSpace, rng: np.random.Generator, draw: _Draw) -> bool:
    choices = cardinalities(space)
    left = max(_DRAWS, _DRAWS_PER_CONFIG * draw.missing)
    batch = draw.missing + 16
    while left > 0:
        batch = min(batch, _CHUNK, left)
        rows = canonical(space, rng.integers(0, choices, size=(batch, len(choices)), dtype=np.int32))
        before = draw.missing
        if draw.take(rows[space.valid(rows)]):
            return True
        left -= batch
        # The yield of the last batch suggests how many draws are needed. A small batch says little: at most 4 times it.
        batch = min(4 * batch, int(1.2 * batch * draw.missing / max(1, before - draw.missing)) + 16)
    return False


def _every_valid(space: DesignSpace) -> Configs:
    shape = tuple(len(knob) for knob in space.knobs)
    parts = [empty(space)]
    for start in range(0, size(space), _CHUNK):
        index = np.arange(start, min(start + _CHUNK, size(space)))
        rows = np.zeros((len(index), len(shape)), dtype=np.int32)
        if shape:
            rows[:] = np.stack(np.unravel_index(index, shape), axis=1)
        parts.append(rows[space.valid(rows)])
    return np.concatenate(parts)


def _by_walking(space: DesignSpace, rng: np.random.Generator, draw: _Draw) -> None:
    known = np.concatenate([space.default()[None].astype(np.int32), *draw.parts])
    draw.take(known[:1])
    for _ in range(_WALK_ROUNDS):
        if draw.missing <= 0:
            return
        rows = distinct(mutate(space, rng, known[rng.integers(0, len(known), size=_WALK_MOVES)]))
        rows = rows[space.valid(rows)]
        draw.take(rows)
        known = np.concatenate([known, rows])


def mutate(space: DesignSpace, rng: np.random.Generator, configs: Configs) -> Configs:
    """``(n, knobs)``: each row with one knob moved to another of its choices (AutoTVM's move, arXiv 1805.08166).

    The knob is uniform among those that have a choice and are not idle. The value is uniform among the knob's others.
    If no knob has a choice, rows stay as they are. The result may be invalid.

    Args:
        space: the design space.
        rng: the only source of randomness.
        configs: the rows to move, ``(n, knobs)``; they are not changed.
    """
    choices = cardinalities(space)
    free = np.flatnonzero(choices > 1)
    moved = np.array(configs, dtype=np.int32)
    rows = np.arange(len(moved) if len(free) else 0)
    idle = hasattr(space, "canonical")
    # The move of an idle knob is undone, and its row tries again. With half of the knobs idle, 32 tries fail for one
    # row in 4 billion.
    for _ in range(_MUTATIONS):
        columns = free[rng.integers(0, len(free), size=len(rows))]
        most = choices[columns]
        # A shift by 1 to k - 1 modulo k gives each other value with equal chance, and never the present one.
        shift = rng.integers(1, most, dtype=np.int64)
        moved[rows, columns] = (moved[rows, columns] + shift) % most
        if not idle:
            break
        moved[rows] = canonical(space, moved[rows])
        rows = rows[(moved[rows] == configs[rows]).all(axis=1)]
        if len(rows) == 0:
            break
    return moved


def crossover(space: DesignSpace, rng: np.random.Generator, left: Configs, right: Configs) -> Configs:
    """``(n, knobs)``: children that take each knob from either parent, row by row. The result may be invalid.

    Args:
        space: the design space.
        rng: the only source of randomness.
        left: one parent of each child, ``(n, knobs)``.
        right: the other parent of each child, ``(n, knobs)``.
    """
    children = np.where(rng.integers(0, 2, size=left.shape, dtype=np.int8) == 1, left, right)
    return canonical(space, children.astype(np.int32))


def neighbours(space: DesignSpace, config: NDArray[np.int32]) -> Configs:
    """``(sum of choices - knobs, knobs)``: configs of ``space`` that differ from ``config`` in one knob, valid or not.

    There are fewer where knobs are idle: rows are canonical, distinct, and none is ``config``.
    """
    choices = cardinalities(space)
    columns = np.repeat(np.arange(len(choices)), choices)
    values = np.concatenate([np.arange(c) for c in choices]) if len(choices) else np.empty(0, dtype=np.int64)
    other = values != config[columns]
    rows = np.tile(config.astype(np.int32), (int(other.sum()), 1))
    rows[np.arange(len(rows)), columns[other]] = values[other]
    near = canonical(space, rows)
    if near is rows:
        return rows
    moved: Configs = near[(near != config).any(axis=1)]
    return distinct(moved)


def knob_values(space: DesignSpace, configs: Configs) -> NDArray[np.float32]:
    """``(n, features)`` float32: what the choices of ``configs`` mean, for :class:`tilewright.cost.model.KnobTable`.

    They are the :attr:`tilewright.space.knob.Knob.features` of one knob of ``space`` after the other.
    """
    columns = [np.empty((len(configs), 0), dtype=np.float32)]
    # table[indices] would take twice as long.
    columns += [knob.features.take(configs[:, index], axis=0) for index, knob in enumerate(space.knobs)]
    return np.concatenate(columns, axis=1)
