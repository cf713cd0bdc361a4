"""Running a compiled network: as a plan on memory of its own, or on the virtual machine of Relax."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError, TargetError
from tilewright.executable.plan import ALIGNMENT, ARENA, Plan
from tilewright.executable.runtime.features import missing_features
from tilewright.executable.runtime.loaded import LoadedLibrary
from tilewright.target import model_name
from tilewright.tvm_compat import set_threads

__all__ = ["KernelTime", "MachineProgram", "PlanProgram", "Program", "Variants", "check_features"]

#: By the name of a kernel, names of functions that compute the same.
Variants: TypeAlias = Mapping[str, Sequence[str]]

#: What TVM's compiler puts before the name of a function it exports.
_PREFIX = "__tvm_ffi_"
#: Type codes of tvm-ffi and DLPack that a kernel's arguments need.
_DLTENSOR = 7
_DL_CPU = 1
_DL_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


@dataclass(frozen=True)
class KernelTime:
    """What one call of a kernel takes.

    Attributes:
        kernel: its name; empty: a copy.
        seconds: of each run.
    """

    kernel: str
    seconds: tuple[float, ...]


class Program(Protocol):
    """A network that can be run."""

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for ``arrays``."""
        ...

    def time(self, arrays: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` calls, without copying inputs and outputs."""
        ...

    def overhead(self, runs: int) -> list[float] | None:
        """Seconds of each of ``runs`` calls in which no kernel runs; None where that cannot be done."""
        ...

    def profile(self, arrays: Sequence[NDArray[Any]], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """What each kernel takes in its place in the network; None where that cannot be told."""
        ...

    def contest(
        self, arrays: Sequence[NDArray[Any]], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """What variants of kernels take in their places in the network; nothing where that cannot be told."""
        ...


class MachineProgram:
    """A network on the virtual machine of Relax: whatever TVM can compile.

    Args:
        library: the library that TVM built.
        weights: the parameters after the inputs.
    """

    def __init__(self, library: Path, weights: Sequence[NDArray[Any]]) -> None:
        set_threads()
        import tvm
        from tvm import relax

        self._device = tvm.cpu()
        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), self._device)
        self._main = self._machine["main"]
        self._tensor = tvm.runtime.tensor
        self._weights = [self._tensor(w, self._device) for w in weights]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for ``arrays``."""
        result = self._main(*self._tensors(arrays), *self._weights)
        return [np.asarray(t.numpy()) for t in ([result] if hasattr(result, "numpy") else result)]

    def time(self, arrays: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` calls, without copying inputs and outputs."""
        arguments = [*self._tensors(arrays), *self._weights]
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            self._main(*arguments)
            seconds.append(time.perf_counter() - start)
        return seconds

    def overhead(self, runs: int) -> list[float] | None:
        """None: the machine cannot leave out the kernels."""
        return None

    def profile(self, arrays: Sequence[NDArray[Any]], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """None: the machine does not tell its kernels apart."""
        return None

    def contest(
        self, arrays: Sequence[NDArray[Any]], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """Nothing: the machine does not tell its kernels apart."""
        return {}

    def _tensors(self, arrays: Sequence[NDArray[Any]]) -> list[Any]:
        return [self._tensor(np.asarray(a, order="C"), self._device) for a in arrays]  # keeps scalars


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Argument(ctypes.Structure):
    _fields_ = (("type_index", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_void_p))


class _Call(ctypes.Structure):
    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p), ("count", ctypes.c_int32))


#: Programs whose locks are made anew in the child of a fork: whoever held one in the parent is not there to release it.
_programs: weakref.WeakSet[PlanProgram] = weakref.WeakSet()


def _renew_locks() -> None:
    for program in _programs:
        program._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class PlanProgram:
    """A network as a plan. Needs neither TVM nor a compiler, and allocates nothing while it runs.

    Programs of one process share their threads, and the last one that goes leaves none (:class:`LoadedLibrary`). In the
    child of a fork a program has threads of the child, also where another thread of the parent was calling it.

    Args:
        library: the kernels, with the runtime linked in.
        weights: the plan's weights.
        plan: what to run.
        threads: how many threads.
        features: extensions of the processor that the kernels need, by LLVM's names.

    Raises:
        OSError, AttributeError: the library is not the plan's.
        TargetError: the processor lacks an extension.
    """

    def __init__(
        self, library: Path, weights: Sequence[NDArray[Any]], plan: Plan, threads: int, features: Sequence[str] = ()
    ) -> None:
        self._loaded = LoadedLibrary(library)
        self._library = self._loaded.functions
        check_features(features, self._library)
        self._loaded.set_threads(threads)
        self._lock = threading.Lock()  # two threads would compute in the same memory
        _programs.add(self)
        self._plan = plan
        starts = np.cumsum([0, *(_round_up(w.nbytes) for w in weights)])
        self._weights = _aligned(int(starts[-1]))
        for start, weight in zip(starts, weights, strict=False):
            self._weights[start : start + weight.nbytes] = np.ascontiguousarray(weight).reshape(-1).view(np.uint8)
        self._arena = _aligned(plan.used_bytes)
        self._keep: list[Any] = []  # what the calls point at
        addresses = [
            self._arena.ctypes.data + t.place if t.region == ARENA else self._weights.ctypes.data + int(starts[t.place])
            for t in plan.tensors
        ]
        tensors = (_DLTensor * len(plan.tensors))()
        for slot, tensor, address in zip(tensors, plan.tensors, addresses, strict=True):
            dtype = np.dtype(tensor.dtype)
            shape = (ctypes.c_int64 * max(1, len(tensor.shape)))(*tensor.shape)
            slot.data, slot.device_type, slot.ndim = address, _DL_CPU, len(tensor.shape)
            slot.code, slot.bits, slot.lanes = _DL_CODES[dtype.kind], 8 * dtype.itemsize, 1
            slot.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
            # tvm-ffi wants strides also where they say nothing.
            strides = (ctypes.c_int64 * max(1, len(tensor.shape)))(*_strides(tensor.shape))
            slot.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
            self._keep += [shape, strides]
        self._keep.append(tensors)
        self._addresses = addresses
        self._calls = (_Call * len(plan.calls))()
        self._hollow = (_Call * len(plan.calls))()
        nothing = ctypes.cast(self._library.tilewright_nothing, ctypes.c_void_p).value
        for call, hollow, planned in zip(self._calls, self._hollow, plan.calls, strict=True):
            if planned.kernel:
                call.kernel = self._address(planned.kernel)
                values = [(_DLTENSOR, ctypes.addressof(tensors[i])) for i in planned.tensors]
            else:
                to, source = planned.tensors
                values = [(0, addresses[to]), (0, addresses[source]), (0, plan.tensors[source].bytes)]
            arguments = (_Argument * len(values))(*(_Argument(t, 0, v) for t, v in values))
            call.arguments, call.count = ctypes.addressof(arguments), len(values)
            hollow.kernel, hollow.arguments, hollow.count = nothing, call.arguments, call.count
            self._keep.append(arguments)
        self._inputs = [self._view(i) for i in plan.inputs]
        self._outputs = [self._view(i) for i in plan.outputs]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for ``arrays``."""
        with self._lock:
            self._fill(arrays)
            self._check(self._library.tilewright_run(ctypes.addressof(self._calls), len(self._calls)))
            return [output.copy() for output in self._outputs]

    def time(self, arrays: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` calls, without copying inputs and outputs."""
        seconds = (ctypes.c_double * runs)()
        with self._lock:
            self._fill(arrays)
            self._check(self._library.tilewright_time(ctypes.addressof(self._calls), len(self._calls), runs, seconds))
        return list(seconds)

    def overhead(self, runs: int) -> list[float] | None:
        """Seconds of each of ``runs`` calls in which no kernel runs."""
        seconds = (ctypes.c_double * runs)()
        with self._lock:
            self._check(self._library.tilewright_time(ctypes.addressof(self._hollow), len(self._hollow), runs, seconds))
        return list(seconds)

    def profile(self, arrays: Sequence[NDArray[Any]], runs: int, repeats: int = 1) -> list[KernelTime]:
        """What each kernel takes in its place in the network.

        Args:
            arrays: the inputs.
            runs: of the network.
            repeats: calls of each kernel in a row, of which the mean counts: with many of them it finds its data in the
                caches, as where it is timed alone.
        """
        with self._lock:
            found = [self._profile(arrays, repeats) for _ in range(runs)]
        return [KernelTime(c.kernel, tuple(t)) for c, t in zip(self._plan.calls, zip(*found, strict=True), strict=True)]

    def contest(
        self, arrays: Sequence[NDArray[Any]], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """What variants of kernels take in their places in the network.

        The network runs again and again, and each time every kernel is one of its variants, drawn independently of the
        other kernels', so what one does to the caches meets all variants of the next. In one round each kernel is each
        of its variants, and some more than once if another kernel has more.

        Args:
            arrays: the inputs.
            variants: by the name of a kernel of the plan, names of functions in the library that may take its place.
            seconds: after which no round is begun.
            least: rounds that there are in any case.
            most: rounds.

        Returns:
            by kernel and variant, the seconds of each run: the sum over all calls of the kernel.

        Raises:
            KeyError: the plan has no such kernel.
            AttributeError: the library has no such function.
        """
        places = {kernel: [i for i, c in enumerate(self._plan.calls) if c.kernel == kernel] for kernel in variants}
        if not all(places.values()):
            raise KeyError(f"the plan does not call {next(k for k, found in places.items() if not found)}")
        addresses = {kernel: [self._address(name) for name in names] for kernel, names in variants.items()}
        found: dict[str, list[list[float]]] = {kernel: [[] for _ in names] for kernel, names in variants.items()}
        rng = np.random.default_rng(0)
        turns = max(map(len, variants.values()), default=0)
        with self._lock:
            try:
                self._profile(arrays)  # the first run meets cold caches and sleeping threads
                end = time.monotonic() + seconds
                for number in range(most):
                    if number >= least and time.monotonic() >= end:
                        break
                    orders = {kernel: rng.permutation(len(names)) for kernel, names in variants.items()}
                    for turn in range(turns):
                        drawn = {kernel: int(order[turn % len(order)]) for kernel, order in orders.items()}
                        for kernel, variant in drawn.items():
                            self._use(places[kernel], addresses[kernel][variant])
                        taken = self._profile(arrays)
                        for kernel, variant in drawn.items():
                            found[kernel][variant].append(sum(taken[place] for place in places[kernel]))
            finally:
                for kernel, where in places.items():
                    self._use(where, self._address(kernel))
        return found

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels of the plan's calls, in order; empty for a copy."""
        return tuple(call.kernel for call in self._plan.calls)

    def step(self, arrays: Sequence[NDArray[Any]]) -> Iterator[tuple[str, list[NDArray[Any]], list[NDArray[Any]]]]:
        """Run call by call: of each its kernel (empty: a copy), and its tensors before and after it.

        Nobody else may run the program until the last call is over.
        """
        with self._lock:
            self._fill(arrays)
            for number, call in enumerate(self._plan.calls):
                before = [self._tensor(tensor).copy() for tensor in call.tensors]
                begin = ctypes.addressof(self._calls) + number * ctypes.sizeof(_Call)
                if self._library.tilewright_run(begin, 1) >= 0:
                    self._check(number)
                yield call.kernel, before, [self._tensor(tensor).copy() for tensor in call.tensors]

    def _tensor(self, number: int) -> NDArray[Any]:
        """A tensor of the plan, as it is now."""
        tensor = self._plan.tensors[number]
        memory = (ctypes.c_uint8 * tensor.bytes).from_address(self._addresses[number])
        return np.asarray(memory).view(np.dtype(tensor.dtype)).reshape(tensor.shape)

    def _profile(self, arrays: Sequence[NDArray[Any]], repeats: int = 1) -> list[float]:
        """Seconds of each call."""
        seconds = (ctypes.c_double * len(self._calls))()
        self._fill(arrays)
        begin = ctypes.addressof(self._calls)
        self._check(self._library.tilewright_profile(begin, len(self._calls), repeats, seconds))
        return list(seconds)

    def _use(self, places: Sequence[int], address: int) -> None:
        """Let some calls be of the function at ``address``."""
        for place in places:
            self._calls[place].kernel = address

    def _address(self, kernel: str) -> int:
        """Of a function of the library. Raises ``AttributeError`` where there is none."""
        address = ctypes.cast(getattr(self._library, _PREFIX + kernel), ctypes.c_void_p).value
        assert address is not None
        return address

    def _fill(self, arrays: Sequence[NDArray[Any]]) -> None:
        for slot, array in zip(self._inputs, arrays, strict=True):
            np.copyto(slot, array)

    def _check(self, failed: int) -> None:
        if failed >= 0:
            said = self._library.tilewright_last_error().decode(errors="replace")
            raise MeasureError(f"kernel {self._plan.calls[failed].kernel!r} failed: {said or 'it does not say why'}")

    def _view(self, number: int) -> NDArray[Any]:
        tensor = self._plan.tensors[number]
        if tensor.region != ARENA:
            raise KeyError("inputs and outputs are in the arena")
        memory = self._arena[tensor.place : tensor.place + tensor.bytes]
        return memory.view(np.dtype(tensor.dtype)).reshape(tensor.shape)


def check_features(needed: Sequence[str], library: ctypes.CDLL | None = None) -> None:
    """Raise ``TargetError`` where the processor lacks what kernels need (:func:`missing_features`)."""
    missing = missing_features(needed, library)
    if missing:
        raise TargetError(
            f"its kernels need a processor with {', '.join(missing)}, but {model_name()} has no such instructions"
        )


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _aligned(size: int) -> NDArray[np.uint8]:
    """``size`` bytes that begin on a cache line, zeroed so that the first run meets no page fault."""
    memory = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    memory[:] = 0
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


def _strides(shape: tuple[int, ...]) -> list[int]:
    steps = [1]
    for extent in reversed(shape[1:]):
        steps.append(steps[-1] * extent)
    return steps[::-1]
