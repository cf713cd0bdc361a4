"""G-BFS: greedy best-first search over neighbouring configs, guided by measured times alone.

Zhang et al. 2019, "Compiler-Level Matrix Multiplication Optimization for Deep Learning", arXiv 1909.10616.

Each step expands the fastest measured config that was not expanded before: it measures five random neighbours.

What was changed: the paper tiled matrix products by factors of 2. Here, in any design space, a move takes a prime
factor from one part of a split to another, or changes another knob by one step.
"""

from __future__ import annotations

from tilewright.methods.method import Method
from tilewright.sample.top import TopK
from tilewright.search.gbfs import GreedyBestFirst

__all__ = ["gbfs"]


def gbfs() -> Method:
    """Greedy best-first search without a cost model."""
    return Method(
        name="gbfs",
        searcher=lambda space, rng, scorer: GreedyBestFirst(space, rng),
        sampler=lambda space, rng, measured: TopK(),
        model=None,
        sharing=None,
    )
