"""The contract of a sampler: which of the proposals to measure."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.space.space import Configs

__all__ = ["Sampler"]


class Sampler(Protocol):
    """Chooses among proposals. Never measures, never prints, never imports TVM.

    Attributes:
        oversampling: how many proposals per pick it wants to choose from (1: no more than are picked).
    """

    @property
    def oversampling(self) -> float: ...

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs to measure.

        Args:
            configs: ``(n, knobs)`` proposals, all valid, unmeasured and different.
            scores: ``(n,)`` predictions, higher is faster.
            count: how many to measure.
        """
        ...
