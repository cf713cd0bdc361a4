"""The process that prepares parts for a process that trains, and the thread that waits for it."""

from __future__ import annotations

import atexit
import logging
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.memory import Arena
from tilewright.measure.isolated import IsolatedProcess
from tilewright.training.options import Options
from tilewright.training.preparing import Preparation, Prepared, Request

__all__ = ["Order", "Worker", "find_worker"]

#: Seconds that a part may take besides its tuning. Importing and compiling took 35 s for the backward pass of ResNet-18
#: on two busy cores.
_PATIENCE = 1800.0

_log = logging.getLogger("tilewright.training")
#: The workers of this process. Models that are compiled with the same options share one.
_workers: dict[tuple[Options, int], Worker] = {}
#: The arena of all parts, as long as there is one of them.
_arenas: weakref.WeakValueDictionary[str, Arena] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class Order:
    """A part that is to be prepared, and who wants it.

    Attributes:
        request: the part.
        name: of the part, for people.
        offer: takes its executable.
        leave: is told why there is none.
    """

    request: Request
    name: str
    offer: Callable[[Executable], None]
    leave: Callable[[str], None]


class Worker:
    """Has parts prepared by one process, one after the other. A process that died is replaced for the next part.

    Args:
        options: of the backend.
        threads: on which kernels run.
    """

    def __init__(self, options: Options, threads: int) -> None:
        self._options, self._threads = options, threads
        self._waiting: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._process: IsolatedProcess | None = None
        self._thread: threading.Thread | None = None

    def prepare(self, order: Order) -> None:
        """Have a part prepared, and wait for it. Errors go to ``order.leave``."""
        try:
            with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
                prepared = self._ask(order.request, Path(folder, "executable"))
                # It needs its directory no longer.
                executable = load_executable(prepared.out, self._threads, _find_arena())
        except Exception as error:  # whatever fails, the training goes on
            order.leave(str(error))
            return
        order.offer(executable)
        _log.info(
            "%s is ready: %d of %d tasks tuned in %d trials",
            order.name,
            prepared.tuned,
            prepared.tasks,
            prepared.trials,
        )

    def enqueue(self, order: Order) -> None:
        """Have a part prepared by and by."""
        self._waiting.put(order)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._serve, name="tilewright-worker", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()

    def _serve(self) -> None:
        while True:
            self.prepare(self._waiting.get())

    def _ask(self, request: Request, out: Path) -> Prepared:
        if self._process is None or not self._process.alive:
            self._process = IsolatedProcess(
                Preparation,
                (self._options,),
                variables={"TVM_NUM_THREADS": str(self._threads)},
                purpose="tuning for training needs a process of its own",
            )
        prepared = self._process.call("prepare", request, out, seconds=_PATIENCE + request.seconds)
        assert isinstance(prepared, Prepared)
        return prepared


def find_worker(options: Options, threads: int) -> Worker:
    """The worker of this process for these options."""
    return _workers.setdefault((options, threads), Worker(options, threads))


def _find_arena() -> Arena:
    """The arena of all parts of this process. A step runs one part at a time."""
    arena = _arenas.get("parts")
    if arena is None:
        arena = _arenas["parts"] = Arena()
    return arena


@atexit.register
def _end_workers() -> None:
    """End the processes of the workers, which wait for more."""
    for worker in _workers.values():
        worker.close()
