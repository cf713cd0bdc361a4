"""When a candidate has been timed enough: a sequential rule over the blocks of calls that were timed so far.

What stands for the blocks is a low quantile (:func:`tilewright.measure.outcome.robust_seconds`), as neighbours on the
machine only ever add time. Its interval are two order statistics: no assumption about the disturbance, no chance, no
cost. The nearer a candidate may be to the best, the tighter its interval has to be, and the longer that may take; how
fast exactly a candidate is that cannot win is only of interest to the cost model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from tilewright.measure.outcome import ROBUST_QUANTILE

__all__ = ["HOPELESS_FACTOR", "LEAST_BLOCKS", "MOST_NEAR_BLOCKS", "enough", "interval"]

#: Each end of an interval is right with this probability.
_CONFIDENCE = 0.9
#: A candidate is near the best while the lower end of its interval is within this factor of it.
_NEAR_FACTOR = 1.03
#: One that is slower by this factor after a few whole blocks has lost.
HOPELESS_FACTOR = 1.4
#: The relative half-width of an interval that is tight, near the best; elsewhere this share of the distance to it.
_TIGHT = 0.005
_TIGHT_SHARE = 0.1
#: No judgement before so many blocks, where one block does not take longer than all may; near the best, before more.
LEAST_BLOCKS = 3
_LEAST_NEAR_BLOCKS = 5
#: At most so many blocks, and none is begun after so many seconds (two, where a single call takes longer).
_MOST_BLOCKS = 10
_MOST_SECONDS = 0.06
MOST_NEAR_BLOCKS = 20
_MOST_NEAR_SECONDS = 0.15


def interval(repeats: Sequence[float]) -> tuple[float, float]:
    """What the low quantile is between, with 90 % confidence in each end, from independent repeats in seconds.

    Fewer than 11 repeats have no order statistic that is so surely below the quantile. The lower end is then the
    fastest of them: it is not much above the undisturbed latency, which nothing can go below.

    Raises:
        ValueError: there are no repeats.
    """
    if not repeats:
        raise ValueError("an interval is one of at least one repeat, but there are none")
    low, high = _ranks(len(repeats))
    ordered = sorted(repeats)
    return ordered[low], ordered[high]


def enough(repeats: Sequence[float], spent: float, best: float) -> bool:
    """Whether no further block is worth its time.

    Args:
        repeats: the mean seconds of a call in each block so far.
        spent: seconds that the blocks took.
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
    """The positions, from 0, of the order statistics that are the ends of an interval."""
    at_most = 0.0  # the probability that so many repeats, or fewer, lie below the quantile
    low = 0
    for below in range(count):
        at_most += math.comb(count, below) * ROBUST_QUANTILE**below * (1.0 - ROBUST_QUANTILE) ** (count - below)
        if at_most <= 1.0 - _CONFIDENCE:
            low = below
        if at_most >= _CONFIDENCE:
            return low, below
    return low, count - 1
