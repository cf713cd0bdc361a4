"""Random configs, or the best of many random ones in a cost model's eyes."""

from __future__ import annotations

import numpy as np

from tilewright.sample.top import best_first
from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer
from tilewright.space.configs import sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["draw"]


def draw(
    space: DesignSpace, rng: np.random.Generator, count: int, seen: Ledger, scorer: Scorer | None, among: int
) -> Configs:
    """At most ``count`` random configs that may be proposed; with a scorer the best of at least ``among``, in order."""
    if scorer is None or count <= 0:
        return sample(space, rng, count, seen.has)
    drawn = sample(space, rng, max(count, among), seen.has)
    return drawn[best_first(scorer(drawn))[:count]]
