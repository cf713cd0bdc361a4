"""The configs that a searcher must not propose: those that were measured, and those of its last proposals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.space.configs import ConfigSet
from tilewright.space.space import Configs

__all__ = ["Ledger"]


class Ledger:
    """The configs that a searcher has proposed or been told.

    A proposal that the sampler did not pick may be proposed again after the next tell. Until then it may not, because
    several asks in a row must give different configs.

    Attributes:
        told: every config that was told.
    """

    def __init__(self) -> None:
        self.told = ConfigSet()
        self._proposed = ConfigSet()

    def has(self, configs: Configs) -> NDArray[np.bool_]:
        """``(n,)``: which rows of ``configs`` must not be proposed now."""
        return self.told.has(configs) | self._proposed.has(configs)

    def propose(self, configs: Configs) -> None:
        """Note that ``configs`` are proposed."""
        self._proposed.add(configs)

    def tell(self, configs: Configs) -> None:
        """Note that ``configs`` were measured. Proposals without a measurement may be proposed again."""
        self.told.add(configs)
        if len(configs):
            self._proposed = ConfigSet()
