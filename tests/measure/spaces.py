"""A toy design space whose configs do everything that candidates do to a tuner. TVM is imported where it is used."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.loop_nest import LoopNest
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

    from tilewright.measure.pool import LocalPool

__all__ = ["Deed", "FaultySpace", "broken_factory", "config", "make_faulty", "make_task", "pids_of"]

_EXTENT = 4096


class Deed(IntEnum):
    """What a config does."""

    FAST = 0
    SLOW = 1  # 50 times the work
    BAD_SCHEDULE = 2
    BAD_COMPILE = 3
    HANG_IN_BUILD = 4
    HANG_IN_RUN = 5
    CRASH_IN_BUILD = 6
    CRASH_IN_RUN = 7
    RAISE_IN_RUN = 8
    WRONG = 9
    NAN = 10
    PARTIAL = 11  # leaves the last element unwritten
    SLEEPY_BUILD = 12  # 1 s
    OTHER_SHAPE = 13
    TALK = 14  # prints, then aborts in its run
    REPORT = 15  # tells how many threads TVM has in its worker, and how long they spin


@dataclass(frozen=True)
class FaultySpace:
    """Adds 1 to each element, one way or another. The second knob only tells configs apart."""

    task: Task
    start: Deed = Deed.FAST
    template: str = "faulty/1"
    has_loop_nest: bool = False

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return (ChoiceKnob.of("deed", list(range(len(Deed)))), ChoiceKnob.of("which", list(range(100))))

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        return np.ones(len(configs), dtype=np.bool_)

    def loop_nest(self, configs: Configs) -> LoopNest:
        raise SpaceError("the faulty space has no closed form")

    def default(self) -> NDArray[np.int32]:
        return np.asarray([self.start, 0], dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        import tvm_ffi
        from tvm import te, tirx
        from tvm.ir import IRModule
        from tvm.s_tir import Schedule
        from tvm.script import from_source

        deed = Deed(int(config[0]))
        if deed is Deed.BAD_SCHEDULE:
            raise SpaceError("this config has no schedule")
        if deed is Deed.REPORT:
            raise SpaceError(
                f"threads {os.environ['TVM_NUM_THREADS']}, {os.environ['TVM_THREAD_POOL_SPIN_COUNT']} spins"
            )
        if deed is Deed.HANG_IN_BUILD:
            time.sleep(600)
        if deed is Deed.CRASH_IN_BUILD:
            os.kill(os.getpid(), signal.SIGSEGV)
        if deed is Deed.SLEEPY_BUILD:
            time.sleep(1)
        if deed is Deed.PARTIAL:
            return Schedule(from_source(_PARTIAL))
        extent = _EXTENT // 2 if deed is Deed.OTHER_SHAPE else _EXTENT
        source = te.placeholder((extent,), name="A")

        def element(i: object) -> object:
            if deed is Deed.WRONG:
                return source[i] + tirx.const(1.25, "float32")
            if deed is Deed.NAN:
                return tirx.if_then_else(i == 7, tirx.const(float("nan"), "float32"), source[i] + 1.0)
            return source[i] + 1.0

        if deed is Deed.SLOW:
            times = te.reduce_axis((0, 50), name="times")
            result = te.compute((extent,), lambda i: te.max(source[i] + 1.0 - times * 1e-3, axis=times), name="B")
        elif deed in _CALLS:
            result = te.extern(
                [(extent,)],
                [source],
                lambda ins, outs: tirx.call_packed(f"toy.{deed.name}", ins[0], outs[0]),
                name="B",
            )
        else:
            result = te.compute((extent,), element, name="B")
        for called, function in _CALLS.items():
            tvm_ffi.register_global_func(f"toy.{called.name}", function, override=True)
        schedule = Schedule(IRModule({"main": te.create_prim_func([source, result])}))
        if deed is Deed.BAD_COMPILE:
            loop = schedule.get_loops(schedule.get_sblock("B"))[0]
            schedule.bind(loop, "threadIdx.x")  # no such thing on a CPU: VerifyMemory or LLVM's code generator refuses
        return schedule


def _hang(*_: object) -> None:
    time.sleep(600)


def _crash(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise(*_: object) -> None:
    raise ValueError("the kernel does not like its arguments")


def _talk(*_: object) -> None:
    os.write(1, b"hello from the kernel\n")
    os.write(2, b"terminate called: out of ideas\n")
    os.abort()


#: What kernels call that misbehave when they run.
_CALLS: dict[Deed, Callable[..., None]] = {
    Deed.HANG_IN_RUN: _hang,
    Deed.CRASH_IN_RUN: _crash,
    Deed.RAISE_IN_RUN: _raise,
    Deed.TALK: _talk,
}

_PARTIAL = f"""
# from tvm.script import ir as I
# from tvm.script import tirx as T

@I.ir_module
class Module:
    @T.prim_func(s_tir=True)
    def main(A: T.Buffer(({_EXTENT},), "float32"), B: T.Buffer(({_EXTENT},), "float32")):
        for i in range({_EXTENT - 1}):
            with T.sblock("B"):
                v = T.axis.spatial({_EXTENT - 1}, i)
                B[v] = A[v] + T.float32(1)
"""


def make_task(start: Deed = Deed.FAST) -> Task:
    """A task of the faulty space whose default config does ``start``."""
    return Task(key=f"faulty-{start.name}", name=f"faulty, default {start.name}", kind="toy", flop=4096.0, ir="")


def make_faulty(task: Task, target: Target) -> DesignSpace:
    """The factory that the workers find."""
    return FaultySpace(task, Deed[task.key.partition("-")[2]])


def broken_factory(task: Task, target: Target) -> DesignSpace:
    """A factory that cannot make the space."""
    raise SpaceError(f"no design space serves {task.name}")


def config(deed: Deed, which: int = 0) -> tuple[int, int]:
    """The config that does ``deed``."""
    return (int(deed), which)


def pids_of(pool: LocalPool) -> list[int]:
    """The process ids of a pool's workers, including the one that is kept ready."""
    return [process.pid for process in pool.workforce.processes]
