"""The memory of an executable: its weights, and an arena in which one of its plans runs at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.executable.buffers import ALIGNMENT
from tilewright.tensor import Array

__all__ = ["Arena", "Memory", "allocate_aligned"]

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
                self.memory = allocate_aligned(size)
                self.address = self.memory.ctypes.data


class Memory:
    """Memory that the plans of one executable share.

    Args:
        weights: the weights, which are copied.
        arena_bytes: the size of the largest plan's arena.
        arena: shared with other executables; None: it is this executable's own.

    Attributes:
        arena: in which the plans compute.
    """

    def __init__(self, weights: Sequence[Array], arena_bytes: int, arena: Arena | None = None) -> None:
        self._starts = np.cumsum([0, *(_round_up(w.nbytes) for w in weights)])
        self._weights = allocate_aligned(int(self._starts[-1]))
        for start, weight in zip(self._starts, weights, strict=False):
            self._weights[start : start + weight.nbytes] = np.ascontiguousarray(weight).reshape(-1).view(np.uint8)
        self.arena = arena or Arena()
        self.arena.reserve(arena_bytes)

    @property
    def lock(self) -> threading.Lock:
        """Held while a plan runs."""
        return self.arena.lock

    def weight_address(self, number: int) -> int:
        """The address of the weight ``number``."""
        return self._weights.ctypes.data + int(self._starts[number])


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def allocate_aligned(size: int) -> NDArray[np.uint8]:
    """``size`` bytes that begin on a cache line. They are written once, so that the first run has no page faults."""
    memory = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    memory[:] = 0
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]
