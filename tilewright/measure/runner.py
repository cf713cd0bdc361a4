"""The contract of what measures candidates: the local pool, and replays of recorded tables."""

from __future__ import annotations

from typing import Protocol

from tilewright.measure.outcome import Measurement
from tilewright.space.space import Configs, DesignSpace

__all__ = ["NoRunner", "Runner"]


class Runner(Protocol):
    """Measures candidates. A failing candidate is a measurement with its outcome, never an exception."""

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """Build and time ``configs``, an ``(n, knobs)`` int32 array.

        Args:
            space: the design space that the configs belong to.
            configs: the candidates.
            best: the latency of the task's best so far in seconds (``inf``: none); clearly slower
                candidates are dropped after their first run.
            deadline: ``time.monotonic()`` value after which no further candidate is started.

        Returns:
            one measurement per candidate that was started, in the order of ``configs``.
        """
        ...


class NoRunner:
    """Measures nothing: for a budget that is too short for it."""

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        """No measurement."""
        return []
