"""The base of design spaces whose programs have no closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.space.loop_nest import LoopNest
from tilewright.space.space import Configs

__all__ = ["KnobsAlone"]


class KnobsAlone:
    """A space without a closed form of its programs: cost models score the knobs alone. All configs are valid.

    Attributes:
        template: of the space.
        has_loop_nest: false.
        products: products of bytes that its programs add up at a time; 1: they compute in float32.
    """

    template: str
    has_loop_nest = False
    products: int = 1

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """All ``configs`` are valid: ``(n,)`` times true."""
        return np.ones(len(configs), dtype=np.bool_)

    def loop_nest(self, configs: Configs) -> LoopNest:
        """Refuses: the programs of ``configs`` have no closed form.

        Raises:
            SpaceError: always.
        """
        raise SpaceError(f"{self.template} has no loop nest in closed form; score its configs on their knobs")
