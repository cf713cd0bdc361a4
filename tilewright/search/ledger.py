"""What a searcher must not propose: what was measured, and what is being considered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.space.configs import ConfigSet
from tilewright.space.space import Configs

__all__ = ["Ledger"]


class Ledger:
    """Which configs a searcher has proposed or been told.

    A proposal that a sampler passes over may be proposed again once something was told; until then it may not, for
    several asks in a row want different configs.

    Attributes:
        told: every config that was told.
    """

    def __init__(self) -> None:
        self.told = ConfigSet()
        self._proposed = ConfigSet()

    def has(self, configs: Configs) -> NDArray[np.bool_]:
        """``(n,)``: which rows must not be proposed now."""
        return self.told.has(configs) | self._proposed.has(configs)

    def propose(self, configs: Configs) -> None:
        """These are proposed."""
        self._proposed.add(configs)

    def tell(self, configs: Configs) -> None:
        """These were measured, and proposals that were not are open again."""
        self.told.add(configs)
        if len(configs):
            self._proposed = ConfigSet()
