"""Draws random configs, or the best scored of many random configs."""

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
    """Draw random configs that may be proposed.

    Args:
        space: of the configs.
        rng: the only source of randomness.
        count: the most configs.
        seen: the configs that must not be proposed.
        scorer: scores configs; None draws without scores.
        among: the fewest random configs of which the scorer picks the best.

    Returns:
        ``(n, knobs)`` configs, best score first.
    """
    if scorer is None or count <= 0:
        return sample(space, rng, count, seen.has)
    drawn = sample(space, rng, max(count, among), seen.has)
    return drawn[best_first(scorer(drawn))[:count]]
