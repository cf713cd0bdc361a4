"""Compiles the runtime, links it with kernels, and puts it in the place of TVM's own."""

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
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from tilewright.errors import CompilerError, ResourceError
from tilewright.executable.runtime.cross import find_cross_compiler, words_of_cc
from tilewright.scratch import check_space, explained

__all__ = [
    "ask_pkg_config",
    "bind",
    "compile_runtime",
    "find_compiler",
    "find_compiler_of",
    "link",
    "link_library",
    "use_for_kernels",
    "write_runtime",
]

#: The runtime's main source file.
SOURCE = Path(__file__).with_name("runtime.c")
#: All files that the runtime is compiled from.
_HEADERS = ("cores.h", "cpu.h", "image.h", "instance.h", "pool.h", "scratch.h", "shared_pool.h")
_SOURCES = (SOURCE, *(SOURCE.with_name(name) for name in _HEADERS))
#: Seconds within which the runtime must be compiled, or a library linked. At its first use for a platform, zig also
#: compiles parts of the C library, which takes 5 s of a core.
_MOST_SECONDS = 300
_FLAGS = ("-x", "c", "-std=c11", "-O2", "-fPIC", "-pthread")
#: Bytes of the hash before the content of a file that is kept.
_DIGEST = 32


def find_compiler() -> tuple[str, ...]:
    """The command of the C compiler: that of ``$CC``, or the first of the usual compilers on ``PATH``.

    ``CC`` may have arguments, as in ``ccache gcc -m64``.

    Raises:
        CompilerError: there is no compiler, or ``CC`` names none.
    """
    if words := words_of_cc():
        if not shutil.which(words[0]):
            raise CompilerError(f"CC is the command of a C compiler, but there is no {words[0]!r}; correct or unset it")
        return words
    for name in ("cc", "gcc", "clang", "g++", "clang++"):
        if shutil.which(name):
            return (name,)
    raise CompilerError(
        "writing an executable needs a C compiler, but there is no cc, gcc or clang on PATH; "
        "install one, for example with: apt-get install gcc"
    )


def find_compiler_of(triple: str) -> tuple[str, ...]:
    """The command of the C compiler for a platform.

    Args:
        triple: LLVM's name of the platform; empty: this one.

    Raises:
        CompilerError: there is no compiler.
    """
    return find_cross_compiler(triple) if triple else find_compiler()


def ask_pkg_config(package: str, *variables: str) -> tuple[str, ...] | None:
    """The values of a package's variables, as pkg-config has them; None: there is no pkg-config or no such package."""
    found = []
    for variable in variables:
        command = ["pkg-config", f"--variable={variable}", package]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode or not done.stdout.strip():
            return None
        found.append(done.stdout.strip())
    return tuple(found)


def compile_runtime(out: Path, *, shared: bool = False, triple: str = "") -> None:
    """Compile the runtime.

    Args:
        out: the file to write.
        shared: whether it is a shared library; otherwise it is an object file.
        triple: as of :func:`find_compiler_of`.

    Raises:
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
    """
    mode = "-shared" if shared else "-c"
    command = [*find_compiler_of(triple), *_FLAGS, mode, str(SOURCE), "-o", str(out)]
    _compile(command, out, "the runtime cannot be compiled")


def write_runtime(out: Path, triple: str = "") -> None:
    """Write the object file of the runtime. It is compiled once for all processes of this user, which takes 0.2 s.

    Args:
        out: the file to write.
        triple: as of :func:`find_compiler_of`.

    Raises:
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
        OutputError: the file cannot be written.
    """
    content = _compile_object(find_compiler_of(triple), triple)
    try:
        out.write_bytes(content)
    except OSError as exc:
        raise explained(exc, "the runtime cannot be written", out.parent) from exc


@lru_cache(maxsize=4)
def _compile_object(compiler: tuple[str, ...], triple: str) -> bytes:
    """The content of the runtime's object file, as ``compiler`` makes it, or made it for an earlier process."""
    kept = _cache() / f"runtime-{_hash_sources(compiler, triple)}.o"
    with contextlib.suppress(OSError):
        file = kept.read_bytes()
        digest, content = file[:_DIGEST], file[_DIGEST:]
        if hashlib.sha256(content).digest() == digest:  # otherwise the file is damaged
            return content
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder, "runtime.o")
        compile_runtime(path, triple=triple)
        content = path.read_bytes()
    with contextlib.suppress(OSError), _replacing(kept) as part:  # a home that cannot be written
        part.write_bytes(hashlib.sha256(content).digest() + content)
    return content


def _hash_sources(compiler: Sequence[str], triple: str = "") -> str:
    """What the name of a kept file holds: from what and by what it is compiled. Several machines may share a home."""
    versions = (_version_of(tuple(compiler)), *platform.libc_ver())
    about = (*compiler, *versions, *_FLAGS, sys.platform, platform.machine(), *filter(None, [triple]))
    source = b"".join(path.read_bytes() for path in _SOURCES)
    return hashlib.sha256(source + " ".join(about).encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _version_of(compiler: tuple[str, ...]) -> str:
    """The first line of what a compiler says of its version; empty if it says nothing."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False, timeout=60)
        return said.stdout.partition("\n")[0]
    return ""


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of ``path``: no other process reads half a file.

    Raises:
        OSError: it cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=path.suffix, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def link(objects: Sequence[Path], out: Path, *, repeated: bool = False, triple: str = "") -> None:
    """Link the object files of kernels and of the runtime into the shared library ``out``.

    Functions of the library find each other before functions of the same name in other libraries.

    Args:
        objects: the object files.
        out: the file to write.
        repeated: whether several may hold the same function, of which one is taken; only for this platform.
        triple: as of :func:`find_compiler_of`.

    Raises:
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
    """
    # Without -O2, zig would compile its parts of the C library a second time.
    flags = ("-shared", "-fPIC", "-O2", "-pthread", "-Wl,-Bsymbolic")
    repeating = ("-Wl,--allow-multiple-definition",) if repeated and not triple else ()  # zig's linker has no such flag
    command = [*find_compiler_of(triple), *flags, *repeating, *map(str, objects), "-o", str(out)]
    _compile(command, out, "the kernels cannot be linked")


def link_library(
    source: Path, objects: Sequence[Path], out: Path, exports: Path, flags: Sequence[str] = (), triple: str = ""
) -> None:
    """Compile a C library: its source file, which includes the runtime, with the objects of kernels.

    Args:
        source: the file. Files that it names lie beside it, or are the runtime's.
        objects: the object files of the kernels.
        out: the file to write.
        exports: the linker's version script, which lists the functions that others may call.
        flags: further flags of the compiler.
        triple: as of :func:`find_compiler_of`.

    Raises:
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
    """
    linker = (
        *("-Bsymbolic", "-z,noexecstack", "-z,defs", *(() if triple else ("--allow-multiple-definition",))),
        *(f"-soname,{out.name}", f"--version-script={exports}"),
    )
    places = (f"-I{source.parent}", f"-I{SOURCE.parent}")
    command = [*find_compiler_of(triple), *_FLAGS, "-fvisibility=hidden", "-shared", *places, str(source), "-x", "none"]
    command += [*map(str, objects), *(f"-Wl,{option}" for option in linker), *flags, "-o", str(out), "-ldl"]
    _compile(command, out, f"{out.name} cannot be compiled", source.parent)


def _compile(command: list[str], out: Path, failure: str, folder: Path | None = None) -> None:
    """Run the compiler, which writes ``out``. If it fails, the error quotes the line of its output that says why.

    Args:
        command: the compiler and its arguments.
        out: the file that it writes.
        failure: what failed, as the beginning of the message.
        folder: in which it runs; None: this process's.
    """
    compiler = "zig" if "ziglang" in command[:3] else command[0]
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_MOST_SECONDS,
            cwd=folder,
            # After a Ctrl-C in the terminal an executable may still be finished. A process with a session of its own
            # gets none, and whoever stops or ends it means its compiler, too.
            start_new_session=os.getsid(0) != os.getpid(),
        )
    except subprocess.TimeoutExpired as exc:
        raise CompilerError(
            f"{failure}: {compiler} takes longer than {_MOST_SECONDS} s; set CC to another compiler"
        ) from exc
    except subprocess.CalledProcessError as exc:
        # The compiler does not always say that a disk is full: it may only fail to read a file that was cut off.
        for folder in {out.parent, Path(tempfile.gettempdir())}:
            with contextlib.suppress(OSError):
                check_space(folder)
        lines = [line.strip() for line in exc.stderr.splitlines() if line.strip()]
        if any("No space left" in line for line in lines):
            raise explained(OSError(errno.ENOSPC, "No space left on device"), failure, out.parent) from exc
        said = next(
            (line for line in lines if "error" in line.lower()),
            lines[0] if lines else f"its status is {exc.returncode}",
        )
        raise CompilerError(
            f"{failure} by {compiler}: {said[:200]}; check that it works, or set CC to another compiler"
        ) from exc
    except OSError as exc:
        raise CompilerError(f"{failure}: {compiler} cannot be run: {exc.strerror}; set CC to another compiler") from exc


def bind(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the types of the runtime's functions in a library. Returns the library.

    Raises:
        AttributeError: the library lacks one of these functions.
    """
    library.tilewright_threads.argtypes = [ctypes.c_int]
    library.tilewright_threads.restype = ctypes.c_int
    library.tilewright_last_error.argtypes = []
    library.tilewright_last_error.restype = ctypes.c_char_p
    library.tilewright_run.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.tilewright_run.restype = ctypes.c_int
    timings = [library.tilewright_time]
    if hasattr(library, "tilewright_profile"):  # executables of earlier versions lack it
        timings.append(library.tilewright_profile)
    for timing in timings:
        timing.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_double)]
        timing.restype = ctypes.c_int
    library.tilewright_initialize.argtypes = []
    library.tilewright_initialize.restype = None
    if hasattr(library, "tilewright_share"):  # executables of earlier versions have threads of their own
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
    if hasattr(library, "tilewright_open"):  # executables of earlier versions have no instances
        pointer, addresses = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
        library.tilewright_open.argtypes = [pointer, addresses, pointer, pointer, addresses, pointer]
        library.tilewright_open.restype = ctypes.c_int
        library.tilewright_call.argtypes = [
            *(pointer, ctypes.c_size_t, addresses, ctypes.c_size_t, addresses, ctypes.c_size_t, pointer)
        ]
        library.tilewright_call.restype = ctypes.c_int
        library.tilewright_close.argtypes = [pointer]
        library.tilewright_close.restype = None
    return library


@lru_cache(maxsize=1)
def _shared() -> ctypes.CDLL:
    """The runtime as a library without kernels, compiled once for all processes of this user."""
    path = _cache() / f"runtime-{_hash_sources(find_compiler())}.so"
    if not path.is_file():
        try:
            with _replacing(path) as part:
                compile_runtime(part, shared=True)
        except (ResourceError, OSError):  # the home directory cannot be written, or its disk is full
            return _compile_here(path.name)
    try:
        return bind(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as exc:
        if "Operation not permitted" in str(exc) or "failed to map" in str(exc):  # no program may be run from there
            return _compile_here(path.name)
        raise CompilerError(f"{path} is not the library that was compiled: {exc}; remove it") from exc


def _cache() -> Path:
    """The directory for files that all processes of this user share; if it is not known, one that cannot be made."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # the system does not know the user, and HOME is not set
        return Path(os.devnull, "no-home")
    return base / "tilewright"


def _compile_here(name: str) -> ctypes.CDLL:
    """The runtime, compiled for this process alone."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        compile_runtime(Path(folder, name), shared=True)
        return bind(ctypes.CDLL(str(Path(folder, name))))


def use_for_kernels(threads: int) -> None:
    """Let all kernels that TVM loads into this process from now on run on ``threads`` threads of this runtime.

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
