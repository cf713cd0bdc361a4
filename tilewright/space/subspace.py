"""A part of a design space that is small enough to be measured in full, for recorded tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.space.configs import canonical, cardinalities, sample
from tilewright.space.knob import Knob
from tilewright.space.loop_nest import LoopNest
from tilewright.space.space import Configs, DesignSpace
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["Subspace", "thinned"]

#: Configs that are drawn to estimate the share of valid ones.
_DRAWN = 20_000


class Subspace:
    """A space with fewer choices of each knob.

    Args:
        whole: the space.
        kept: for each knob the indices of the choices that stay, ascending. The choice of the default must stay, and
            0 where the space has idle knobs.

    Attributes:
        whole: the space.
        kept: the choices that stay.
        task, template, knobs, has_loop_nest: as in :class:`tilewright.space.space.DesignSpace`.
        canonical: as in :class:`tilewright.space.space.Canonical`; missing where the whole space has none.

    Raises:
        SpaceError: a knob has no such choices, or a choice that must stay is missing.
    """

    def __init__(self, whole: DesignSpace, kept: Sequence[Sequence[int]]) -> None:
        self.whole = whole
        self.kept = tuple(np.asarray(k, dtype=np.int32) for k in kept)
        if len(self.kept) != len(whole.knobs):
            raise SpaceError(f"{whole.template} has {len(whole.knobs)} knobs, but choices are kept of {len(self.kept)}")
        for knob, start, k in zip(whole.knobs, whole.default().tolist(), self.kept, strict=True):
            needed = {start, 0} if _has_idle_knobs(whole) else {start}
            if not needed <= set(k.tolist()) or (np.diff(k) <= 0).any() or k[0] < 0 or k[-1] >= len(knob):
                raise SpaceError(
                    f"of knob {knob.name!r} with {len(knob)} choices a part keeps some, ascending, with "
                    f"{sorted(needed)} among them, but not {k.tolist()}"
                )
        self.task: Task = whole.task
        self.template = f"{whole.template}-part"
        self.has_loop_nest = whole.has_loop_nest
        self.knobs: tuple[Knob, ...] = tuple(
            replace(knob, choices=tuple(knob.choices[i] for i in k))
            for knob, k in zip(whole.knobs, self.kept, strict=True)
        )
        if _has_idle_knobs(whole):
            self.canonical = self._canonical

    def of_whole(self, configs: Configs) -> Configs:
        """The same configs in the indices of the whole space. ``(n, knobs)``."""
        columns = [k[configs[:, i]] for i, k in enumerate(self.kept)]
        return np.stack(columns, axis=1) if columns else configs

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs keep the constraints of the whole space. ``(n,)``."""
        return self.whole.valid(self.of_whole(configs))

    def _canonical(self, configs: Configs) -> Configs:
        """The configs with idle knobs at 0. ``(n, knobs)``."""
        rows = self.of_whole(configs)
        # Choice 0 stays, and it is the first. So it is 0 here, too.
        return np.where(canonical(self.whole, rows) != rows, 0, configs).astype(np.int32)

    def loop_nest(self, configs: Configs) -> LoopNest:
        """The programs in closed form."""
        return self.whole.loop_nest(self.of_whole(configs))

    def default(self) -> NDArray[np.int32]:
        """The default of the whole space. ``(knobs,)``."""
        start = self.whole.default()
        return np.asarray([int(np.searchsorted(k, i)) for k, i in zip(self.kept, start, strict=True)], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config."""
        return self.whole.schedule(self.of_whole(np.asarray(config, dtype=np.int32)[None])[0])


def thinned(whole: DesignSpace, most: int, seed: int = 0) -> Subspace:
    """A part of at most about ``most`` valid configs.

    Every other choice of the knob with the most choices goes, until the part is small enough. A knob keeps at least two
    choices, so the part of a space with many knobs may be larger.

    Args:
        whole: the space.
        most: how many valid configs the part may have.
        seed: of the estimate of how many configs are valid. The same seed gives the same part, in every process.
    """
    start = whole.default()
    kept = [list(range(len(knob))) for knob in whole.knobs]
    while True:
        part = Subspace(whole, kept)
        if _valid(part, seed) <= most:
            return part
        column = int(np.argmax([len(k) for k in kept]))
        if len(kept[column]) <= 2:
            return part
        at = kept[column].index(int(start[column]))
        kept[column] = [c for i, c in enumerate(kept[column]) if i % 2 == at % 2 or (c == 0 and _has_idle_knobs(whole))]


def _has_idle_knobs(space: DesignSpace) -> bool:
    return hasattr(space, "canonical")


def _valid(space: Subspace, seed: int) -> float:
    """About how many configs are valid: exact for small spaces; at least one in ``_DRAWN`` configs for large ones."""
    choices = cardinalities(space)
    total = float(np.prod(choices.astype(np.float64)))
    if total <= 1 << 18:
        return float(len(sample(space, np.random.default_rng(seed), int(total))))
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, choices, size=(_DRAWN, len(choices)), dtype=np.int32)
    return total * max(int(space.valid(rows).sum()), 1) / _DRAWN
