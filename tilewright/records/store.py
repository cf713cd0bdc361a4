"""The contract of a store of measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tilewright.measure.outcome import Measurement

__all__ = ["Query", "Store"]


@dataclass(frozen=True)
class Query:
    """Which measurements to scan: those that agree with every field that is not None."""

    task: str | None = None
    target: str | None = None
    template: str | None = None


class Store(Protocol):
    """Keeps measurements. Many processes may use one store at once."""

    def add(self, measurements: Sequence[Measurement]) -> None:
        """Keep ``measurements``; they are durable when this returns. Raises ``RecordsError``."""
        ...

    def best(self, task: str, target: str, template: str, count: int) -> list[Measurement]:
        """The fastest ``count`` OK measurements with different configs, fastest first."""
        ...

    def scan(self, query: Query) -> Iterator[Measurement]:
        """The measurements that match, in the order they were added."""
        ...

    def close(self) -> None:
        """Release what the store holds. Further calls are errors."""
        ...
