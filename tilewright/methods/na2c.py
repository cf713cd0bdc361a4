"""N-A2C: an actor and a critic walk around the best config, guided by measured times alone.

Zhang et al. 2019, "Compiler-Level Matrix Multiplication Optimization for Deep Learning", arXiv 1909.10616, section 4.2.

Walks of three steps begin at the fastest config so far, with one random step in ten. They go on until they have met a
batch of new configs. These are measured, actor and critic learn from the latencies, and the centre moves to the fastest
config.

What was changed: as in :mod:`~tilewright.methods.gbfs`, moves are those of any design space.
"""

from __future__ import annotations

from tilewright.methods.method import Method
from tilewright.methods.parts import make_searcher
from tilewright.sample.top import TopK

__all__ = ["na2c"]


def na2c() -> Method:
    """The neighbourhood actor-critic without a cost model.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    return Method(
        name="na2c",
        searcher=make_searcher("na2c"),
        sampler=lambda space, rng, measured: TopK(),
        model=None,
        sharing=None,
    )
