"""Diversity: a pick covers many choices of the knobs, so that near-copies of one config do not fill a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.space.space import Configs

__all__ = ["Diversity"]


class Diversity:
    """Picks configs greedily by score plus new knob choices (AutoTVM's diversity filter; arXiv 1805.08166, section 3).

    The next pick is the config with the largest gain. The gain is the score, scaled to 0..1 over the proposals, plus
    ``weight`` for each choice that no picked config has. Scores are scaled because those of a rank loss have no unit.
    The value of a subset is monotone and submodular, so a greedy pick has at least 1 - 1/e of the best subset's value.

    Args:
        oversampling: the proposals per pick (the paper's lambda).
        weight: the gain by a new choice of a knob; the best and the worst score differ by 1.
    """

    def __init__(self, oversampling: float = 2.0, weight: float = 1.0) -> None:
        self.oversampling = oversampling
        self._weight = weight

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs, ``(n, knobs)``, in the order of the picks."""
        values = _scale(np.asarray(scores, dtype=np.float64))
        choices = int(configs.max(initial=0)) + 1
        columns = np.arange(configs.shape[1])
        uncovered = np.full((configs.shape[1], choices), self._weight)
        picked: list[int] = []
        for _ in range(min(count, len(configs))):
            row = int(np.argmax(values + uncovered[columns, configs].sum(axis=1)))
            picked.append(row)
            uncovered[columns, configs[row]] = 0.0
            values[row] = -np.inf
        return configs[picked]


def _scale(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores from 0, the worst, to 1, the best; nan and infinities count as the worst."""
    finite = np.isfinite(scores)
    if not finite.any():
        return np.zeros(len(scores))
    low, high = scores[finite].min(), scores[finite].max()
    span = high - low
    return np.where(finite, (np.where(finite, scores, low) - low) / (span if span > 0 else 1.0), 0.0)
