"""The process that compiles and tunes parts for a process that trains, and the thread that waits for it.

In the background, each part first gets kernels as the records have them, or defaults. A step copies what the part
takes, and the process proves the kernels with that (:mod:`tilewright.training.proving`). Then the process compiles
variants of the kernels that take most of a step, runs each and compares its results; the training times them in their
places, in real steps, and the process builds the part with the fastest. This is a *generation*; others follow until the
budget is spent. The process works in slots that the training leaves it (:mod:`tilewright.training.slots`).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tilewright.errors import TilewrightError
from tilewright.executable.executable import Executable, load_executable
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.scratch import make_folder
from tilewright.training.arena import find_arena
from tilewright.training.options import Options
from tilewright.training.orders import Order, Prepared, Proposal
from tilewright.training.preparing import make_preparation
from tilewright.training.progress import Progress
from tilewright.training.proofs import Proofs
from tilewright.training.slots import PREPARING, TUNING, Pace

if TYPE_CHECKING:
    from tilewright.training.contest import Contest

__all__ = ["Worker", "find_worker"]

#: Seconds that a part may take besides its tuning. The backward pass of ResNet-18 took 35 s on two busy cores.
_PATIENCE = 1800.0
#: Seconds that a generation may wait for the steps that time its variants, and between two looks at what a step does.
_LONGEST_CONTEST, _LOOK = 600.0, 0.05
#: Seconds between two looks at whether the training goes on.
_WATCH = 1.0
#: A process that died is replaced so often in a budget. (A choice.)
_MOST_DEATHS = 3
#: Seconds after which a process that nobody uses is ended: it has some hundred megabytes. (A choice.)
_MOST_IDLE = 60.0

_Result = TypeVar("_Result")

_log = logging.getLogger("tilewright.training")
#: The workers of this process. Models that are compiled with the same options share one.
_workers: dict[tuple[Options, int], Worker] = {}


class Worker:
    """Has parts compiled and tuned by one process, one after the other. A process that died is replaced.

    In the background, a thread of its own uses the process from the first part on, and ends it after the budget.
    Otherwise, those that train use it, one at a time. If none does so for a minute, the process is ended.

    Args:
        options: of the backend.
        threads: on which kernels run.

    Attributes:
        pace: when the training leaves slots.
        progress: logs how the training goes on.
        trials: how many variants were timed in real steps.
        generations: how many generations of variants there were.
        ended: whether the budget is spent.
    """

    def __init__(self, options: Options, threads: int) -> None:
        self._options, self._threads = options, threads
        self._waiting: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._next: deque[Order] = deque()
        self._process: IsolatedProcess | None = None
        self._thread: threading.Thread | None = None
        self._folder, self._lock = make_folder()  # where the process builds: the lock says that this one needs it
        self._orders: dict[str, Order] = {}
        self._proofs = Proofs(self._folder, threads, self._ask, self._load, self._refuse)
        self._end = self._changed = self._used = -math.inf
        self._using = threading.Lock()  # the outermost lock: of a process, of a part and of a pace are taken under it
        self._deaths = self.trials = self.generations = 0
        self.ended = self._closed = False
        self.pace, self.progress = Pace(), Progress(self)

    def start(self) -> None:
        """Start the process, which takes seconds to import what it needs, before there is a part."""
        if self._process is None and not self._closed:
            with contextlib.suppress(TilewrightError):  # said when a part needs it
                self._launch()

    def prepare(self, order: Order) -> bool:
        """Have a part prepared, and wait for it. Returns whether it is ready. If not, it is left to PyTorch.

        A part with an executable of an earlier run keeps that. The next run of the part proves the executable.
        """
        with self._using:
            prepared = self._prepare(order)
            self._used = time.monotonic()
            return prepared is not None and self._offer(order, prepared)

    def enqueue(self, order: Order) -> None:
        """Have a part prepared in the background."""
        self._waiting.put(order)
        with self._using:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="tilewright-worker", daemon=True)
                self._thread.start()

    def _prepare(self, order: Order) -> Prepared | None:
        """The executable of a part; None: there is none, and the part is left to PyTorch."""
        try:
            try:
                prepared = self._ask("prepare", order.request, seconds=order.request.seconds)
            except IsolatedError:  # somebody may have killed it; a part that crashes does so again
                prepared = self._ask("prepare", order.request, seconds=order.request.seconds)
            assert isinstance(prepared, Prepared)
        except Exception as error:  # whatever fails, the training goes on
            self._refuse(order, str(error))
            return None
        self._report(order, prepared)
        return prepared

    def _report(self, order: Order, prepared: Prepared) -> None:
        """Say that an executable was built."""
        for note in prepared.notes:
            _log.warning("%s", note)
        order.part.tasks |= prepared.kernels
        found = (prepared.tuned, prepared.tasks, prepared.trials)
        _log.info("%s is ready: %d of %d tasks tuned in %d trials", order.part.name, *found)

    def _offer(self, order: Order, prepared: Prepared) -> bool:
        """Let the next run of a part use an executable, and prove it if it was not checked. Returns whether it can."""
        try:
            order.part.offer(self._load(prepared.out), prepared.checked)
        except Exception as error:
            self._refuse(order, str(error))
            return False
        return True

    def _refuse(self, order: Order, why: str) -> None:
        """Note that there are no kernels for a part."""
        if order.spent is not None:
            _log.info("%s keeps the kernels of an earlier run: %s", order.part.name, why)
        elif not self._closed:
            order.part.leave(why)

    def _load(self, out: Path) -> Executable:
        """An executable that the process has built."""
        return self._between_steps(partial(load_executable, out, self._threads, find_arena()))

    def _between_steps(self, work: Callable[[], _Result]) -> _Result:
        """Do something that would disturb a step."""
        if threading.current_thread() is not self._thread:  # the one that trains, between two steps
            return work()
        return self.pace.between_steps(work)

    def close(self) -> None:
        """End the process, and start none any more. What was built is removed."""
        self._closed = True
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def abandon(self) -> None:
        """Prepare and tune nothing more. Called in a forked process, whose parent the worker belongs to."""
        self._closed = self.ended = True
        self._proofs.cancel()
        self.pace = Pace()  # another thread may have held the locks of the former one

    def _serve(self) -> None:
        """The thread: first parts that wait, then tuning."""
        while True:
            try:
                self._collect()
                self._settle()
                if not self._next and not self._proofs.waiting and self._is_done():
                    self._close()
                    self._note(self._waiting.get())
                if self._next:
                    self._begin(self._next.popleft())
                elif self._is_done():
                    time.sleep(_LOOK)  # a proof waits for a step
                else:
                    self._tune()
            except Exception as error:  # whatever fails, the training goes on with the kernels that it has
                self._note_failure(error)

    def _settle(self) -> None:
        """Prove what can be proven."""
        if self._proofs.ready:
            self._set_share(PREPARING)
            self._proofs.settle()
            self._changed = time.monotonic()

    def _collect(self) -> None:
        """Note all orders that wait."""
        while not self._waiting.empty():
            self._note(self._waiting.get())
        self._next = deque(self._proofs.sort(self._next))

    def _note(self, order: Order) -> None:
        """Note an order that has waited."""
        self._next.append(order)
        self._proofs.expect(order)

    def _watch(self, process: IsolatedProcess) -> None:
        """The thread that lets the process go on when the training pauses or another one has stopped it, or ends it."""
        while process.alive:
            self.pace.look()
            self._end_idle(process)
            time.sleep(_WATCH)

    def _end_idle(self, process: IsolatedProcess) -> None:
        """End the process if nobody has used it for a while."""
        if self._using.acquire(blocking=False):
            try:
                if self._thread is None and time.monotonic() - self._used > _MOST_IDLE:
                    process.kill()
            finally:
                self._using.release()

    def _begin(self, order: Order) -> None:
        """Prepare a part that has waited."""
        if math.isinf(self._end) or self.ended:  # a part that comes after the end has a budget of its own
            self.ended, self._deaths = False, 0
            self._end = time.monotonic() + self._options.seconds - (order.spent or 0.0)
        if order.spent is not None:
            while math.isnan(self.pace.step_seconds) and not self._closed:
                time.sleep(_LOOK)  # it has an executable, so nothing may delay the first step
            self._set_share(TUNING)
            try:
                self._ask("learn", order.request)
                self._orders[order.request.key] = order
            except Exception as error:  # it has an executable already
                _log.info("%s is not tuned any more: %s", order.part.name, error)
            return
        self._set_share(PREPARING)
        self._announce(order)
        prepared = self._prepare(order)
        if prepared is None:
            self._proofs.end(order)
            return
        self._orders[order.request.key] = order
        self._begin_proof(order, prepared)

    def _begin_proof(self, order: Order, prepared: Prepared) -> None:
        """Have an executable proven when a step has copied what that needs, and wait for the step for a while."""
        try:
            over = self._between_steps(partial(self._proofs.begin, order, prepared))
        except (OSError, ValueError) as error:
            _log.info("%s is proven in a step: %s", order.part.name, error)
            self._offer(order, prepared)
            self._proofs.end(order)
            return
        self._set_share(0.0)  # the process waits for that step, so no slot delays it
        over.wait(self.pace.patience)

    def _announce(self, first: Order) -> None:
        """Tell the process of all parts that wait for kernels, of which this is the first one."""
        with contextlib.suppress(TilewrightError):  # the next call fails as well
            # PyTorch makes other graphs while the process starts, and while it imports the first part.
            for method, arguments in (("announce", ([],)), ("begin", (first.request,))):
                self._ask(method, *arguments)
                self._collect()
                self._ask("announce", [order.request for order in (first, *self._next) if order.spent is None])

    def _is_done(self) -> bool:
        return self.ended or not self._orders or self._options.mode != "background"

    def _tune(self) -> None:
        """A generation, or the end of the budget."""
        left = self._end - time.monotonic()
        if self._proofs.waiting and left > 0:  # for a step
            self._set_share(0.0)
            time.sleep(_LOOK)
            return
        tunable = {key: order.part for key, order in self._orders.items() if order.part.state != "left"}
        if left <= 0 or not tunable:
            for order, prepared in self._proofs.give_up():  # no step has come
                self._offer(order, prepared)
                self._proofs.end(order)
            self._ask("finish", self._options.seconds)
            self._close()
            return
        times = {key: part.kernel_seconds for key, part in tunable.items() if part.kernel_seconds}
        if len(times) < len(tunable):  # the first steps in our kernels are still to come
            self._set_share(0.0)
            time.sleep(_LOOK)
            if not times or time.monotonic() < self._changed + self.pace.patience:
                return
        self._set_share(TUNING)
        proposals = self._ask("propose", times, seconds=left)
        self._set_share(0.0)
        contests = {proposal.key: self._hold(proposal) for proposal in proposals}
        self._await([contest for contest in contests.values() if contest is not None])
        self._set_share(TUNING)
        self.generations += 1
        for key, contest in contests.items():
            found = {} if contest is None else contest.times
            self.trials += sum(len(variants) - 1 for variants in found.values())
            spent = self._options.seconds - max(0.0, self._end - time.monotonic())
            prepared = self._ask("conclude", key, found, spent)
            if isinstance(prepared, Prepared):
                self._report(self._orders[key], prepared)
                self._offer(self._orders[key], prepared)
        if not any(contests.values()):  # nothing new to try
            self._end = time.monotonic()

    def _hold(self, proposal: Proposal) -> Contest | None:
        """Let the training time the variants of a part."""
        part = self._orders[proposal.key].part
        return part.hold_contest(self._load(proposal.out), proposal.variants, proposal.expected)

    def _await(self, contests: Sequence[Contest]) -> None:
        """Wait until the training has timed all variants. It may have stopped, or the budget may be spent."""
        until = min(time.monotonic() + _LONGEST_CONTEST, self._end)
        for contest in contests:
            contest.over.wait(max(0.0, until - time.monotonic()))
            contest.cancel()

    def _note_failure(self, error: Exception) -> None:
        """Tuning failed: try again in another process, or end it."""
        if self._closed:
            return
        self._deaths += isinstance(error, IsolatedError)
        if not isinstance(error, IsolatedError) or self._deaths > _MOST_DEATHS:
            _log.warning("tuning has ended, and training goes on with the kernels that there are: %s", error)
            self._close()

    def _close(self) -> None:
        """End tuning, and give back what it held."""
        self.ended = True
        self._set_share(0.0)
        self._orders.clear()
        self._proofs.forget()
        if self._process is not None:
            self._process.kill()

    def _set_share(self, share: float) -> None:
        self.pace.set_share(self._options.limit(share), paid=share == PREPARING)

    def _ask(self, method: str, *arguments: object, seconds: float = 0.0) -> Any:  # as the method has it
        if self._closed:
            raise IsolatedError("this process is ending")
        if self._process is None or not self._process.alive:
            self._launch()
            assert self._process is not None
            for order in () if self.ended else self._orders.values():
                self._process.call("learn", replace(order.request, seconds=0.0), seconds=_PATIENCE)
        return self._process.call(method, *arguments, seconds=_PATIENCE + seconds)

    def _launch(self) -> None:
        """Start a process. It imports what it needs while this one goes on."""
        process = IsolatedProcess(
            make_preparation,
            (self._options, self._folder),
            variables={"TVM_NUM_THREADS": str(self._threads)},
            purpose="tuning for training needs a process of its own",
        )
        self._process, self._used = process, time.monotonic()
        self.pace.process = process
        threading.Thread(target=self._watch, args=(process,), name="tilewright-pace", daemon=True).start()


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


def _abandon_workers() -> None:
    """A fork of this process has no threads of the workers. It does not end their processes, nor remove their files."""
    for worker in _workers.values():
        worker.abandon()
    _workers.clear()


os.register_at_fork(after_in_child=_abandon_workers)
