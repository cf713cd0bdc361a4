"""Whether something else was at work on the processors while a candidate was timed.

Four readings tell. On a quiet machine, the first three do not grow, and the fourth is always the same:

- the time that the hypervisor gave to other machines,
- the throttling of a control group,
- the threads of this process that had to make room for other processes,
- the time of a fixed piece of work. It also shows a lowered clock, even in a virtual machine, which cannot read the
  frequency of its clock.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tilewright.control_groups import control_groups

try:
    import resource
except ImportError:  # not a POSIX system: nothing is known about our threads there
    resource = None  # type: ignore[assignment]

__all__ = ["Counter", "Watch", "calibrate", "machine_counters", "preemptions"]

#: The share of the processors' time that other machines may take. The system counts that time in hundredths of a
#: second. A candidate is timed for 10 to 100 ms, so on two processors any time that is counted is a larger share.
_STOLEN_SHARE = 0.05
#: The most that the fixed work may take, as a multiple of its best. The 95th percentile on a busy machine was 1.08.
_SLOW_CLOCK = 1.1
#: The number of readings among which the best is looked for: two for each candidate. A clock that stays lowered for 32
#: candidates is the normal clock from then on, and no disturbance.
_READINGS = 64
#: Timing is disturbed if more than this share of its blocks was preempted. The 0.2-quantile bears fewer.
_PREEMPTED_SHARE = 0.5
#: The fixed work hashes so many bytes, which fit the first cache. Hashing them takes 0.02 to 0.1 ms.
_WORK = bytes(32 << 10)


@dataclass(frozen=True)
class Counter:
    """A number that the system increases while something disturbs.

    Attributes:
        name: what disturbs, for reports.
        read: gives the number.
        limit: by how much the number may grow in each second of watching.
    """

    name: str
    read: Callable[[], float]
    limit: float


class Watch:
    """Watches the machine while a candidate is timed.

    Args:
        counters: by default :func:`machine_counters`.
        work: does a fixed piece of work and returns its seconds; by default :func:`calibrate`.
        switches: returns how often a thread of this process had to make room so far; by default :func:`preemptions`.
        clock: returns seconds.
    """

    def __init__(
        self,
        counters: Iterable[Counter] | None = None,
        work: Callable[[], float] | None = None,
        switches: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.switches = preemptions if switches is None else switches
        self._counters = tuple(machine_counters() if counters is None else counters)
        self._work = calibrate if work is None else work
        self._clock = clock
        self._readings: deque[float] = deque(maxlen=_READINGS)
        self._slow = False
        self._before: list[float] = []
        self._began = 0.0

    def begin(self) -> None:
        """Begin to watch."""
        self._slow = self._slowed()
        self._before = [counter.read() for counter in self._counters]
        self._began = self._clock()

    def end(self, blocks: int, preempted: int) -> tuple[str, ...]:
        """The names of what disturbed since :meth:`begin`; empty if nothing was seen.

        Args:
            blocks: how many blocks were timed.
            preempted: in how many of them :attr:`switches` grew.
        """
        seconds = self._clock() - self._began
        causes = [
            counter.name
            for counter, before in zip(self._counters, self._before, strict=True)
            if counter.read() - before > counter.limit * seconds
        ]
        if preempted > _PREEMPTED_SHARE * blocks:
            causes.append("preemption")
        if self._slowed() or self._slow:
            causes.append("slow clock")
        return tuple(causes)

    def _slowed(self) -> bool:
        self._readings.append(self._work())
        return self._readings[-1] > _SLOW_CLOCK * min(self._readings)


def calibrate() -> float:
    """The seconds of a fixed piece of work, the best of three."""
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        hashlib.sha256(_WORK).digest()
        best = min(best, time.perf_counter() - begin)
    return best


def preemptions() -> int:
    """How often a thread of this process had to make room for another process; 0 if the system does not tell."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def machine_counters(root: Path = Path("/")) -> tuple[Counter, ...]:
    """The counters that this machine has: seconds stolen by its hypervisor, and periods of throttling.

    Args:
        root: the directory that holds ``proc`` and ``sys``.
    """
    stat = root / "proc/stat"
    groups = [group / "cpu.stat" for group in reversed(control_groups("cpu", root))]  # the nearest one first
    found = []
    if _stolen(stat) is not None:
        found.append(Counter("stolen time", partial(_or_zero, _stolen, stat), _STOLEN_SHARE * (os.cpu_count() or 1)))
    throttled = next((path for path in groups if _throttled(path) is not None), None)
    if throttled is not None:
        found.append(Counter("throttling", partial(_or_zero, _throttled, throttled), 0.0))
    return tuple(found)


def _or_zero(read: Callable[[Path], float | None], path: Path) -> float:
    return read(path) or 0.0


def _stolen(stat: Path) -> float | None:
    """Seconds that the hypervisor gave to other machines, of all processors together; None if it does not tell."""
    try:
        with stat.open("rb") as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _throttled(path: Path) -> float | None:
    """The number of periods in which a control group had used up its share; None if the system does not tell."""
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("nr_throttled "):
                return float(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
