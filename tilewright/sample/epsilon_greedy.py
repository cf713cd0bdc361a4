"""A share of random configs in every pick, against a cost model that is sure of the wrong thing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import TilewrightError
from tilewright.sample.sampler import Sampler
from tilewright.space.configs import ConfigSet, Contains, distinct, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["EpsilonGreedy"]


class EpsilonGreedy:
    """Another sampler's pick, of which a share is replaced by random configs (AutoTVM, arXiv 1805.08166).

    What is left over from rounding the share down is carried to the next pick, so that 64 configs at 0.05 begin
    with 3 random ones, and picks of 8 have one at times.

    Args:
        space: where random configs come from.
        rng: the only source of randomness.
        inner: picks the others.
        measured: which configs must not be picked at random since they were measured; a searcher's
            ``seen.has`` will do.
        epsilon: the share of random configs, 0 to 1.

    Attributes:
        oversampling: that of ``inner``.

    Raises:
        TilewrightError: ``epsilon`` is no share.
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

        The random ones are no proposals and were neither measured nor picked at random before. Where the space
        has fewer of these, ``inner`` picks more.
        """
        share = self._epsilon * max(count, 0) + self._carried
        wanted = min(int(share + 1e-9), max(count, 0))
        self._carried = max(0.0, share - wanted)
        explored = self._random(configs, wanted)
        picked = self._inner.pick(configs, scores, count - len(explored))
        # A sampler that makes configs of its own may have made one of these.
        return distinct(np.concatenate([picked, explored]))

    def _random(self, proposals: Configs, count: int) -> Configs:
        taken = ConfigSet()
        taken.add(proposals)

        def exclude(rows: Configs) -> NDArray[np.bool_]:
            return taken.has(rows) | self._picked.has(rows) | self._measured(rows)

        found = sample(self._space, self._rng, count, exclude)
        self._picked.add(found)
        return found
