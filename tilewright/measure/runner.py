"""The contract of whatever measures candidates, such as the local pool and replays of recorded tables."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tilewright.measure.outcome import Measurement
from tilewright.space.space import Configs, DesignSpace

__all__ = ["NoRunner", "Racer", "Runner"]


class Runner(Protocol):
    """Measures candidates. A failing candidate is a measurement with its outcome, never an exception."""

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """Build and time ``configs``, an ``(n, knobs)`` int32 array.

        Args:
            space: the design space that the configs belong to.
            configs: the candidates.
            best: the latency of the task's best so far in seconds, or ``inf`` if there is none; clearly slower
                candidates are dropped after their first run.
            deadline: reading of ``time.monotonic()`` after which no further candidate is started.

        Returns:
            one measurement per candidate that was started, in the order of ``configs``.
        """
        ...


class NoRunner:
    """A runner that measures nothing: for a budget that is too short to measure."""

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """No measurement."""
        return []


@runtime_checkable
class Racer(Protocol):
    """A runner that can also race. For any other runner, finalists are measured once more, one by one."""

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        """Build ``configs``, an ``(n, knobs)`` int32 array, and time them by turns: A B C, C B A, B C A ...

        Args:
            space: the design space that the configs belong to.
            configs: the finalists.
            deadline: reading of ``time.monotonic()`` after which no race is started.

        Returns:
            one measurement per config that there was time for, in the order of ``configs``. The i-th repeats of all
            that are OK are of the same round. Those with fewer repeats dropped out because they were surely slower
            (:func:`tilewright.measure.interleaved.winner`).
        """
        ...
