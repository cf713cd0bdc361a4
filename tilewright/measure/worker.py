"""The worker's side: a process that builds candidates, keeps them in memory, and times them when told to.

:class:`tilewright.measure.worker_process.WorkerProcess` starts it. It never prints for the user, never decides when to
run, and ends with the pool's process, however that ends.
"""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.measure.arguments import Arguments, Parameter, Reference, parameters_of
from tilewright.measure.cold import kernel_flush
from tilewright.measure.interleaved import interleave
from tilewright.measure.memory import die_first
from tilewright.measure.outcome import Outcome, robust_seconds
from tilewright.measure.protocol import (
    Adopt,
    Anchor,
    Anchored,
    Build,
    Built,
    Command,
    Compile,
    Compiled,
    Drop,
    Failed,
    Hello,
    Lend,
    Lent,
    Library,
    Prepare,
    Prepared,
    Race,
    Raced,
    Reply,
    Run,
    SpaceFactory,
    Started,
    Timed,
)
from tilewright.measure.timing import Function, Timer, collector_resting
from tilewright.ops.generic.generation import remember_generated
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.tvm_compat import (
    keep_nan,
    lean_kernels,
    light_import,
    set_threads,
    spin_briefly,
    unchecked_schedules,
)

if TYPE_CHECKING:
    from tvm import runtime

__all__ = ["main"]

#: The number of tasks whose space and reference are kept, so that a network's tasks may take turns (a choice).
_KEPT_TASKS = 64
#: The bytes of all references that are kept, unless the current task's alone has more: half of what the compiler takes.
_KEPT_BYTES = 96 << 20
#: A default whose first call took more seconds is not timed with every batch, because candidates would wait for it.
_LONGEST_ANCHOR = 0.2
#: The characters of a message that records keep: a few lines of a terminal.
_MESSAGE = 300


def main(connection: Connection, cores: int) -> None:
    """Serve the pool at the other end of ``connection`` until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool decides what to do about an interrupt
    die_first()
    spin_briefly()
    set_threads(cores)  # both before anything imports TVM
    try:
        with light_import():
            import tvm  # noqa: F401  the slow part of starting, here rather than in the first build

        hello = connection.recv()
        from tilewright.executable.runtime.library import use_for_kernels

        unchecked_schedules()
        use_for_kernels(cores)  # a candidate is timed on the threads that the executable will have
        worker = _Worker(hello)
    except Exception as error:
        connection.send(Started(_describe(error)))
        os._exit(1)
    gc.freeze()  # the compiler's 200,000 objects stay: to go through them again and again was 5 % of a build
    connection.send(Started())
    while True:
        try:
            command = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # without destructors, which might wait for a kernel's threads
        reply = worker.handle(command)
        if reply is not None:
            connection.send(reply)


@dataclass
class _Prepared:
    """A task that the worker has turned to, and what it keeps of the task.

    Attributes:
        space: the design space of the task.
        parameters: of the kernel that made the reference.
        reference: what the outputs must be.
        default: the default config and its kernel, if this worker has built it for the reference. It is usually the
            first candidate, too, and it tells how fast the machine is.
        quick: whether the default is there and takes so little time that it may be timed before and after each batch.
    """

    space: DesignSpace
    parameters: tuple[Parameter, ...] = ()
    reference: Reference | None = None
    default: tuple[tuple[int, ...], _Kernel] | None = None
    quick: bool = False


@dataclass(frozen=True)
class _Kernel:
    """A built candidate. ``module`` keeps the code of ``function`` in memory."""

    function: Function
    parameters: tuple[Parameter, ...]
    module: object


class _Worker:
    """Carries out commands. Whatever a candidate raises becomes a reply. The pool sees what kills the process."""

    def __init__(self, hello: Hello) -> None:
        self._target: Target = hello.target
        self._factory: SpaceFactory = hello.factory or _default_factory()
        self._tasks: OrderedDict[str, _Prepared] = OrderedDict()
        self._key = ""
        self._arguments: Arguments | None = None
        self._streamed = 0
        self._kernels: dict[int, _Kernel] = {}
        self._timer = Timer(flush=kernel_flush(self._target) if self._target.caches == "cold" else None)

    def handle(self, command: Command) -> Reply | None:
        """Carry out a command; returns the reply, if the command has one."""
        if isinstance(command, Build):
            return self._build(command)
        if isinstance(command, Compile):
            return self._compile_library(command)
        if isinstance(command, Run):
            return self._run(command)
        if isinstance(command, Race):
            return self._race(command)
        if isinstance(command, Prepare):
            return self._prepare(command)
        if isinstance(command, Lend):
            return self._lend()
        if isinstance(command, Anchor):
            return self._anchor()
        if isinstance(command, Adopt):
            task = self._tasks[self._key]
            task.parameters, task.reference = command.parameters, command.reference
        elif isinstance(command, Drop):
            self._kernels.clear()
        return None

    def _prepare(self, command: Prepare) -> Prepared:
        key = command.task.key
        self._streamed = command.streamed
        if key != self._key:
            self._kernels.clear()
            self._arguments = None  # before the next task's are made: both may be too much memory
            self._key = key
        task = self._tasks.get(key)
        if task is None:
            if command.generated is not None:
                remember_generated(command.task, self._target, command.generated)
            try:
                task = self._tasks[key] = _Prepared(self._factory(command.task, self._target))
            except Exception as error:
                return Prepared(_describe(error))
        self._tasks.move_to_end(key)
        if command.use_default and task.default is None:
            config = task.space.default()
            kernel = self._compile(config)
            # If it fails, the first candidate that runs becomes the reference.
            seconds = self._first(task, kernel) if isinstance(kernel, _Kernel) else None
            if isinstance(kernel, _Kernel) and isinstance(seconds, float):
                task.default = (tuple(int(index) for index in config), kernel)
                task.quick = seconds < _LONGEST_ANCHOR
        elif task.reference is not None and self._arguments is None:
            # The first run would make them as well, but runs are not parallel.
            self._arguments = Arguments(task.parameters, key, self._streamed)
        self._forget()
        return Prepared(reference=task.reference is not None, anchor=task.quick)

    def _forget(self) -> None:
        """Drop the tasks used longest ago until what is kept is within bounds."""
        while len(self._tasks) > 1 and (
            len(self._tasks) > _KEPT_TASKS
            or sum(t.reference.bytes for t in self._tasks.values() if t.reference is not None) > _KEPT_BYTES
        ):
            self._tasks.popitem(last=False)

    def _build(self, command: Build) -> Built | Failed:
        kernel: _Kernel | Failed
        default = self._tasks[self._key].default
        if default is not None and default[0] == command.config:
            kernel = default[1]
        elif command.library is not None and (loaded := _load(command.library)) is not None:
            kernel = loaded
        else:
            kernel = self._compile(np.asarray(command.config, dtype=np.int32))
        if isinstance(kernel, Failed):
            return kernel
        self._kernels[command.candidate] = kernel
        if self._arguments is None:
            # Here rather than in the first run, because workers build in parallel.
            with suppress(Exception):  # the run tries again, and says what is wrong
                self._arguments = Arguments(kernel.parameters, self._key, self._streamed)
        return Built()

    def _compile(self, config: NDArray[np.int32]) -> _Kernel | Failed:
        made = self._make(config)
        if isinstance(made, Failed):
            return made
        module, parameters = made
        try:
            # Looking the function up makes LLVM emit machine code, which is a third of the time of a build. Here the
            # workers do so in parallel.
            return _Kernel(module["main"], parameters, module)
        except Exception as error:
            return Failed(Outcome.BUILD_FAILED, _describe(error))

    def _compile_library(self, command: Compile) -> Compiled | Failed:
        made = self._make(np.asarray(command.config, dtype=np.int32))
        if isinstance(made, Failed):
            return made
        module, parameters = made
        from tilewright.executable.runtime.library import link

        try:
            with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
                compiled, library = Path(folder, "kernel.o"), Path(folder, "kernel.so")
                module.write_to_file(str(compiled), "o")
                link([compiled], library, triple=self._target.triple)
                return Compiled(Library(parameters, library.read_bytes()))
        except Exception as error:
            return Failed(Outcome.BUILD_FAILED, _describe(error))

    def _make(self, config: NDArray[np.int32]) -> tuple[runtime.Module, tuple[Parameter, ...]] | Failed:
        """Schedule and compile a candidate. Returns its module, whose function is ``main``, and its parameters."""
        import tvm

        try:
            module = self._tasks[self._key].space.schedule(config).mod
            parameters = parameters_of(module["main"])
        except Exception as error:
            return Failed(Outcome.INVALID, _describe(error))
        try:
            with lean_kernels():  # kernels need no checks of arguments: these have the candidate's parameters
                return tvm.compile(keep_nan(module), target=self._target.tvm).mod, parameters
        except Exception as error:
            return Failed(Outcome.BUILD_FAILED, _describe(error))

    def _lend(self) -> Lent | Failed:
        task = self._tasks[self._key]
        if task.reference is None:
            return Failed(Outcome.INVALID, "there is no reference to lend")
        return Lent(task.parameters, task.reference)

    def _run(self, command: Run) -> Timed | Failed:
        task = self._tasks[self._key]
        kernel = self._kernels[command.candidate]  # kept: it may have another turn
        first = self._first(task, kernel)
        if isinstance(first, Failed):
            return first
        assert self._arguments is not None
        try:
            function = self._arguments.called(kernel.function)
            timing = self._timer.time(function, self._arguments.tensors, first, command.best)
        except Exception as error:
            return Failed(Outcome.RUN_CRASHED, _describe(error))
        return Timed(timing.repeats, timing.causes)

    def _anchor(self) -> Anchored | Failed:
        task = self._tasks[self._key]
        if task.default is None:
            return Failed(Outcome.INVALID, "there is no default to time")
        kernel = task.default[1]
        try:
            if self._arguments is None or self._arguments.parameters != kernel.parameters:
                self._arguments = Arguments(kernel.parameters, self._key, self._streamed)
            function = self._arguments.called(kernel.function)
            return Anchored(robust_seconds(self._timer.glance(function, self._arguments.tensors)))
        except Exception as error:
            return Failed(Outcome.RUN_CRASHED, _describe(error))

    def _race(self, command: Race) -> Raced | Failed:
        task = self._tasks[self._key]
        results: dict[int, Timed | Failed] = {}
        firsts: dict[int, float] = {}
        for candidate in command.candidates:
            first = self._first(task, self._kernels[candidate])
            if isinstance(first, Failed):
                results[candidate] = first
            else:
                firsts[candidate] = first
        if self._arguments is None:  # the last one spoiled them
            self._arguments = Arguments(task.parameters, self._key, self._streamed)
        try:
            with collector_resting():
                turns = [self._turn(self._kernels[candidate], first) for candidate, first in firsts.items()]
                blocks = interleave(turns, command.seconds)
        except Exception as error:  # measuring them one by one will show which candidate raises
            return Failed(Outcome.RUN_CRASHED, _describe(error))
        results.update(zip(firsts, map(Timed, blocks), strict=True))
        return Raced(tuple(results[candidate] for candidate in command.candidates))

    def _turn(self, kernel: _Kernel, first: float) -> Callable[[], float]:
        """What times one block of a kernel."""
        assert self._arguments is not None
        function, tensors = self._arguments.called(kernel.function), self._arguments.tensors
        estimate = self._timer.estimate(function, tensors, first)
        return partial(self._timer.turn, function, tensors, estimate)

    def _first(self, task: _Prepared, kernel: _Kernel) -> float | Failed:
        """Run a kernel once and check its outputs. If there is no reference, they become it. Returns seconds."""
        try:
            if task.reference is not None and task.parameters != kernel.parameters:
                return Failed(Outcome.WRONG_RESULT, "number, shapes or types of the arguments are not the reference's")
            if self._arguments is None or self._arguments.parameters != kernel.parameters:
                self._arguments = Arguments(kernel.parameters, self._key, self._streamed)
            self._arguments.blank()
            seconds = self._timer.first_call(kernel.function, self._arguments.tensors)
        except Exception as error:
            return Failed(Outcome.RUN_CRASHED, _describe(error))
        if task.reference is None:
            task.parameters = kernel.parameters
            task.reference = Reference(self._arguments.outputs)
            return seconds
        message = task.reference.mismatch(self._arguments.outputs)
        if message:
            self._arguments = None  # the kernel may have written anywhere: the next candidate gets fresh data
            return Failed(Outcome.WRONG_RESULT, message)
        return seconds


def _default_factory() -> SpaceFactory:
    from tilewright.ops.registry import make_space

    return make_space


def _load(library: Library) -> _Kernel | None:
    """The kernel of a library; None if it cannot be loaded: then it has to be compiled here."""
    import tvm

    try:
        with tempfile.NamedTemporaryFile(prefix="tilewright-", suffix=".so") as file:  # loaded, it needs no name
            file.write(library.content)
            file.flush()
            module = tvm.runtime.load_module(file.name)
        return _Kernel(module["main"], library.parameters, module)
    except Exception:
        return None


def _describe(error: BaseException) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:_MESSAGE]
