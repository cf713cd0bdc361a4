"""Who has the processors: the training, or for a moment the process that compiles and tunes.

A step of training keeps all processors busy. A process of idle priority gets 1 % of one then (ResNet-18 in PyTorch, two
threads on two cores), and what it times is worth nothing. So the training stops between two steps now and then, for a
small part of its time. In such a *slot* the other process has all processors: it compiles on all of them, and times
candidates undisturbed.

    step | step | slot | step | step | step | slot | ...

Both processes share a few numbers by a file in memory. Each is written by one of them alone.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median

__all__ = ["PREPARING", "TUNING", "Pace", "SlotFile", "hold"]

#: The shares of time that the training gives away: until each part has kernels, and while these are tuned. The first
#: makes a step half as long again; without it kernels that save a third of each step would come minutes later.
PREPARING, TUNING = 1 / 3, 0.05
#: The length of a slot, as a multiple of a step. No step may take more than 1.5 times as long as the others.
_MOST = 0.5
#: Slots that are shorter than this multiple of a step are saved up: each change costs both sides the caches.
_LEAST = 0.25
#: A candidate that is being timed at the end of a slot may end, within this multiple of a step.
_OVERTIME = 0.2
#: Seconds for which nothing is saved up: in a longer pause of the training, the processors were free anyway.
_LONGEST_STEP = 30.0
#: The training has stopped by itself if no step has begun for so many seconds, and so many steps.
_AWAY_SECONDS, _AWAY_STEPS = 2.0, 4.0
#: Seconds between two looks at the other side.
_LOOK = 0.0005
#: Steps over which the usual length of a step is taken.
_WINDOW = 32
#: The numbers in the file: until when a slot is open, whether a candidate is being timed, the last step, its length.
_OPEN, _HELD, _LAST, _STEP, _COUNT = 0, 1, 2, 3, 4


class SlotFile:
    """The numbers that both processes share. Times are readings of ``time.monotonic()``.

    Args:
        path: of the file. It is made if it is missing.

    Raises:
        OSError: it cannot be made or mapped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = 8 * _COUNT
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size < size:
                os.write(descriptor, bytes(size))
            self._numbers = memoryview(mmap.mmap(descriptor, size)).cast("d")
        finally:
            os.close(descriptor)

    def __getitem__(self, place: int) -> float:
        return self._numbers[place]

    def __setitem__(self, place: int, value: float) -> None:
        self._numbers[place] = value

    def is_free(self) -> bool:
        """Whether a slot is open, or the training has stopped by itself."""
        now = time.monotonic()
        return now < self[_OPEN] or now - self[_LAST] > max(_AWAY_SECONDS, _AWAY_STEPS * self[_STEP])


@contextlib.contextmanager
def hold(file: SlotFile) -> Iterator[None]:
    """Wait for a slot, and keep it open while the block lasts. For the process that tunes."""
    while True:
        while not file.is_free():
            time.sleep(_LOOK)
        file[_HELD] = 1.0
        if file.is_free():
            break
        file[_HELD] = 0.0
    try:
        yield
    finally:
        file[_HELD] = 0.0


class Pace:
    """Opens slots between the steps of a training.

    Args:
        file: what the other process reads.

    Attributes:
        share: of the time, that is given away now; 0: none.
        given: seconds that were given away so far.
        pauses: how many slots there were.
    """

    def __init__(self, file: SlotFile) -> None:
        self._file = file
        self.share = self.given = 0.0
        self.pauses = 0
        self._saved = 0.0
        self._began: dict[int, tuple[float, float]] = {}
        self._lengths: deque[float] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()

    @property
    def step_seconds(self) -> float:
        """The usual length of a step without slots, in seconds; nan: not known yet."""
        return median(self._lengths) if self._lengths else math.nan

    def begin_step(self, graph: int) -> None:
        """A step begins. Gives processors away if it is time for that.

        Args:
            graph: the number of the graph that the step begins with.
        """
        if not self._lock.acquire(blocking=False):  # several threads train, and one of them is in a slot
            return
        try:
            self._note(graph, time.monotonic())
            step = self.step_seconds
            if self.share <= 0.0 or math.isnan(step):
                self._saved = 0.0
            elif self._saved >= _LEAST * step:
                self._give(min(self._saved, _MOST * step), step)
        finally:
            self._lock.release()

    def _note(self, graph: int, now: float) -> None:
        """Take the time of a step into account."""
        file, share = self._file, self.share
        if graph in self._began:
            began, given = self._began[graph]
            length = now - began - (self.given - given)
            if 0.0 < length < _LONGEST_STEP:
                self._lengths.append(length)
                file[_STEP] = self.step_seconds
        passed = now - file[_LAST]
        if 0.0 < passed < _LONGEST_STEP:  # of the time with slots, they are to be this share
            self._saved += passed * share / (1.0 - share)
        self._began[graph], file[_LAST] = (now, self.given), now

    def _give(self, seconds: float, step: float) -> None:
        """Open a slot."""
        file, begin = self._file, time.monotonic()
        end = file[_OPEN] = begin + seconds
        time.sleep(seconds)
        file[_OPEN] = 0.0
        while file[_HELD] and time.monotonic() < end + _OVERTIME * step:
            time.sleep(_LOOK)
        taken = time.monotonic() - begin
        self._saved = min(self._saved - taken, _MOST * step)
        self.given += taken
        self.pauses += 1
        file[_LAST] = time.monotonic()
