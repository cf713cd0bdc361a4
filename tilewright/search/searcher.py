"""The contract of a searcher, which proposes configs."""

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

    A searcher is made of a design space and a ``numpy.random.Generator``. One that a cost model guides takes a
    :data:`Scorer` as well.
    """

    def ask(self, count: int) -> Configs:
        """At most ``count`` valid configs, ``(n, knobs)``; fewer, or none, if the searcher has no more to propose.

        No two are equal, none was told before, and none was asked for since the last tell. A proposal that the sampler
        did not pick may come again after that.
        """
        ...

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Learn the latencies of configs. Configs that were never asked for may be among them (of an earlier run).

        Args:
            configs: ``(n, knobs)``.
            seconds: the ``(n,)`` latencies in seconds; nan if a config failed.
        """
        ...
