"""Epsilon-greedy: a share of every pick is random, because a cost model can be wrong with confidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import TilewrightError
from tilewright.sample.sampler import Sampler
from tilewright.space.configs import ConfigSet, Contains, distinct, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["EpsilonGreedy"]


class EpsilonGreedy:
    """Replaces a share of another sampler's pick by random configs (AutoTVM, arXiv 1805.08166).

    The share is rounded down, and the remainder is carried to the next pick. At 0.05, a first pick of 64 has 3 random
    configs, and some picks of 8 have one.

    Args:
        space: of the random configs.
        rng: the only source of randomness.
        inner: picks the other configs.
        measured: says which configs were measured, and so are not picked at random. A searcher's ``seen.has`` serves.
        epsilon: the share of random configs, 0 to 1.

    Attributes:
        oversampling: that of ``inner``.

    Raises:
        TilewrightError: ``epsilon`` is not from 0 to 1.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        inner: Sampler,
        measured: Contains,
        epsilon: float = 0.05,
    ) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise TilewrightError(f"epsilon is the share of random configs, 0 to 1, but this is {epsilon}")
        self.oversampling = inner.oversampling
        self._space = space
        self._rng = rng
        self._inner = inner
        self._measured = measured
        self._epsilon = epsilon
        self._carried = 0.0
        self._picked = ConfigSet()

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs, ``(n, knobs)``, the random ones last.

        The random ones are no proposals, and were neither measured nor picked at random before. If the space has too
        few such configs, ``inner`` picks more.
        """
        share = self._epsilon * max(count, 0) + self._carried
        wanted = min(int(share + 1e-9), max(count, 0))
        self._carried = max(0.0, share - wanted)
        explored = self._draw(configs, wanted)
        picked = self._inner.pick(configs, scores, count - len(explored))
        # The inner sampler may have synthesised one of the random configs.
        return distinct(np.concatenate([picked, explored]))

    def _draw(self, proposals: Configs, count: int) -> Configs:
        taken = ConfigSet()
        taken.add(proposals)

        def exclude(rows: Configs) -> NDArray[np.bool_]:
            return taken.has(rows) | self._picked.has(rows) | self._measured(rows)

        found = sample(self._space, self._rng, count, exclude)
        self._picked.add(found)
        return found
