"""How two runtimes compare by their blocks of runs: medians, and the ratio of these with an interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.difference import compare_arrays
from tilewright.measure.peers import Peer
from tilewright.tensor import Array

__all__ = ["compare", "difference", "latency", "relative_error"]

#: The number of draws of the bootstrap: 50 of them lie beyond each end of a 95 % interval.
_RESAMPLES = 2000
#: A block of more runs is represented by so many of its quantiles: medians of thousands of runs would take seconds.
_MOST_RUNS = 200
#: NumPy's kinds of the dtypes of texts.
_TEXTS = "OUST"


def latency(peer: Peer) -> dict[str, float]:
    """``min_ms`` and ``median_ms``: the shortest and the median run of all, in milliseconds; nan if there were none."""
    runs = np.asarray([seconds for block in peer.blocks.values() for seconds in block] or [np.nan])
    return {"min_ms": 1e3 * float(runs.min()), "median_ms": 1e3 * float(np.median(runs))}


def compare(ours: Peer, other: Peer, seed: int = 0) -> dict[str, float]:
    """Our median / the other's, over the blocks that both ran in, with the 95 % interval of a bootstrap over blocks.

    Whole blocks are drawn again, not runs: what disturbs a machine lasts longer than a run, so the runs of one block
    are not independent. Both sides of a block are drawn together, because they shared the disturbance.

    Args:
        ours: the peer whose median is the numerator.
        other: the peer whose median is the denominator.
        seed: of the draws.

    Returns:
        ``ratio``, ``ratio_low`` and ``ratio_high``; all nan if no block was common.
    """
    both = sorted(ours.blocks.keys() & other.blocks.keys())
    if not both:
        return {"ratio": np.nan, "ratio_low": np.nan, "ratio_high": np.nan}
    left = [_thinned(ours.blocks[block]) for block in both]
    right = [_thinned(other.blocks[block]) for block in both]
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(both), (_RESAMPLES, len(both)))
    ratios = [_median(left, draw) / _median(right, draw) for draw in draws]
    low, high = np.quantile(ratios, [0.025, 0.975])
    everything = range(len(both))
    ratio = _median(left, everything) / _median(right, everything)
    return {"ratio": ratio, "ratio_low": float(low), "ratio_high": float(high)}


def difference(ours: Sequence[Array], other: Sequence[Array]) -> float:
    """The largest :func:`relative_error` of two runtimes' outputs; inf if one has more outputs than the other."""
    if len(ours) != len(other):
        return float("inf")
    return max(map(relative_error, ours, other), default=0.0)


def relative_error(result: object, reference: object) -> float:
    """Largest absolute difference over the largest absolute reference, of finite elements.

    inf where the shapes differ, or the elements that are not finite. Texts are equal, or they differ by inf. Of a
    sequence the entry that differs most counts.
    """
    if not isinstance(result, np.ndarray) or not isinstance(reference, np.ndarray):
        if isinstance(result, list) and isinstance(reference, list):
            return difference(result, reference)
        return 0.0 if result is None and reference is None else float("inf")
    if result.shape != reference.shape:
        return float("inf")
    if result.dtype.kind in _TEXTS or reference.dtype.kind in _TEXTS:
        return 0.0 if bool(np.all(result == reference)) else float("inf")
    ours, theirs = result.astype(np.float64), reference.astype(np.float64)
    return compare_arrays(ours, theirs, np.ones(reference.shape)).error


def _thinned(runs: Sequence[float]) -> NDArray[np.float64]:
    """The runs of a block, or as many quantiles of them as are enough."""
    if len(runs) <= _MOST_RUNS:
        return np.asarray(runs)
    return np.asarray(np.quantile(runs, (np.arange(_MOST_RUNS) + 0.5) / _MOST_RUNS))


def _median(blocks: Sequence[NDArray[np.float64]], draw: Iterable[int]) -> float:
    return float(np.median(np.concatenate([blocks[index] for index in draw])))
