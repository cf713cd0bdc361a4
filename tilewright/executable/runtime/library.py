"""Compiling the runtime, and putting it in the place of TVM's own."""

from __future__ import annotations

import contextlib
import ctypes
import errno
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

from tilewright.errors import CompilerError, ResourceError
from tilewright.scratch import check_space, explained

__all__ = ["bind", "compile_runtime", "find_compiler", "link", "use_for_kernels"]

SOURCE = Path(__file__).with_name("runtime.c")
#: All that the runtime is compiled from.
_SOURCES = (SOURCE, *(SOURCE.with_name(name) for name in ("cpu.h", "pool.h", "scratch.h")))
#: Seconds that compiling the runtime or linking may take.
_MOST_SECONDS = 120
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
        ResourceError: a disk is full.
    """
    mode = "-shared" if shared else "-c"
    _compile([find_compiler(), *_FLAGS, mode, str(SOURCE), "-o", str(out)], out, "the runtime cannot be compiled")


def link(objects: Sequence[Path], out: Path) -> None:
    """Link kernels and runtime into the shared library ``out``, in which each finds the other before anything else.

    Raises:
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
    """
    flags = ("-shared", "-fPIC", "-pthread", "-Wl,-Bsymbolic")
    _compile([find_compiler(), *flags, *map(str, objects), "-o", str(out)], out, "the kernels cannot be linked")


def _compile(command: list[str], out: Path, failure: str) -> None:
    """Run the compiler, which writes ``out``. Of what it says the first line is told that is about an error."""
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
            start_new_session=True,  # a Ctrl-C of the terminal is for us: an executable may still be finished
        )
    except subprocess.TimeoutExpired as exc:
        raise CompilerError(
            f"{failure}: {command[0]} takes longer than {_MOST_SECONDS} s; set CC to another compiler"
        ) from exc
    except subprocess.CalledProcessError as exc:
        # It says where a disk is full, and also does not: a file that was cut off is one that it cannot read.
        for folder in {out.parent, Path(tempfile.gettempdir())}:
            with contextlib.suppress(OSError):
                check_space(folder)
        lines = [line.strip() for line in exc.stderr.splitlines() if line.strip()]
        if any("No space left" in line for line in lines):
            raise explained(OSError(errno.ENOSPC, "No space left on device"), failure, out.parent) from exc
        said = next((line for line in lines if "error" in line.lower()), lines[0] if lines else f"it ended with {exc}")
        raise CompilerError(
            f"{failure} by {command[0]}: {said[:200]}; check that it works, or set CC to another compiler"
        ) from exc
    except OSError as exc:
        raise CompilerError(
            f"{failure}: {command[0]} cannot be run: {exc.strerror}; set CC to another compiler"
        ) from exc


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
    path = _cache() / f"runtime-{key}.so"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Under another name first: a process beside this one must not load half a file.
            handle, part = tempfile.mkstemp(suffix=".so", dir=path.parent)
            os.close(handle)
        except OSError:  # no home that can be written
            return _compiled_here(path.name)
        try:
            compile_runtime(Path(part), shared=True)
            os.replace(part, path)
        except (ResourceError, OSError):  # its disk is full
            return _compiled_here(path.name)
        finally:
            Path(part).unlink(missing_ok=True)
    try:
        return bind(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as exc:
        if "Operation not permitted" in str(exc) or "failed to map" in str(exc):  # no program may be run from there
            return _compiled_here(path.name)
        raise CompilerError(f"{path} is not the library that was compiled: {exc}; remove it") from exc


def _cache() -> Path:
    """The directory of what is kept for all processes of this user; one that nobody can make where there is none."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user whom the system does not know, without HOME
        return Path(os.devnull, "no-home")
    return base / "tilewright"


def _compiled_here(name: str) -> ctypes.CDLL:
    """The runtime, compiled for this process alone."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        compile_runtime(Path(folder, name), shared=True)
        return bind(ctypes.CDLL(str(Path(folder, name))))


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
        raise CompilerError("this version of TVM does not let its threads be replaced; install the pinned version")
