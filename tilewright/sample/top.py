"""Picks the proposals with the best scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.space.configs import distinct
from tilewright.space.space import Configs

__all__ = ["TopK", "best_first"]


def best_first(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    """The ``(n,)`` rows by falling scores. Rows with nan are last, and equal scores keep their order."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")


class TopK:
    """Picks the proposals with the highest scores, highest first.

    Attributes:
        oversampling: 1, because a searcher proposes its best configs first.
    """

    oversampling = 1.0

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs, ``(n, knobs)``; nan scores come last."""
        return distinct(configs[best_first(scores)])[: max(count, 0)]
