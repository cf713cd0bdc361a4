"""The contract of a sampler, which picks the proposals to measure."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tilewright.space.space import Configs

__all__ = ["Sampler"]


class Sampler(Protocol):
    """Picks among proposals. Never measures, never prints, never imports TVM.

    Attributes:
        oversampling: the number of proposals that it needs per pick, at least 1.
    """

    @property
    def oversampling(self) -> float: ...

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs to measure.

        Args:
            configs: ``(n, knobs)`` proposals, all valid, not measured, and different.
            scores: the ``(n,)`` predictions of the cost model, where higher is faster.
            count: the most configs to measure.
        """
        ...
