"""Whether something else was at work on the processors while a candidate was timed.

Four witnesses, each of which stands still on a quiet machine: time that the hypervisor gave to others, the throttling
of a control group, threads of ours that had to make room, and a fixed piece of work that took longer than it can. The
last one also sees a clock that was lowered, in virtual machines too, which cannot read their clock's frequency.
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

#: The share of the processors' time that others may take. The system counts it in hundredths of a second, so while a
#: candidate is timed, 10 to 100 ms on two processors, any that is seen is more than this.
_STOLEN_SHARE = 0.05
#: What the fixed work may take, as a multiple of its own best: the 95th percentile on a busy machine was 1.08.
_SLOW_CLOCK = 1.1
#: How many readings the best is among: a clock that is lowered for good is the clock, and no disturbance.
_READINGS = 64
#: A pass is disturbed when more than this share of its blocks was preempted: a low quantile bears fewer.
_PREEMPTED_SHARE = 0.5
_WORK = bytes(32 << 10)


@dataclass(frozen=True)
class Counter:
    """A number that the system counts up while something disturbs.

    Attributes:
        name: what disturbs, for reports.
        read: gives the number.
        limit: how much it may grow in each second of watching.
    """

    name: str
    read: Callable[[], float]
    limit: float


class Watch:
    """Watches the machine while a candidate is timed.

    Args:
        counters: by default :func:`machine_counters`.
        work: does a fixed piece of work and gives its seconds; by default :func:`calibrate`.
        switches: how often a thread of this process had to make room so far; by default :func:`preemptions`.
        clock: gives seconds.
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
        """From now on."""
        self._slow = self._slowed()
        self._before = [counter.read() for counter in self._counters]
        self._began = self._clock()

    def end(self, blocks: int, preempted: int) -> tuple[str, ...]:
        """What disturbed since :meth:`begin`, by name; empty: nothing that can be seen.

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
    """Seconds of a fixed piece of work, the best of three: 0.02 to 0.1 ms of hashing, which needs no cache but L1."""
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        hashlib.sha256(_WORK).digest()
        best = min(best, time.perf_counter() - begin)
    return best


def preemptions() -> int:
    """How often a thread of this process had to make room for another process; 0 where the system does not tell."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def machine_counters(root: Path = Path("/")) -> tuple[Counter, ...]:
    """The counters that this machine has: seconds stolen by its hypervisor, periods in which we were throttled.

    Args:
        root: what ``proc`` and ``sys`` are in.
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
    """Seconds that the hypervisor gave to other machines, of all processors together; None where it does not tell."""
    try:
        with stat.open("rb") as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _throttled(path: Path) -> float | None:
    """Number of periods in which a control group had used up its share."""
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("nr_throttled "):
                return float(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
