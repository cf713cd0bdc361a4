"""Random search, the baseline of every other searcher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.search.ledger import Ledger
from tilewright.space.configs import check, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["RandomSearch"]


class RandomSearch:
    """Proposes uniformly random valid configs, each once.

    Attributes:
        seen: the configs that must not be proposed.
    """

    def __init__(self, space: DesignSpace, rng: np.random.Generator) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng

    def ask(self, count: int) -> Configs:
        """At most ``count`` new random configs, ``(n, knobs)``; fewer if the space is exhausted."""
        configs = sample(self._space, self._rng, count, self.seen.has)
        self.seen.propose(configs)
        return configs

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Note that ``configs`` were measured.

        Raises:
            SpaceError: a row is not of the space.
        """
        self.seen.tell(check(self._space, configs))
