"""Memory for the results of parts, which is reused when nothing refers to it any more.

The system hands out large tensors in fresh pages, and takes these back when the tensors die. Each page costs about a
microsecond when it is first written: 0.1 s for the activations that ResNet-18 saves in a step at a batch of 16. So
memory is written when it is allocated, which happens before the first step in our kernels, and in pages of 2 MiB.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable

import torch

from tilewright.frontend.torch.part import Layout

__all__ = ["Storages", "find_storages", "return_free_pages"]

#: Bytes from which memory is used again. Smaller tensors come from the heap, whose pages stay.
_LEAST = 1 << 17
#: How many times as large as a tensor the memory may be that is used for it.
_SLACK = 1.25
#: ``MADV_POPULATE_WRITE``, the advice to provide pages as if they were written (Linux 5.14). Python has no name for it.
_POPULATE_WRITE = 23


class _Kept:
    """Memory that is kept.

    PyTorch has one Python object for it, however many tensors it has. So references to both are counted.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        self.storage = torch.UntypedStorage(size, device="cpu")
        _populate(self.storage.data_ptr(), size)
        self.bytes = size
        self._idle = self._count()

    def is_idle(self) -> bool:
        """Whether nothing else refers to the memory, which is as it was."""
        return self._count() == self._idle and self.storage.nbytes() == self.bytes and not self.storage.is_shared()

    def _count(self) -> tuple[int, int]:
        assert _count is not None
        return _count(self.storage._cdata), sys.getrefcount(self.storage)


class Storages:
    """Memory that PyTorch has allocated, and that this object keeps.

    The kept memory is at most what was in use at one time: before more is allocated, as much of what lies idle is
    given back.

    Attributes:
        keeps: whether memory is kept. As long as a part of a step runs in PyTorch, PyTorch needs the memory of each
            saved activation for other tensors once the backward pass has used it.
    """

    def __init__(self) -> None:
        self.keeps = False
        self._kept: list[_Kept] = []
        self._alike: defaultdict[int, deque[_Kept]] = defaultdict(deque)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """The bytes that are kept, in use or not."""
        return sum(kept.bytes for kept in self._kept)

    def allocate(self, layout: Layout) -> torch.Tensor:
        """A tensor of a layout, whose values are undefined."""
        dtype = getattr(torch, layout.dtype)
        shape, strides = (layout.blocks, None) if layout.block else (layout.shape, layout.strides)
        made = torch.empty(0, dtype=dtype, device="cpu")  # the default may be another device
        size = made.element_size() * math.prod(shape)
        if size < _LEAST or not self.keeps or _count is None:
            return made.resize_(shape) if strides is None else made.new_empty_strided(shape, strides)
        with self._lock:
            storage = (self._take_next(size) or self._find(size) or self._make(size)).storage
            # The result is no view, and has a version of its own, so it is PyTorch's as any new tensor is.
            return made.set_(storage, 0, shape) if strides is None else made.set_(storage, 0, shape, strides)

    def reserve(self, layouts: Iterable[Layout]) -> None:
        """Keep memory for tensors of these layouts, all at the same time, so that :meth:`allocate` is fast.

        Called between two steps, when PyTorch's tensors are gone. Their pages are given back first: while a part runs
        in PyTorch, it would fault each of them in again.
        """
        return_free_pages()
        self.keeps = True
        for _ in [self.allocate(layout) for layout in layouts]:
            pass

    def _take_next(self, size: int) -> _Kept | None:
        """Idle memory of just this size, that which was not used for longest; None if there is none.

        Steps are alike, so the first one is nearly always idle. To ask all of them, for each of hundreds of tensors,
        would take some milliseconds of a step.
        """
        alike = self._alike[size]
        for _ in range(len(alike)):
            kept = alike[0]
            alike.rotate(-1)
            if kept.is_idle():
                return kept
        return None

    def _find(self, size: int) -> _Kept | None:
        """The smallest idle memory for ``size`` bytes; None if there is none."""
        fitting = (kept for kept in self._kept if size <= kept.bytes <= _SLACK * size and kept.is_idle())
        return min(fitting, key=lambda kept: kept.bytes, default=None)

    def _make(self, size: int) -> _Kept:
        """New memory. As much of what lies idle is given back, the largest first."""
        surplus = size
        for idle in sorted((kept for kept in self._kept if kept.is_idle()), key=lambda kept: -kept.bytes):
            if surplus > 0:
                surplus -= idle.bytes
                self._kept.remove(idle)
                self._alike[idle.bytes].remove(idle)
        made = _Kept(size)
        self._kept.append(made)
        self._alike[size].append(made)
        return made


def find_storages() -> Storages:
    """The memory of all parts of this process. It is given back with the last part."""
    found = _shared.get("parts")
    if found is None:
        found = _shared["parts"] = Storages()
    return found


def _populate(address: int, size: int) -> None:
    """Let Linux provide all pages of some memory now, large ones if it can. Other systems provide them later."""
    if _madvise is not None:
        begin = address // mmap.PAGESIZE * mmap.PAGESIZE
        _madvise(begin, address + size - begin, mmap.MADV_HUGEPAGE)
        _madvise(begin, address + size - begin, _POPULATE_WRITE)


def _find_madvise() -> ctypes._NamedFuncPointer | None:
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def return_free_pages() -> None:
    """Let the C library give back the pages of freed tensors, such as those of PyTorch's own run of a part.

    Otherwise it keeps them, since it expects more tensors of the kind. Only glibc has such a function.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


_madvise = _find_madvise()
#: The memory of all parts, as long as there is one of them.
_shared: weakref.WeakValueDictionary[str, Storages] = weakref.WeakValueDictionary()
#: How many tensors and storages refer to memory. A version of PyTorch may lack it.
_count = getattr(torch._C, "_storage_Use_Count", None)
