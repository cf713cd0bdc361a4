"""From one task's configs to another's: the same choices where they exist, otherwise the nearest ones.

Published Schedule Sharing (Yu, TVM conference 2019) applied a config as it was, and on CPUs many did not
apply. Here every choice has a nearest one, and what is not valid then is repaired.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.space.configs import ConfigSet, canonical, check, distinct, empty, neighbours
from tilewright.space.knob import Knob, SplitKnob, points
from tilewright.space.space import Configs, DesignSpace

__all__ = ["comparable", "distance", "map_configs", "translate"]

#: At most so many knobs are changed to make a config valid, always from so many of the nearest that are not.
_REPAIRS, _BEAM = 3, 24


def comparable(source: Sequence[Knob], target: Sequence[Knob]) -> bool:
    """Whether two tasks' knobs are the same by name and kind, and their choices have the same parts."""
    if len(source) != len(target):
        return False
    pairs = zip(source, target, strict=True)
    return all(a.name == b.name and type(a) is type(b) and a.table.shape[1] == b.table.shape[1] for a, b in pairs)


def translate(source: Sequence[Knob], configs: Configs, target: Sequence[Knob]) -> Configs:
    """``(n, knobs)``: of each row and knob the same choice in ``target``, or the nearest; valid or not.

    Splits are the same where their inner factors are: the outermost follows from the extent. Which is the nearest is
    decided by :func:`tilewright.space.knob.points`, and among equals by the outermost factor, then by the order of the
    choices.

    Args:
        source: the knobs that ``configs`` are of.
        configs: ``(n, knobs)``.
        target: :func:`comparable` knobs.
    """
    columns = [_nearest(a, b)[configs[:, i]] for i, (a, b) in enumerate(zip(source, target, strict=True))]
    return np.stack(columns, axis=1).astype(np.int32) if columns else configs


def distance(knobs: Sequence[Knob], left: Configs, right: Configs) -> NDArray[np.float64]:
    """``(n, m)``: how far configs of one space are apart, in doublings (of a factor or a value), summed over knobs."""
    total = np.zeros((len(left), len(right)))
    for column, knob in enumerate(knobs):
        if len(knob) > 1:
            places = points(knob)
            total += _apart(places[left[:, column]], places[right[:, column]])
    return total


def map_configs(source: Sequence[Knob], configs: Configs, target: DesignSpace) -> Configs:
    """The configs of one task as configs of another, ``(at most n, knobs)``, valid, distinct, in their order.

    Each is translated (:func:`translate`). Where that is not valid, as few knobs as possible are changed, at most
    three, and those by as little as possible: the nearest valid one-knob neighbour; if none is valid, the neighbours of
    the nearest 24, and once more so. A config without a valid one nearby is left out.

    Args:
        source: the knobs that ``configs`` are of.
        configs: ``(n, knobs)``, the best first.
        target: where they are to go. With knobs that are not :func:`comparable` nothing can be carried over.
    """
    if len(configs) == 0 or not comparable(source, target.knobs):
        return empty(target)
    rows = canonical(target, check(target, translate(source, configs, target.knobs)))
    parts = [empty(target)]
    for row, valid in zip(rows, target.valid(rows).tolist(), strict=True):
        parts.append(row[None] if valid else _repaired(target, row))
    return distinct(np.concatenate(parts))


def _repaired(space: DesignSpace, row: NDArray[np.int32]) -> Configs:
    """The valid config nearest to ``row``, ``(1, knobs)``; ``(0, knobs)``: there is none within reach."""
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
    """``(choices of source,)``: the choice of ``target`` that comes nearest to each."""
    if source.choices == target.choices:
        return np.arange(len(source))
    apart = _apart(points(source), points(target))
    if isinstance(source, SplitKnob):
        outer, other = np.log2(1.0 + source.table[:, 0]), np.log2(1.0 + target.table[:, 0])
        # Never enough to make up for a difference of inner factors, which is at least log2(1 + 1/1024) or so.
        apart = apart + 1e-6 * np.abs(outer[:, None] - other[None, :])
    return np.asarray(apart.argmin(axis=1))


def _apart(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n, m)`` Euclidean distances."""
    return np.asarray(np.sqrt(((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)))
