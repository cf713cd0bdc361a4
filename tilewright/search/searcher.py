"""The contract of a searcher: what to propose next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.space.space import Configs

__all__ = ["Scorer", "Searcher"]

#: Scores ``(n, knobs)`` configs: ``(n,)`` float64, higher is predicted faster.
Scorer: TypeAlias = Callable[[Configs], NDArray[np.float64]]


class Searcher(Protocol):
    """Proposes configs. Never measures, never prints, never imports TVM.

    A searcher is built with a design space, a ``numpy.random.Generator``, and, where it is guided by
    a cost model, a :data:`Scorer`.
    """

    def ask(self, count: int) -> Configs:
        """At most ``count`` valid configs, no two equal, none told before, none asked for since the last tell.

        Fewer, or none, when it has no more to propose. (A proposal that a sampler passed over may come again.)
        """
        ...

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Learn the measured latency of ``(n, knobs)`` configs, in seconds; nan: the candidate failed.

        Configs that were never asked for may be told as well (records of an earlier run).
        """
        ...
