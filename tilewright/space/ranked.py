"""The base of design spaces that rank configs by an estimate, and have no closed form of their programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tilewright.space.knob import Knob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.space import Configs

__all__ = ["RankedSpace"]


class RankedSpace(KnobsAlone, ABC):
    """A space whose default is the config with the fewest estimated cycles. Cost models score the knobs alone.

    Attributes:
        knobs: of the space.
    """

    knobs: tuple[Knob, ...]

    @cached_property
    def _best(self) -> Configs:
        return self._rank()

    @abstractmethod
    def _rank(self) -> Configs:
        """Configs by their estimated cycles, fewest first: at least one, and none twice. ``(n, knobs)``."""

    def default(self) -> NDArray[np.int32]:
        """The config with the fewest estimated cycles. ``(knobs,)``."""
        return np.array(self._best[0])

    def likely(self, count: int) -> Configs:
        """The default, then the configs with the next fewest cycles. ``(at most count, knobs)``."""
        return np.array(self._best[:count])

    def _combine(self, free: Sequence[int] | None = None) -> Configs:
        """All choices of the knobs at the places ``free``, or of all knobs. Others have their first. ``(n, knobs)``."""
        places = list(range(len(self.knobs)) if free is None else free)
        grid = np.indices([len(self.knobs[i]) for i in places]).reshape(len(places), -1).T
        configs = np.zeros((len(grid), len(self.knobs)), dtype=np.int32)
        configs[:, places] = grid
        return configs

    def _values(self, configs: Configs) -> list[NDArray[np.int64]]:
        """The choices of each knob that has a single number, ``(n,)`` each."""
        return [knob.table.take(configs[:, i], axis=0)[:, 0] for i, knob in enumerate(self.knobs)]
