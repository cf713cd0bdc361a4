"""The workers' side of injected faults: a design space whose programs do what the last index of a config says."""

from __future__ import annotations

import ctypes
import enum
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.registry import make_space
from tilewright.space.knob import ChoiceKnob, Knob
from tilewright.space.loop_nest import LoopNest
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["Fault", "Misbehaving", "misbehaving"]

#: Seconds that each call of a slow kernel takes: 1,000 times the 20 to 100 us of the small tasks that it is used on.
_SLOW_SECONDS = 0.1
_CHUNK = 32 << 20


class Fault(enum.IntEnum):
    """What a candidate does. The value is what the workers are told."""

    NONE = 0
    SEGFAULT = 1
    ILLEGAL = 2
    ABORT = 3
    KILLED = 4  # by a signal that it cannot catch, as the system does when memory runs out
    MEMORY = 5
    ENDLESS = 6
    NAN = 7
    WRONG = 8
    SLOW = 9  # 1,000 times the best
    BUILD_SEGFAULT = 10
    BUILD_MEMORY = 11
    BUILD_ENDLESS = 12


class Misbehaving:
    """A design space with one more knob, which says what its programs do wrong.

    Args:
        inner: the space whose programs they are.
    """

    has_loop_nest = False

    def __init__(self, inner: DesignSpace) -> None:
        self._inner = inner
        self.task = inner.task
        self.template = inner.template
        self.knobs: tuple[Knob, ...] = (*inner.knobs, ChoiceKnob.of("fault", [int(fault) for fault in Fault]))

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """As in the inner space. ``(n,)``."""
        return self._inner.valid(configs[:, :-1])

    def loop_nest(self, configs: Configs) -> LoopNest:
        """That of the inner space."""
        return self._inner.loop_nest(configs[:, :-1])

    def default(self) -> NDArray[np.int32]:
        """The inner default, which does nothing wrong."""
        return np.append(self._inner.default(), np.int32(Fault.NONE))

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program, with a call of the misdeed in it; what goes wrong in the build does so here."""
        from tvm.ir import IRModule
        from tvm.s_tir import Schedule

        fault = Fault(int(config[-1]))
        schedule = self._inner.schedule(config[:-1])
        if fault is Fault.NONE:
            return schedule
        if fault.name.startswith("BUILD_"):
            _MISDEEDS[Fault[fault.name.removeprefix("BUILD_")]](None)
        return Schedule(IRModule({"main": _with_call(schedule.mod["main"], fault)}))


def misbehaving(task: Task, target: Target) -> DesignSpace:
    """The factory that the workers find."""
    return Misbehaving(make_space(task, target))


def _with_call(function: Any, fault: Fault) -> Any:
    """The function, which calls the misdeed with the address of its last argument when its own work is done."""
    import tvm_ffi
    from tvm import tirx
    from tvm.s_tir.stmt import SBlock, SBlockRealize

    name = f"bench.misdeed.{fault.name}"
    tvm_ffi.register_global_func(name, _MISDEEDS[fault], override=True)
    output = function.params[-1]
    call = tirx.Evaluate(tirx.call_packed(name, tirx.address_of(output[(0,) * len(output.shape)])))
    root = function.body.block
    block = SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        tirx.SeqStmt([root.body, call]),
        root.init,
        root.alloc_buffers,
        root.match_buffers,
        root.annotations,
    )
    return function.with_body(SBlockRealize(function.body.iter_values, function.body.predicate, block))


def _segfault(_: Any) -> None:
    ctypes.string_at(0)


def _illegal(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGILL)


def _abort(_: Any) -> None:
    os.abort()


def _killed(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal need not have arrived when the call returns


def _memory(_: Any) -> None:
    kept = []
    while True:
        kept.append(b"\1" * _CHUNK)


def _endless(_: Any) -> None:
    while True:
        pass


def _slow(_: Any) -> None:
    end = time.perf_counter() + _SLOW_SECONDS
    while time.perf_counter() < end:
        pass


def _nan(output: Any) -> None:
    ctypes.c_float.from_address(output.value).value = float("nan")


def _wrong(output: Any) -> None:
    ctypes.c_float.from_address(output.value).value += 1e6


_MISDEEDS = {
    Fault.SEGFAULT: _segfault,
    Fault.ILLEGAL: _illegal,
    Fault.ABORT: _abort,
    Fault.KILLED: _killed,
    Fault.MEMORY: _memory,
    Fault.ENDLESS: _endless,
    Fault.SLOW: _slow,
    Fault.NAN: _nan,
    Fault.WRONG: _wrong,
}
