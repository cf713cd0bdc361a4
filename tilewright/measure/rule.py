"""When a candidate has been timed enough: a sequential rule over the blocks of calls that were timed so far.

A low quantile stands for the blocks (:func:`tilewright.measure.outcome.robust_seconds`), because other programs only
ever add time. The ends of its interval are two order statistics, which assume nothing about the disturbance. The nearer
a candidate may be to the best, the tighter its interval has to be, and the longer that may take. The exact latency of a
candidate that cannot win is only of interest to the cost model.

``docs/explanation/measuring.md`` has the rule as a table. ``python -m bench.noise`` counts how often the fastest of 8
close kernels wins by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from tilewright.measure.outcome import ROBUST_QUANTILE

__all__ = ["HOPELESS_FACTOR", "LEAST_BLOCKS", "MOST_NEAR_BLOCKS", "enough", "interval"]

#: The probability with which each end of an interval is right (a choice).
_CONFIDENCE = 0.9
#: A candidate is near the best while the lower end of its interval is at most this factor above the best (a choice).
_NEAR_FACTOR = 1.03
#: A candidate that is slower than the best by this factor after :data:`LEAST_BLOCKS` blocks has lost. Two runs of one
#: kernel on a shared machine differed by a factor of up to 1.4.
HOPELESS_FACTOR = 1.4
#: The relative half-width of an interval that is tight near the best (a choice: a race ties at the same share).
_TIGHT = 0.005
#: The same elsewhere, as a share of the relative distance to the best (a choice).
_TIGHT_SHARE = 0.1
#: The number of blocks before the first judgement, elsewhere and near the best. With 5 blocks the upper end of an
#: interval is the third block.
LEAST_BLOCKS = 3
_LEAST_NEAR_BLOCKS = 5
#: The largest number of blocks elsewhere, and the seconds after which none of them begins, apart from the second one:
#: with 10 blocks the upper end of an interval is the fifth block.
_MOST_BLOCKS = 10
_MOST_SECONDS = 0.06
#: The same near the best: with 20 blocks the ends of an interval are the second and the seventh block.
MOST_NEAR_BLOCKS = 20
_MOST_NEAR_SECONDS = 0.15


def interval(repeats: Sequence[float]) -> tuple[float, float]:
    """The ends of an interval for the low quantile. Each end is right with 90 % confidence.

    Fewer than 11 repeats have no order statistic that is so surely below the quantile. The lower end is then the
    fastest repeat, because nothing can be faster than the undisturbed latency.

    Args:
        repeats: independent readings in seconds.

    Raises:
        ValueError: there are no repeats.
    """
    if not repeats:
        raise ValueError("an interval is one of at least one repeat, but there are none")
    low, high = _ranks(len(repeats))
    ordered = sorted(repeats)
    return ordered[low], ordered[high]


def enough(repeats: Sequence[float], spent: float, best: float) -> bool:
    """Whether a candidate needs no further block.

    Args:
        repeats: the mean seconds of a call in each block so far.
        spent: the seconds that the blocks took.
        best: the latency to beat in seconds, or ``inf``.
    """
    count = len(repeats)
    if count == 0:
        return False
    low, high = interval(repeats)
    if count >= LEAST_BLOCKS and low > HOPELESS_FACTOR * best:
        return True
    near = low <= _NEAR_FACTOR * best
    most, seconds = (MOST_NEAR_BLOCKS, _MOST_NEAR_SECONDS) if near else (_MOST_BLOCKS, _MOST_SECONDS)
    if count >= most or (count > 1 and spent >= seconds):
        return True
    if count < (_LEAST_NEAR_BLOCKS if near else LEAST_BLOCKS):
        return False
    limit = max(_TIGHT, _TIGHT_SHARE * (low / best - 1.0))
    return high - low <= 2.0 * limit * low


@cache
def _ranks(count: int) -> tuple[int, int]:
    """The places, from 0, of the order statistics that are the ends of an interval of ``count`` repeats."""
    at_most = 0.0  # the probability that ``below`` repeats, or fewer, lie below the quantile
    low = 0
    for below in range(count):
        at_most += math.comb(count, below) * ROBUST_QUANTILE**below * (1.0 - ROBUST_QUANTILE) ** (count - below)
        if at_most <= 1.0 - _CONFIDENCE:
            low = below
        if at_most >= _CONFIDENCE:
            return low, below
    return low, count - 1
