"""The memory of an executable: its weights, and an arena in which one of its plans runs at a time."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Sequence
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from tilewright.executable.buffers import ALIGNMENT
from tilewright.tensor import Array

__all__ = ["Arena", "Memory", "allocate_aligned", "layout_weights"]

#: Arenas whose locks are replaced in the child of a fork. The thread that held a lock exists in the parent only.
_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


def _renew_locks() -> None:
    for arena in _arenas:
        arena.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Arena:
    """Memory in which plans compute, one at a time. Several executables may share it.

    It moves when it grows. A plan looks for it when the plan runs.

    Attributes:
        memory: the bytes.
        address: of the first one.
        lock: held while a plan runs, since two runs would compute in the same arena.
    """

    def __init__(self) -> None:
        self.memory = allocate_aligned(0)
        self.address = self.memory.ctypes.data
        self.lock = threading.Lock()
        _arenas.add(self)

    def reserve(self, size: int) -> None:
        """Have at least ``size`` bytes. What the arena held is lost."""
        with self.lock:
            if size > len(self.memory):
                self.memory = _align(np.zeros(size + ALIGNMENT, dtype=np.uint8))  # the former memory is given back now
                self.address = self.memory.ctypes.data
                self.memory[:] = 0


class Memory:
    """Memory that the plans of one executable share.

    Args:
        weights: the weights, which are copied unless ``content`` has them.
        arena_bytes: the size of the largest plan's arena.
        arena: shared with other executables; None: it is this executable's own.
        instances: how many calls may run side by side, each in an arena of its own.
        content: of the file of the weights. If all of them lie in it, each on a cache line, they stay there.

    Attributes:
        arena: in which the plans compute.
        address: of the memory of the weights.
        starts: where each weight begins, in bytes, and the size of all.
    """

    def __init__(
        self,
        weights: Sequence[Array],
        arena_bytes: int,
        arena: Arena | None = None,
        instances: int = 1,
        content: mmap | None = None,
    ) -> None:
        starts = None if content is None else _find_starts(weights, content)
        if content is not None and starts is not None:
            self.starts, self._weights = starts, np.frombuffer(content, dtype=np.uint8)
        else:
            self.starts = layout_weights(weights)
            self._weights = _align(np.empty(self.starts[-1] + ALIGNMENT, dtype=np.uint8))  # all of it is written next
            for start, weight in zip(self.starts, weights, strict=False):
                self._weights[start : start + weight.nbytes] = np.ascontiguousarray(weight).reshape(-1).view(np.uint8)
        self.address = self._weights.ctypes.data
        self.arena = arena or Arena()
        self._arenas = [self.arena, *(Arena() for _ in range(instances - 1))]
        for each in self._arenas:
            each.reserve(arena_bytes)
        self._turn = itertools.count()

    @property
    def lock(self) -> threading.Lock:
        """Held while a plan runs."""
        return self.arena.lock

    def borrow(self) -> tuple[Arena, threading.Lock]:
        """An arena that no other call computes in, with its lock, which the caller holds then.

        If all are in use, the next one in turn is waited for.
        """
        for arena in self._arenas:
            lock = arena.lock
            if lock.acquire(blocking=False):
                return arena, lock
        arena = self._arenas[next(self._turn) % len(self._arenas)]
        lock = arena.lock
        lock.acquire()
        return arena, lock

    def weight_address(self, number: int) -> int:
        """The address of the weight ``number``."""
        return self.address + self.starts[number]


def _find_starts(weights: Sequence[Array], content: mmap) -> list[int] | None:
    """Where each weight begins in ``content``, and the size of that; None if one lies elsewhere or in another form."""
    base = np.frombuffer(content, dtype=np.uint8).ctypes.data
    starts = [weight.ctypes.data - base if weight.size else 0 for weight in weights]
    ends = [start + weight.nbytes for start, weight in zip(starts, weights, strict=True)]
    inside = all(start >= 0 and end <= len(content) for start, end in zip(starts, ends, strict=True))
    ordered = all(weight.flags.c_contiguous for weight in weights)
    aligned = not any(start % ALIGNMENT for start in starts)  # the content itself begins on a page
    return [*starts, len(content)] if inside and ordered and aligned else None


def layout_weights(weights: Sequence[Array]) -> list[int]:
    """Where each weight begins in one piece of memory, in bytes, and the size of the whole."""
    starts = [0]
    for weight in weights:
        starts.append(starts[-1] + -(-weight.nbytes // ALIGNMENT) * ALIGNMENT)
    return starts


def allocate_aligned(size: int) -> NDArray[np.uint8]:
    """``size`` bytes that begin on a cache line. They are written once, so that the first run has no page faults."""
    memory = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    memory[:] = 0
    return _align(memory)


def _align(memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of some bytes that begins on a cache line, and is ``ALIGNMENT`` bytes shorter."""
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + memory.size - ALIGNMENT]
