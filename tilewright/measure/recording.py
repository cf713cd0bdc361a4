"""Makes the measurements of a pool's candidates and hands each on as it is made."""

from __future__ import annotations

import time
from collections.abc import Callable

from tilewright.measure.batch import Batch, PoolStatistics
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.target import Target

__all__ = ["Recorder"]


class Recorder:
    """Writes measurements into batches.

    Attributes:
        target: what is measured for.
        on_measurement: called with each measurement as it is made, so that an interrupt loses none.

    Args:
        target: what is measured for.
        on_measurement: see above.
        statistics: counts the measurements.
    """

    def __init__(
        self, target: Target, on_measurement: Callable[[Measurement], None] | None, statistics: PoolStatistics
    ) -> None:
        self.target = target
        self.on_measurement = on_measurement
        self._statistics = statistics

    def record(self, batch: Batch, index: int, repeats: tuple[float, ...]) -> None:
        """A candidate has a latency: ``repeats`` in seconds."""
        self._record(batch, index, Outcome.OK, repeats, "")

    def record_failure(self, batch: Batch, index: int, outcome: Outcome, message: str) -> None:
        """A candidate has failed."""
        self._record(batch, index, outcome, (), message)

    def give_up(self, batch: Batch, message: str) -> None:
        """No candidate that is still to be built can be built, for the reason in ``message``."""
        while batch.queue:
            self.record_failure(batch, batch.queue.popleft(), Outcome.INVALID, message)

    def settle(self, batch: Batch) -> None:
        """Record the candidates that have waited for another turn in vain, with their disturbed latencies."""
        for index in list(batch.pending):
            self.record(batch, index, batch.pending[index])

    def _record(self, batch: Batch, index: int, outcome: Outcome, repeats: tuple[float, ...], message: str) -> None:
        measurement = Measurement(
            task=batch.key,
            target=self.target.key,
            template=batch.space.template,
            config=batch.configs[index],
            outcome=outcome,
            repeats=repeats,
            message=message,
            time=time.time(),
            elapsed=batch.spent.get(index, 0.0),
        )
        batch.done[index] = measurement
        batch.pending.pop(index, None)
        self._statistics.measured += 1
        if self.on_measurement is not None:
            self.on_measurement(measurement)
