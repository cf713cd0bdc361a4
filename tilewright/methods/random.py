"""Uniformly random configs: the baseline of baselines."""

from __future__ import annotations

from tilewright.methods.method import Method
from tilewright.sample.top import TopK
from tilewright.search.random import RandomSearch

__all__ = ["random_search"]


def random_search() -> Method:
    """Uniformly random configs: the baseline of baselines."""
    return Method(
        name="random",
        searcher=lambda space, rng, scorer: RandomSearch(space, rng),
        sampler=lambda space, rng, measured: TopK(),
        model=None,
    )
