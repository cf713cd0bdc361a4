"""Divides the processors' time between the training and the process that compiles.

A step of training keeps all processors busy. A process of idle priority gets 1 % of one then (ResNet-18 in PyTorch, two
threads on two cores), and nothing at all beside processes that load data. A process of equal priority makes a step four
times as long, since the threads of a step wait for each other. So the other process is stopped while a step runs. The
training sleeps between two steps now and then, for a small part of its time, and in such a *slot* the other one runs.

    step | step | slot | step | step | step | slot | ...

Work of this process that would disturb a step is done between two steps, too: Python's lock is handed over only every
5 ms, and the threads of a step wait for each other.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol, TypeVar

from tilewright.training.lengths import WINDOW, StepLengths, find_usual

__all__ = ["PREPARING", "TUNING", "Pace", "Stoppable"]

#: The shares of time that the training gives away: until each part has kernels, and while better ones are compiled.
#: Compiling takes the same time at any share, and kernels save a third of each step: the larger the share, the sooner
#: they come. So the first share is large, and steps take three times as long meanwhile. (With 1/3, the kernels of
#: MobileNetV3 came after more than a minute.)
PREPARING, TUNING = 2 / 3, 0.05
#: The length of a slot, as a multiple of a step. No step may take more than 1.5 times as long as those around it.
_MOST = 0.4
#: A slot may be longer than that if the step with it takes at most this multiple of the median of the steps before, and
#: how many of them count.
_LONGER, _BEFORE = 1.45, 8
#: Seconds of a slot, at most.
_LONGEST_SLOT = 3.0
#: A slot ends so many seconds after nobody needs it any more.
_LOOK = 0.05
#: So many steps in a row have no slot because something else makes them longer.
_FULL = 3
#: Slots that are shorter than this multiple of a step are saved up: each change costs both sides the caches.
_LEAST = 0.25
#: Seconds for which nothing is saved up: in a longer pause of the training, the processors were free anyway.
_LONGEST_STEP = 30.0
#: The training has stopped by itself if no step has begun for so many seconds, and so many steps.
_AWAY_SECONDS, _AWAY_STEPS = 2.0, 4.0

_Result = TypeVar("_Result")


class Stoppable(Protocol):
    """A process that can be stopped for a while."""

    def pause(self) -> None:
        """Stop it."""
        ...

    def resume(self) -> None:
        """Let it go on."""
        ...


@dataclass
class _Work:
    """Work of another thread that waits for the end of a step.

    Attributes:
        begun: set when the training sleeps.
        over: set when the work is done.
    """

    begun: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass
class _Window:
    """The last steps of a kind.

    Attributes:
        lengths: without slots, in seconds.
        wholes: the last few with their slots.
    """

    lengths: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    wholes: deque[float] = field(default_factory=lambda: deque(maxlen=_BEFORE))


class Pace:
    """Gives another process time between the steps of a training.

    Its two locks are never held together: the one of a thread that begins a step, and sleeps; and the one of the count
    of graphs that run, which is held for a moment.

    Attributes:
        process: which gets the time.
        given: the seconds that it got so far.
        slots: how many slots there were.
    """

    def __init__(self) -> None:
        self.process: Stoppable | None = None
        self.given = 0.0
        self.slots = self._full = 0
        self._terms = 0.0, False
        self._gained = 1.0
        self._saved = self._slept = 0.0
        self._last = math.nan
        self._running = 0
        self._work: _Work | None = None
        # Of training and of inference: a validation does not change the usual length of a training's steps.
        self._windows = _Window(), _Window()
        self._window = self._windows[0]
        self._lock, self._counting = threading.Lock(), threading.Lock()

    @property
    def share(self) -> float:
        """Of the time that is given to the process now, from 0 to 1."""
        return self._terms[0]

    def set_share(self, share: float, paid: bool = False) -> None:
        """Give another share from now on.

        Args:
            share: of the time, from 0 to 1.
            paid: whether steps that became shorter pay for more slots than the share allows: a step with its slots
                takes no longer than it took in PyTorch's kernels.
        """
        self._terms = share, paid  # at once, since the training reads both at any moment

    @property
    def step_seconds(self) -> float:
        """The usual length of a step without slots, in seconds; nan: not known yet."""
        return find_usual(self._window.lengths)

    @property
    def patience(self) -> float:
        """The seconds within which the next step begins, unless the training has stopped by itself."""
        step = self.step_seconds
        return _AWAY_SECONDS if math.isnan(step) else max(_AWAY_SECONDS, _AWAY_STEPS * step)

    def between_steps(self, work: Callable[[], _Result]) -> _Result:
        """Do something while the training sleeps, or at once if that has stopped by itself. Returns what it returns.

        Args:
            work: what to do, in this thread, which is not the one that trains. It takes less than half a step.
        """
        if math.isnan(self.step_seconds):  # PyTorch is tracing, or nothing trains
            return work()
        waiting = _Work()
        self._work = waiting
        try:
            waiting.begun.wait(self.patience)
            return work()
        finally:
            waiting.over.set()

    def begin_step(self, steps: StepLengths, full: bool = False) -> float:
        """Note that a step begins, and sleep before it if a slot is due.

        Args:
            steps: those that begin with the same graph.
            full: whether something else may make this step longer. Then the slot comes later, but not for long: that
                may wait for a graph that does not run again soon, such as the one of a validation.

        Returns:
            the seconds since the last step began with this graph, without those that were given away; nan: none did,
            or PyTorch has traced the model in it.
        """
        if not self._lock.acquire(blocking=False):  # several threads train, and one of them is in a slot
            return math.nan
        try:
            length = self._note(steps, time.monotonic())
            self._full = self._full + 1 if full else 0
            step, before = self.step_seconds, self.given
            if self.share <= 0.0 or math.isnan(step):
                self._saved = min(0.0, self._saved)
                self._let(True)
                self._await_work()
            elif self._full == 0 or self._full > _FULL:
                taken = self._await_work()
                most = min(self._find_most(step), _LONGEST_SLOT)
                if self._saved >= _LEAST * step:
                    self._give(min(self._saved, most - taken))
                # What one slot cannot take is lost. It would make slots long when the share has become smaller.
                self._saved = min(self._saved, most)
                self._let(self.share <= 0.0)
            self._slept = self.given - before
            self._last = time.monotonic()
            steps.begin(self._last, self.given)
            return length
        finally:
            self._lock.release()

    @contextmanager
    def run(self) -> Iterator[None]:
        """A context in which a graph runs. The process is stopped meanwhile, however long the graph takes.

        Before the second step, PyTorch traces between two graphs, on one processor. The process has the other one then.
        """
        with self._counting:
            self._running += 1
            self._let(False)
        try:
            yield
        finally:
            with self._counting:
                self._running -= 1
                if not self._running:
                    self._let(self.share <= 0.0 or math.isnan(self.step_seconds))

    def look(self) -> None:
        """Let the process go on if the training has stopped by itself. Called every second or so."""
        with self._counting:  # no graph begins meanwhile
            if not self._running and not time.monotonic() - self._last < self.patience:
                self._let(True)

    @property
    def _rate(self) -> float:
        """The seconds that are given away for each second of a step without slots."""
        share, paid = self._terms
        return (self._gained if paid else 1.0) / (1.0 - share) - 1.0 if share > 0.0 else 0.0

    def _let(self, run: bool) -> None:
        """Let the process run, or stop it."""
        process = self.process
        if process is not None:
            (process.resume if run else process.pause)()

    def _find_most(self, step: float) -> float:
        """The longest slot before a step, in seconds. With a large share, slots become longer from step to step.

        Args:
            step: the seconds of a step without it.
        """
        wanted = self._rate * step
        wholes = self._window.wholes
        allowed = _LONGER * median(wholes) - step if wholes else 0.0
        return max(_MOST * step, min(wanted, allowed))

    def _note(self, steps: StepLengths, now: float) -> float:
        """Take the time of a step into account."""
        window, length = self._windows[steps.inference], steps.end(now, self.given)
        if length < _LONGEST_STEP:
            window.lengths.append(length)
            window.wholes.append(length + self._slept)
        if window.lengths or not self._window.lengths:
            self._window = window
        self._gained = steps.gained
        passed = now - self._last
        if passed < _LONGEST_STEP:  # of the time with slots, they are to be this share
            self._saved += passed * self._rate
        return length

    def _await_work(self) -> float:
        """Sleep while another thread does work that waits for the end of a step. Returns how many seconds it took."""
        begin = time.monotonic()
        if not self._let_work():
            return 0.0
        return self._count(begin)

    def _let_work(self) -> bool:
        """Let another thread do work that waits, and wait for it. Returns whether there was any."""
        waiting, self._work = self._work, None
        if waiting is None:
            return False
        self._let(True)
        waiting.begun.set()
        waiting.over.wait(_LONGEST_SLOT)
        return True

    def _give(self, seconds: float) -> None:
        """Sleep, as long as the other process has something to do."""
        if seconds <= 0.0:
            return
        begin = time.monotonic()
        self._let(True)
        while self.share > 0.0 and (left := begin + seconds - time.monotonic()) > 1e-6:
            if not self._let_work():
                time.sleep(min(left, _LOOK))
        self._count(begin)
        self.slots += 1

    def _count(self, begin: float) -> float:
        """Count the seconds since a moment as given away. Returns them."""
        taken = time.monotonic() - begin
        self._saved -= taken
        self.given += taken
        return taken
