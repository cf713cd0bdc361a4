"""What was read of a task's configs, made comparable: a machine with neighbours is not equally fast all the time.

Readings of one batch lie within a second and see the same machine; those of batches a minute apart may differ by a
tenth for that reason alone, and the best of many configs is then one that was lucky in its batch. So a reading comes
with what the task's default took at that moment (``Measurement.anchor``), and counts as if the machine had been as fast
as it was at the default's fastest. Neighbours only ever add time.
"""

from __future__ import annotations

import math

from tilewright.measure.outcome import Measurement, robust_seconds

__all__ = ["Readings"]

#: A reading is lowered to this share of itself at most: beyond, it is the default that was disturbed. So is one of a
#: race, whose finalists all have the same anchor: what that makes of them decides nothing between them.
_LEAST_LEVEL, _LEAST_OF_RACE = 0.88, 0.4
#: Changes of what the default takes at its fastest by less are not worth counting everything anew.
_NOTEWORTHY = 0.002


class Readings:
    """The readings of one task.

    Args:
        default: the task's default config.
    """

    def __init__(self, default: tuple[int, ...]) -> None:
        self._default = default
        self._of: dict[tuple[int, ...], list[tuple[Measurement, float]]] = {}  # and the least level of each
        self._fastest = math.inf  # of the default

    def add(self, measurement: Measurement, raced: bool = False) -> bool:
        """Take in a measurement that is OK. Returns whether the seconds of other configs have changed by it."""
        least = _LEAST_OF_RACE if raced else _LEAST_LEVEL
        self._of.setdefault(measurement.config, []).append((measurement, least))
        if not 0.0 < measurement.anchor < self._fastest * (1.0 - _NOTEWORTHY):
            return False
        self._fastest = measurement.anchor
        return True

    def forget(self, config: tuple[int, ...]) -> None:
        """Count no more what was read of a config so far."""
        self._of.pop(config, None)

    def seconds(self, config: tuple[int, ...]) -> float:
        """The latency that stands for all readings of a config, in seconds; nan: there are none."""
        found = self._of.get(config, [])
        levels = [(m, self._level(m, least)) for m, least in found]
        seconds = robust_seconds(tuple(level * s for m, level in levels for s in m.repeats))
        # The default was read with every batch, not just in its own.
        return min(seconds, self._fastest) if config == self._default else seconds

    def _level(self, measurement: Measurement, least: float) -> float:
        return max(least, self._fastest / measurement.anchor) if measurement.anchor > 0.0 else 1.0
