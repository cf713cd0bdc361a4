"""Loads the libraries of executables. They share the threads of one of them, and are unloaded after their use."""

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

    The first library of a process becomes the *host*. Its threads and scratch memory serve all libraries that are
    loaded while it is there.

    - When this object is deleted, its library is unloaded. The host is unloaded with the last library that uses it.
    - Threads end when no library has loops of their number any more.
    - A library of an earlier version of Tilewright has threads of its own, which nothing ends. It is never unloaded.

    Args:
        path: the file, which may be removed or replaced once it is loaded. Each executable needs a file of its own,
            since the system loads a file only once.

    Attributes:
        functions: the functions of the library. None may be called after this object is deleted.

    Raises:
        OSError, AttributeError: the file is no such library.
    """

    def __init__(self, path: Path) -> None:
        mapping = _Mapping(path)
        self.functions = mapping.functions
        self.functions.tilewright_initialize()
        self._end = weakref.finalize(self, _leave, mapping)
        self._end.atexit = False  # threads of the process may still call the library then

    def set_threads(self, threads: int) -> int:
        """Let the library's loops have ``threads`` threads with the caller's. Returns how many they have."""
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
            _unload(handle, None)  # none of its functions was called
            raise
        if shares:
            host = _join_host(self)
            weakref.finalize(self, _unload, handle, host).atexit = False


#: The libraries whose threads others may use. There are several only if their versions differ.
_hosts: list[weakref.ref[_Mapping]] = []
_changing = threading.Lock()


def _renew_lock() -> None:
    """Make a new lock in the child of a fork, which lacks the thread that held the old one."""
    global _changing
    _changing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _join_host(guest: _Mapping) -> _Mapping | None:
    """Let a library use the threads of a host, which is returned; or make the library a host, and return None."""
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
    """Unload a library. The host stays loaded as long as something holds the arguments of this call."""
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(handle)
