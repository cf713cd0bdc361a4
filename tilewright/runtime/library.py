"""Compiling the runtime, and putting it in the place of TVM's own."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tilewright.errors import CompilerError

__all__ = ["bind", "compile_runtime", "find_compiler", "link", "use_for_kernels"]

SOURCE = Path(__file__).with_name("runtime.c")
#: All that the runtime is compiled from.
_SOURCES = (SOURCE, *(SOURCE.with_name(name) for name in ("cpu.h", "pool.h", "scratch.h")))
_FLAGS = ("-x", "c", "-std=c11", "-O2", "-fPIC", "-pthread")


def find_compiler() -> str:
    """The C compiler: ``$CC``, or the first of the usual ones on ``PATH``.

    Raises:
        CompilerError: there is none.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise CompilerError(
        "writing an executable needs a C compiler, but there is no cc, gcc or clang on PATH; "
        "install one, for example with: apt-get install gcc"
    )


def compile_runtime(out: Path, *, shared: bool = False) -> None:
    """Compile the runtime into the object file ``out``, or into a shared library.

    Raises:
        CompilerError: there is no compiler, or it fails.
    """
    mode = "-shared" if shared else "-c"
    _compile([find_compiler(), *_FLAGS, mode, str(SOURCE), "-o", str(out)], "the runtime cannot be compiled")


def link(objects: Sequence[Path], out: Path) -> None:
    """Link kernels and runtime into the shared library ``out``, in which each finds the other before anything else.

    Raises:
        CompilerError: there is no compiler, or it fails.
    """
    flags = ("-shared", "-fPIC", "-pthread", "-Wl,-Bsymbolic")
    _compile([find_compiler(), *flags, *map(str, objects), "-o", str(out)], "the kernels cannot be linked")


def _compile(command: list[str], failure: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as exc:
        said = getattr(exc, "stderr", "") or str(exc)
        raise CompilerError(f"{failure} with `{' '.join(command)}`: {said[:300]}") from exc


def bind(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the types of the functions of a library that the runtime is linked into."""
    library.tilewright_threads.argtypes = [ctypes.c_int]
    library.tilewright_threads.restype = ctypes.c_int
    library.tilewright_last_error.argtypes = []
    library.tilewright_last_error.restype = ctypes.c_char_p
    library.tilewright_run.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.tilewright_run.restype = ctypes.c_int
    timings = [library.tilewright_time]
    if hasattr(library, "tilewright_profile"):  # executables of earlier versions do not have it
        timings.append(library.tilewright_profile)
    for timing in timings:
        timing.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_double)]
        timing.restype = ctypes.c_int
    library.tilewright_initialize.argtypes = []
    library.tilewright_initialize.restype = None
    if hasattr(library, "tilewright_share"):  # since executables of a process share their threads
        library.tilewright_share.argtypes = []
        library.tilewright_share.restype = ctypes.c_void_p
        library.tilewright_adopt.argtypes = [ctypes.c_void_p]
        library.tilewright_adopt.restype = ctypes.c_int
        library.tilewright_enter.argtypes = [ctypes.c_int, ctypes.c_int]
        library.tilewright_enter.restype = ctypes.c_int
        library.tilewright_leave.argtypes = []
        library.tilewright_leave.restype = None
        library.tilewright_cpu_has.argtypes = [ctypes.c_char_p]
        library.tilewright_cpu_has.restype = ctypes.c_int
    return library


@lru_cache(maxsize=1)
def _shared() -> ctypes.CDLL:
    """The runtime as a library of its own, compiled once for all processes of this user."""
    # The directory may be shared by machines of several kinds.
    about = (find_compiler(), *_FLAGS, sys.platform, platform.machine())
    source = b"".join(path.read_bytes() for path in _SOURCES)
    key = hashlib.sha256(source + " ".join(about).encode()).hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(base).expanduser() / "tilewright" / f"runtime-{key}.so"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Under another name first: a process beside this one must not load half a file.
            handle, part = tempfile.mkstemp(suffix=".so", dir=path.parent)
            os.close(handle)
        except OSError:  # no home that can be written
            with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
                compile_runtime(Path(folder, path.name), shared=True)
                return bind(ctypes.CDLL(str(Path(folder, path.name))))
        try:
            compile_runtime(Path(part), shared=True)
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    try:
        return bind(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as exc:
        raise CompilerError(f"{path} is not the library that was compiled: {exc}; remove it") from exc


def use_for_kernels(threads: int) -> None:
    """Let every kernel that TVM loads into this process from now on run on ``threads`` threads of this runtime.

    Raises:
        CompilerError: the runtime cannot be compiled.
    """
    import tvm_ffi

    library = _shared()
    library.tilewright_threads(threads)
    ffi = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi())
    launch = ctypes.cast(library.tilewright_launch, ctypes.c_void_p)
    if ffi.TVMFFIEnvModRegisterContextSymbol(b"__TVMBackendParallelLaunch", launch):
        raise CompilerError("this version of TVM does not let its threads be replaced; install the pinned one")
