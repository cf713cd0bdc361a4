"""How much a usual task gains from more trials: the mean learning curve over the recorded tables (``bench/tables``)."""

from __future__ import annotations

__all__ = ["expected_saving"]

#: After n trials a task is slower than it can be by the share _GAP / n ** _DECAY: the mean over the recorded tables.
_GAP, _DECAY = 0.28, 0.8


def expected_saving(measured: float, trials: float) -> float:
    """The share of its latency that a usual task saves by ``trials`` candidates more than the ``measured`` ones."""
    known = max(1.0, measured)
    return float(_GAP * (known**-_DECAY - (known + trials) ** -_DECAY))
