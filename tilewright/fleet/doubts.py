"""Whom to believe: a measurement that cannot be true is made once more, by another node.

If the other node finds the same, the bound was wrong. If it does not, the first node lies: its results or its clock are
wrong. A node that is alone is believed, as one's own machine is.
"""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.measure.outcome import Measurement, Outcome

__all__ = ["Doubts", "Ruling"]

#: No kernel is so many times as fast as the bound that a machine's own limits set. Some are faster than the bound, by
#: a tenth, where a task's operations were counted generously.
_IMPOSSIBLE = 2.0


@dataclass(frozen=True)
class Ruling:
    """What to do with a measurement.

    Attributes:
        believed: whether to take it; otherwise another node is asked.
        liar: the node that is found out; empty: none.
        reason: why it is.
    """

    believed: bool
    liar: str = ""
    reason: str = ""


class Doubts:
    """The measurements of a session that another node was asked to repeat."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, tuple[int, ...]], tuple[str, str]] = {}
        self._confirmed: set[str] = set()

    def hear(
        self, node: str, measurement: Measurement, default: tuple[int, ...], possible: float, alone: bool
    ) -> Ruling:
        """Rule on a measurement.

        Args:
            node: that made it.
            measurement: what it says.
            default: the default config of the task.
            possible: seconds that no kernel of the task goes below.
            alone: whether there is no other node to ask.
        """
        key = (measurement.task, measurement.config)
        reason = self._doubt(measurement, default, possible)
        asked = self._open.pop(key, None)
        if asked is not None:
            if reason:
                self._confirmed.add(measurement.task)
            elif measurement.ok and measurement.task not in self._confirmed:
                return Ruling(True, *asked)
        elif reason and not alone:
            self._open[key] = (node, reason)
            return Ruling(False)
        return Ruling(True)

    def _doubt(self, measurement: Measurement, default: tuple[int, ...], possible: float) -> str:
        """Why a measurement cannot be true; empty: it can."""
        if measurement.task in self._confirmed:
            return ""
        if measurement.ok and measurement.seconds * _IMPOSSIBLE < possible:
            return (
                f"its times are impossible: {1e6 * measurement.seconds:.3g} us where the roofline allows "
                f"{1e6 * possible:.3g} us"
            )
        if measurement.outcome is Outcome.WRONG_RESULT and measurement.config == default:
            # The reference is what the default computed on the same node.
            return "it computes wrong results: twice the same kernel differs"
        return ""
