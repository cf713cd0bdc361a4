"""The contract of whatever measures candidates, such as the local pool and replays of recorded tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tilewright.measure.batch import PoolStatistics
from tilewright.measure.outcome import Measurement
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Job", "NoRunner", "ParallelRunner", "Pool", "Racer", "Runner"]


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


@dataclass(frozen=True)
class Job:
    """One batch for a :class:`ParallelRunner`: the arguments of ``measure``, or of ``race``.

    Attributes:
        space: the design space that the configs belong to.
        configs: the candidates, ``(n, knobs)`` int32.
        best: the latency of the task's best so far in seconds; inf: none.
        deadline: reading of ``time.monotonic()`` after which no further candidate is started.
        race: whether the candidates are timed by turns.
    """

    space: DesignSpace
    configs: Configs
    best: float
    deadline: float
    race: bool = False


@runtime_checkable
class ParallelRunner(Protocol):
    """A runner that works on several batches at once, such as a fleet of machines."""

    @property
    def slots(self) -> int:
        """How many batches keep it busy at this moment, at least 1."""
        ...

    @property
    def machines(self) -> int:
        """How many machines measure at this moment, at least 1."""
        ...

    def submit(self, ticket: int, job: Job) -> None:
        """Take on a batch under a number that no open batch has. Returns before the batch is measured."""
        ...

    def finished(self) -> list[tuple[int, list[Measurement]]]:
        """Wait until a batch is finished. Returns the ticket and the measurements of each batch that is.

        Raises:
            MeasureError: the runner cannot work.
        """
        ...

    def cancel(self, ticket: int) -> None:
        """Forget a batch. What was measured of it has been told to ``on_measurement``."""
        ...


class Pool(Runner, Protocol):
    """A runner that a command has for itself: the workers of this machine, or of a fleet."""

    @property
    def statistics(self) -> PoolStatistics:
        """Where time and memory went so far."""
        ...

    def weigh(self, nbytes: int) -> None:
        """Measure for a network with ``nbytes`` bytes of weights from now on: see ``Target.with_weights``."""
        ...

    def close(self) -> None:
        """End what was started. May be called again."""
        ...
