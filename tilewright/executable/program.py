"""Runs a network as a plan of kernel calls on memory of its own."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from tilewright.errors import MeasureError, OutputError
from tilewright.executable.calls import PreparedCalls
from tilewright.executable.instances import Instances, can_open
from tilewright.executable.memory import Memory
from tilewright.executable.plan import Plan
from tilewright.executable.routes import Routes
from tilewright.executable.runtime.features import check_features
from tilewright.executable.runtime.loaded import LoadedLibrary
from tilewright.executable.segment import LoadedSegment
from tilewright.tensor import Array

__all__ = ["KernelTime", "PlanProgram", "Program", "Step", "Variants"]

#: Names of functions that compute the same as a kernel, by the name of the kernel.
Variants: TypeAlias = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class KernelTime:
    """The time that one call of a kernel takes.

    Attributes:
        kernel: the kernel's name; empty: a copy.
        seconds: the seconds of the call in each run.
    """

    kernel: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """A call that was run by itself.

    Attributes:
        kernel: the kernel's name; empty: a copy.
        before: the call's tensors before it ran: its inputs, then its outputs.
        after: the same tensors after it ran.
    """

    kernel: str
    before: list[Array]
    after: list[Array]


class Program(Protocol):
    """A network that can be run."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``."""
        ...

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls, without copying inputs and outputs."""
        ...

    def overhead(self, runs: int) -> list[float] | None:
        """The seconds of each of ``runs`` calls in which no kernel runs; None if kernels cannot be left out."""
        ...

    def profile(self, arrays: Sequence[Array], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """The time that each kernel takes in its place in the network; None if kernels cannot be told apart."""
        ...

    def contest(
        self, arrays: Sequence[Array], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """The times that variants of kernels take in their places; empty if kernels cannot be told apart."""
        ...


class PlanProgram:
    """A network as a plan. Needs neither TVM nor a compiler, and allocates nothing while it runs.

    The programs of a process share their threads, and the last program ends them (:class:`LoadedLibrary`). In the child
    of a fork a program has threads of the child, even if another thread of the parent was calling it.

    Args:
        library: the file with the kernels, with the runtime linked in; or such a library that is loaded already, and
            has its threads.
        weights: the plan's weights; or memory that it shares with other plans, whose arena is large enough.
        plan: what to run.
        threads: how many threads the kernels use.
        features: extensions of the processor that the kernels need, by LLVM's names.
        segments: the parts that ONNX Runtime runs.
        routes: of inputs and outputs; None: all are the plan's.

    Raises:
        OSError, AttributeError: the library is not the plan's.
        TargetError: the processor lacks an extension.
    """

    def __init__(
        self,
        library: Path | LoadedLibrary,
        weights: Sequence[Array] | Memory,
        plan: Plan,
        threads: int,
        features: Sequence[str] = (),
        segments: Sequence[LoadedSegment] = (),
        routes: Routes | None = None,
    ) -> None:
        self._loaded = library if isinstance(library, LoadedLibrary) else LoadedLibrary(library)
        self._library = self._loaded.functions
        check_features(features, self._library)
        if not isinstance(library, LoadedLibrary):
            self._loaded.set_threads(threads)
        self._memory = weights if isinstance(weights, Memory) else Memory(weights, plan.used_bytes)
        self._plan = plan
        self._segments, self._routes = segments, routes
        self._calls = PreparedCalls(self._library, plan, self._memory, segments)
        # Plans with segments, and libraries of earlier versions, run in the arena of the memory alone.
        simple = routes is None and can_open(self._library, plan)
        self._instances = Instances(self._loaded, plan, self._memory) if simple else None

    @property
    def runs_side_by_side(self) -> bool:
        """Whether several calls may run at the same time, each in an arena of its own."""
        return self._instances is not None

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for ``arrays``."""
        if self._instances is not None:
            arena, lock = self._memory.borrow()
            try:
                return self._instances.run(arrays, arena)
            finally:
                lock.release()
        with self._memory.lock:
            self._fill(arrays)
            self._check(self._library.tilewright_run(self._calls.begin, self._calls.count))
            outputs = [output.copy() for output in self._calls.outputs]
            return outputs if self._routes is None else self._routes.collect(outputs, arrays, self._segments)

    def run_in_place(self, addresses: Sequence[int]) -> None:
        """Compute on the caller's memory. The plan must have been made for that.

        Args:
            addresses: of the inputs, then of the outputs, which have the plan's shapes, lie in order, and begin at
                multiples of the plan's ``vector``. No output overlaps another tensor.

        Raises:
            MeasureError: a kernel failed.
        """
        with self._memory.lock:
            self._calls.give(addresses)
            self._check(self._library.tilewright_run(self._calls.begin, self._calls.count))

    def choose_kernels(self, names: Mapping[str, str]) -> None:
        """Let functions of the library take the places of kernels from the next run on.

        Args:
            names: the functions' names by the names of the plan's kernels. Other kernels keep their places.

        Raises:
            AttributeError: the library has no such function.
        """
        with self._memory.lock:
            self._instances = None  # they would call the plan's kernels
            for number, call in enumerate(self._plan.calls):
                if call.kernel in names:
                    self._calls.exchange_kernel([number], self._calls.find_kernel(names[call.kernel]))

    def profile_in_place(self, addresses: Sequence[int]) -> list[float]:
        """Compute on the caller's memory, as :meth:`run_in_place` does. Returns the seconds of each call.

        Raises:
            MeasureError: a kernel failed.
        """
        seconds = (ctypes.c_double * self._calls.count)()
        with self._memory.lock:
            self._calls.give(addresses)
            self._check(self._library.tilewright_profile(self._calls.begin, self._calls.count, 1, seconds))
        return list(seconds)

    @property
    def alignment(self) -> int:
        """Bytes that the addresses of the caller's tensors are multiples of."""
        return self._plan.vector

    def time(self, arrays: Sequence[Array], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls, without copying inputs and outputs."""
        with self._memory.lock:
            self._fill(arrays)
            return self._time(self._calls.begin, runs)

    def overhead(self, runs: int) -> list[float] | None:
        """The seconds of each of ``runs`` calls in which no kernel runs."""
        with self._memory.lock:
            return self._time(self._calls.hollow, runs)

    def profile(self, arrays: Sequence[Array], runs: int, repeats: int = 1) -> list[KernelTime]:
        """The time that each kernel takes in its place in the network.

        Args:
            arrays: the inputs.
            runs: how often the network runs.
            repeats: how often each kernel is called in a row; the mean of these calls counts. With many of them a
                kernel finds its data in the caches, as it does where it is timed alone.
        """
        with self._memory.lock:
            found = [self._profile(arrays, repeats) for _ in range(runs)]
        return [KernelTime(c.kernel, tuple(t)) for c, t in zip(self._plan.calls, zip(*found, strict=True), strict=True)]

    def contest(
        self, arrays: Sequence[Array], variants: Variants, seconds: float, least: int, most: int
    ) -> dict[str, list[list[float]]]:
        """The times that variants of kernels take in their places in the network.

        The network runs again and again. In each run every kernel is one of its variants, drawn independently of the
        other kernels' variants. So the effect of a variant on the caches meets all variants of the next kernel alike.
        In one round each kernel is each of its variants; if another kernel has more variants, some take several turns.

        Args:
            arrays: the inputs.
            variants: by the name of a kernel of the plan, names of functions in the library that may take its place.
            seconds: the time after which no round is begun.
            least: the least number of rounds, whatever the time.
            most: the largest number of rounds.

        Returns:
            by kernel and variant, the seconds of each run: the sum over all calls of the kernel.

        Raises:
            KeyError: the plan has no such kernel.
            AttributeError: the library has no such function.
        """
        places = {kernel: [i for i, c in enumerate(self._plan.calls) if c.kernel == kernel] for kernel in variants}
        if not all(places.values()):
            raise KeyError(f"the plan does not call {next(k for k, found in places.items() if not found)}")
        addresses = {kernel: [self._calls.find_kernel(name) for name in names] for kernel, names in variants.items()}
        found: dict[str, list[list[float]]] = {kernel: [[] for _ in names] for kernel, names in variants.items()}
        rng = np.random.default_rng(0)
        turns = max(map(len, variants.values()), default=0)
        with self._memory.lock:
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
                            self._calls.exchange_kernel(places[kernel], addresses[kernel][variant])
                        taken = self._profile(arrays)
                        for kernel, variant in drawn.items():
                            found[kernel][variant].append(sum(taken[place] for place in places[kernel]))
            finally:
                for kernel, where in places.items():
                    self._calls.exchange_kernel(where, self._calls.find_kernel(kernel))
        return found

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels of the plan's calls, in order; empty for a copy."""
        return tuple(call.kernel for call in self._plan.calls)

    @property
    def touched_bytes(self) -> tuple[int, ...]:
        """The bytes of the tensors that each call reads or writes, in the order of the calls; each tensor once."""
        tensors = self._plan.tensors
        return tuple(sum(tensors[number].bytes for number in set(call.tensors)) for call in self._plan.calls)

    def step(self, arrays: Sequence[Array]) -> Iterator[Step]:
        """Run the network on ``arrays`` call by call. No other thread can run it until the last call is over."""
        with self._memory.lock:
            self._fill(arrays)
            for number, call in enumerate(self._plan.calls):
                before = [self._calls.copy_tensor(tensor) for tensor in call.tensors]
                if self._library.tilewright_run(self._calls.address(number), 1) >= 0:
                    self._check(number)
                yield Step(call.kernel, before, [self._calls.copy_tensor(tensor) for tensor in call.tensors])

    def _time(self, calls: int, runs: int) -> list[float]:
        """The seconds of each of ``runs`` runs of the calls at the address ``calls``."""
        seconds = (ctypes.c_double * runs)()
        self._check(self._library.tilewright_time(calls, self._calls.count, runs, seconds))
        return list(seconds)

    def _profile(self, arrays: Sequence[Array], repeats: int = 1) -> list[float]:
        """The seconds of each call.

        Raises:
            OutputError: the library's runtime is of a version that cannot time calls.
        """
        if not hasattr(self._library, "tilewright_profile"):
            raise OutputError(
                "the kernels of an executable can be timed if this version of Tilewright built it, but an earlier one "
                "built this; tune again"
            )
        seconds = (ctypes.c_double * self._calls.count)()
        self._fill(arrays)
        self._check(self._library.tilewright_profile(self._calls.begin, self._calls.count, repeats, seconds))
        return list(seconds)

    def _fill(self, arrays: Sequence[Array]) -> None:
        if self._routes is not None:
            self._routes.give(arrays, self._segments)
            arrays = self._routes.select_inputs(arrays)
        self._calls.take_back()
        for slot, array in zip(self._calls.inputs, arrays, strict=True):
            np.copyto(slot, array)

    def _check(self, failed: int) -> None:
        """Raise ``MeasureError`` if the runtime says that the call ``failed`` failed; -1: none did."""
        if failed >= 0:
            for segment in self._segments:
                if error := segment.take_error():
                    raise error
            said = self._library.tilewright_last_error().decode(errors="replace")
            raise MeasureError(f"kernel {self._plan.calls[failed].kernel!r} failed: {said or 'it does not say why'}")
