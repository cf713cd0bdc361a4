"""Which failed candidates are worth another try: those that may have failed by accident, while that pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tilewright.measure.outcome import Measurement

__all__ = ["SecondChances"]

#: Measurements of one config, at most.
_TRIES = 3
#: One try in so many has to help, or there are no more. Before the first one, one success is assumed: two tries.
_PAYS = 3


class SecondChances:
    """Remembers failures of which something else may have been the cause, such as a worker that the system killed.

    Most candidates that crash would crash again. Where that is so, two tries are spent to see it. Where accidents are
    frequent, most tries help, and then every such config gets its next one in the round that follows.
    """

    def __init__(self) -> None:
        self._tries: Counter[tuple[int, ...]] = Counter()
        self._waiting: dict[tuple[int, ...], None] = {}
        self._again = self._helped = 0

    def note(self, measured: Iterable[Measurement]) -> None:
        """Learn what became of some candidates, first tries and others."""
        for m in measured:
            self._tries[m.config] += 1
            if self._tries[m.config] > 1:
                self._again += 1
                self._helped += m.ok
            self._waiting.pop(m.config, None)
            if m.outcome.doubtful and self._tries[m.config] < _TRIES:
                self._waiting[m.config] = None

    def due(self, count: int) -> list[tuple[int, ...]]:
        """At most ``count`` configs to measure once more now, those that failed first before the others."""
        affordable = _PAYS * (self._helped + 1) - 1 - self._again
        return list(self._waiting)[: max(0, min(count, affordable))]
