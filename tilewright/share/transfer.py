"""Carries configs from one task to another: by the same choices where these exist, otherwise by the nearest ones.

Published Schedule Sharing (Yu, TVM conference 2019) took over configs unchanged, and on CPUs many did not apply. Here
every choice has a nearest choice, and invalid results are repaired.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.space.configs import ConfigSet, canonical, check, distinct, empty, neighbours
from tilewright.space.knob import Knob, SplitKnob, points
from tilewright.space.space import Configs, DesignSpace

__all__ = ["comparable", "distance", "map_configs", "translate"]

#: The most knobs that are changed to make a config valid, and the invalid neighbours from which the next change starts.
_REPAIRS, _BEAM = 3, 24


def comparable(source: Sequence[Knob], target: Sequence[Knob]) -> bool:
    """Whether the knobs of two tasks have the same names and kinds, and choices with the same number of parts."""
    if len(source) != len(target):
        return False
    pairs = zip(source, target, strict=True)
    return all(a.name == b.name and type(a) is type(b) and a.table.shape[1] == b.table.shape[1] for a, b in pairs)


def translate(source: Sequence[Knob], configs: Configs, target: Sequence[Knob]) -> Configs:
    """The same or the nearest choices among the ``target`` knobs, ``(n, knobs)``, valid or not.

    Two splits are the same if their inner factors are the same, because the outermost factor follows from the extent.
    :func:`tilewright.space.knob.points` defines the distance. Ties are decided by the outermost factor, then by the
    order of the choices.

    Args:
        source: the knobs of ``configs``.
        configs: ``(n, knobs)``.
        target: :func:`comparable` knobs.
    """
    columns = [_nearest(a, b)[configs[:, i]] for i, (a, b) in enumerate(zip(source, target, strict=True))]
    return np.stack(columns, axis=1).astype(np.int32) if columns else configs


def distance(knobs: Sequence[Knob], left: Configs, right: Configs) -> NDArray[np.float64]:
    """The ``(n, m)`` distances of configs of one space: the sum over knobs, in doublings of a factor or a value."""
    total = np.zeros((len(left), len(right)))
    for column, knob in enumerate(knobs):
        if len(knob) > 1:
            places = points(knob)
            total += _apart(places[left[:, column]], places[right[:, column]])
    return total


def map_configs(source: Sequence[Knob], configs: Configs, target: DesignSpace) -> Configs:
    """Carry configs of one task over to another: ``(at most n, knobs)``, valid, distinct, in their order.

    Each config is translated (:func:`translate`). An invalid result is repaired by the fewest and smallest changes. It
    becomes its nearest valid one-knob neighbour, or else a valid neighbour of the 24 nearest neighbours, and so on up
    to three changed knobs. A config without a valid one in reach is left out.

    Args:
        source: the knobs of ``configs``.
        configs: ``(n, knobs)``, the best first.
        target: the space of the other task. Nothing is carried over if its knobs are not :func:`comparable`.
    """
    if len(configs) == 0 or not comparable(source, target.knobs):
        return empty(target)
    rows = canonical(target, check(target, translate(source, configs, target.knobs)))
    parts = [empty(target)]
    for row, valid in zip(rows, target.valid(rows).tolist(), strict=True):
        parts.append(row[None] if valid else _repair(target, row))
    return distinct(np.concatenate(parts))


def _repair(space: DesignSpace, row: NDArray[np.int32]) -> Configs:
    """The valid config nearest to ``row``, ``(1, knobs)``; ``(0, knobs)`` if none is in reach."""
    beam, seen = row[None], ConfigSet()
    seen.add(beam)
    for _ in range(_REPAIRS):
        near = distinct(np.concatenate([neighbours(space, centre) for centre in beam]))
        near = near[~seen.has(near)]
        if len(near) == 0:
            break
        seen.add(near)
        near = near[np.argsort(distance(space.knobs, near, row[None])[:, 0], kind="stable")]
        valid = near[space.valid(near)]
        if len(valid):
            return np.asarray(valid[:1])
        beam = near[:_BEAM]
    return empty(space)


def _nearest(source: Knob, target: Knob) -> NDArray[np.intp]:
    """The nearest choice of ``target`` to each choice of ``source``, ``(choices of source,)``."""
    if source.choices == target.choices:
        return np.arange(len(source))
    apart = _apart(points(source), points(target))
    if isinstance(source, SplitKnob):
        outer, other = np.log2(1.0 + source.table[:, 0]), np.log2(1.0 + target.table[:, 0])
        # This term is too small to outweigh a difference of inner factors, which is at least about log2(1 + 1/1024).
        apart = apart + 1e-6 * np.abs(outer[:, None] - other[None, :])
    return np.asarray(apart.argmin(axis=1))


def _apart(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ``(n, m)`` Euclidean distances."""
    return np.asarray(np.sqrt(((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)))
