"""Libraries of executables in this process: they share the threads of one of them, and are unloaded after their use."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path

from tilewright.executable.runtime.library import bind
from tilewright.tvm_compat import usable_cores

__all__ = ["LoadedLibrary"]


class LoadedLibrary:
    """A library of kernels with the runtime linked in, for one executable.

    The first one of a process becomes the *host*: its threads and scratch memory serve all that are loaded while it is
    there. When this object goes, its library is unloaded, the host with the last one that uses it; and threads end when
    no library has loops of their number any more. A library that an earlier version of Tilewright wrote has threads of
    its own, which nothing ends, so it stays.

    Args:
        path: the file, which may be removed or replaced once it is loaded. Each executable needs a file of its own: the
            system takes a file that it has loaded already for the same library.

    Attributes:
        functions: what is in it. Nothing of it may be called after this object is gone.

    Raises:
        OSError, AttributeError: it is no such library.
    """

    def __init__(self, path: Path) -> None:
        mapping = _Mapping(path)
        self.functions = mapping.functions
        self.functions.tilewright_initialize()
        self._end = weakref.finalize(self, _leave, mapping)
        self._end.atexit = False  # threads of the process may still be calling then

    def set_threads(self, threads: int) -> int:
        """Let the library's loops have so many threads, the caller's included; returns how many there are."""
        if hasattr(self.functions, "tilewright_enter"):
            return int(self.functions.tilewright_enter(threads, usable_cores()))
        return int(self.functions.tilewright_threads(threads))


class _Mapping:
    """A library in the memory of this process."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        handle, shares = library._handle, hasattr(library, "tilewright_leave")
        try:
            self.functions = bind(library)
        except AttributeError:
            _unload(handle, None)  # no function of it was called
            raise
        if shares:
            host = _join_host(self)
            weakref.finalize(self, _unload, handle, host).atexit = False


#: The libraries whose threads others may use; more than one only where their versions differ.
_hosts: list[weakref.ref[_Mapping]] = []
_changing = threading.Lock()


def _renew_lock() -> None:
    """In the child of a fork: whoever held the lock is not there."""
    global _changing
    _changing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _join_host(guest: _Mapping) -> _Mapping | None:
    """Let a library use the threads of another one and return that, or make it a host."""
    with _changing:
        alive = [(reference, host) for reference in _hosts if (host := reference()) is not None]
        _hosts[:] = [reference for reference, _ in alive]
        for _, host in alive:
            if not guest.functions.tilewright_adopt(host.functions.tilewright_share()):
                return host
        _hosts.append(weakref.ref(guest))
        return None


def _leave(mapping: _Mapping) -> None:
    if hasattr(mapping.functions, "tilewright_leave"):
        mapping.functions.tilewright_leave()


def _unload(handle: int, host: _Mapping | None) -> None:
    """Unload a library. Whoever holds this call's arguments keeps ``host`` loaded for as long."""
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(handle)
