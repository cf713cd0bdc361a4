"""The process that prepares and tunes parts for a process that trains, and the thread that waits for it.

In the background, each part first gets kernels as the records have them, or defaults. Then all kernels are tuned
together, and from time to time those parts that have gained get new executables. All of it happens in slots that the
training leaves it (:mod:`tilewright.training.slots`).
"""

from __future__ import annotations

import atexit
import logging
import math
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilewright.executable.executable import Executable, load_executable
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.training.options import Options
from tilewright.training.preparing import Preparation, Prepared, Request, Tuned
from tilewright.training.slots import PREPARING, TUNING, Pace, SlotFile

__all__ = ["Order", "Worker", "find_worker"]

#: Seconds that a part may take besides its tuning. Importing and compiling took 35 s for the backward pass of ResNet-18
#: on two busy cores.
_PATIENCE = 1800.0
#: Candidates that are measured before parts are built again, if that pays.
_TRIALS = 64
#: A process that died is replaced so often. (A choice.)
_MOST_DEATHS = 3

_log = logging.getLogger("tilewright.training")
#: The workers of this process. Models that are compiled with the same options share one.
_workers: dict[tuple[Options, int], Worker] = {}


@dataclass(frozen=True)
class Order:
    """A part that is to be prepared, and who wants it.

    Attributes:
        request: the part.
        name: of the part, for people.
        offer: takes its executable, and whether its results were compared with those of the one before.
        leave: is told why there is none.
        spent: seconds of tuning that earlier runs have spent on it; None: it has no executable yet.
    """

    request: Request
    name: str
    offer: Callable[[Executable, bool], None]
    leave: Callable[[str], None]
    spent: float | None = None


class Worker:
    """Has parts prepared by one process, one after the other. A process that died is replaced.

    Args:
        options: of the backend.
        threads: on which kernels run.

    Attributes:
        pace: when the training leaves slots; None: it need not, since all is done before its first step.
        trials: candidates that were measured in the background.
        ended: whether the budget is spent.
    """

    def __init__(self, options: Options, threads: int) -> None:
        self._options, self._threads = options, threads
        self._waiting: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._process: IsolatedProcess | None = None
        self._thread: threading.Thread | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="tilewright-")
        self._orders: dict[str, Order] = {}
        self._deaths = 0
        self._end = -math.inf
        self.trials = 0
        self.ended = self._closed = False
        self.pace = Pace(SlotFile(Path(self._folder.name, "slots"))) if options.mode == "background" else None

    def prepare(self, order: Order) -> bool:
        """Have a part prepared, and wait for it. Errors go to ``order.leave``. Returns whether it is ready."""
        try:
            prepared = self._ask("prepare", order.request, seconds=order.request.seconds)
            self._take(order, prepared)
        except Exception as error:  # whatever fails, the training goes on
            order.leave(str(error))
            return False
        return True

    def enqueue(self, order: Order) -> None:
        """Have a part prepared by and by."""
        self._waiting.put(order)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name="tilewright-worker", daemon=True)
            self._thread.start()

    def _take(self, order: Order, prepared: Prepared) -> None:
        """Offer an executable that the process has built."""
        order.offer(load_executable(prepared.out, self._threads), prepared.checked)
        _log.info(
            "%s is ready: %d of %d tasks tuned in %d trials",
            order.name,
            prepared.tuned,
            prepared.tasks,
            prepared.trials,
        )

    def close(self) -> None:
        """End the process, and start none any more."""
        self._closed = True
        self._close()

    def _serve(self) -> None:
        """The thread: first parts that wait, then tuning."""
        while True:
            if not self._waiting.empty() or self._is_done():
                order = self._waiting.get()
                if math.isinf(self._end):
                    self._end = time.monotonic() + self._options.seconds - (order.spent or 0.0)
                self._begin(order)
                continue
            try:
                self._tune()
            except Exception as error:  # whatever fails, the training goes on with the kernels that it has
                self._note_failure(error)

    def _begin(self, order: Order) -> None:
        """Prepare a part that has waited."""
        if order.spent is not None:
            self._set_share(TUNING)
            try:
                self._ask("learn", order.request)
                self._orders[order.request.key] = order
            except Exception as error:  # it has an executable already
                _log.info("%s is not tuned any more: %s", order.name, error)
        else:
            self._set_share(PREPARING)
            if self.prepare(order):
                self._orders[order.request.key] = order
        if self._waiting.empty() and self._is_done():
            self._close()

    def _is_done(self) -> bool:
        return self.ended or not self._orders or self._options.mode != "background"

    def _tune(self) -> None:
        """Tune for a while, and take the executables that have gained."""
        self._set_share(TUNING)
        left = self._end - time.monotonic()
        live = False
        if left > 0:
            tuned = self._ask("tune", _TRIALS, left, seconds=left)
            assert isinstance(tuned, Tuned)
            self.trials, live = tuned.trials, tuned.live
        last = not live or self._end <= time.monotonic()
        spent = self._options.seconds - (0.0 if last else self._end - time.monotonic())
        for prepared in self._ask("improve", spent, last):
            self._take(self._orders[prepared.key], prepared)
        if last:
            self._close()

    def _note_failure(self, error: Exception) -> None:
        """Tuning failed: try again in another process, or end it."""
        if self._closed:
            return
        self._deaths += isinstance(error, IsolatedError)
        if not isinstance(error, IsolatedError) or self._deaths > _MOST_DEATHS:
            _log.warning("tuning has ended, and training goes on with the kernels that there are: %s", error)
            self._close()

    def _close(self) -> None:
        """Tuning is over. What it held is given back."""
        self.ended = True
        self._set_share(0.0)
        if self._process is not None:
            self._process.kill()

    def _set_share(self, share: float) -> None:
        if self.pace is not None:
            self.pace.share = share

    def _ask(self, method: str, *arguments: object, seconds: float = 0.0) -> Any:  # as the method has it
        if self._closed:
            raise IsolatedError("this process is ending")
        if self._process is None or not self._process.alive:
            self._process = IsolatedProcess(
                Preparation,
                (self._options, Path(self._folder.name)),
                variables={"TVM_NUM_THREADS": str(self._threads)},
                purpose="tuning for training needs a process of its own",
                idle=self.pace is not None,  # the training comes first
            )
            for order in () if self.ended else self._orders.values():
                self._process.call("learn", replace(order.request, seconds=0.0), seconds=_PATIENCE)
        return self._process.call(method, *arguments, seconds=_PATIENCE + seconds)


def find_worker(options: Options, threads: int) -> Worker:
    """The worker of this process for these options."""
    key = (options, threads)
    if key not in _workers:
        _workers[key] = Worker(options, threads)
    return _workers[key]


@atexit.register
def _end_workers() -> None:
    """End the processes of the workers, which wait for more."""
    for worker in _workers.values():
        worker.close()
