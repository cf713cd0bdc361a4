"""``limits.c`` as a library: compiled once for all processes of a user, loaded, and bound."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tilewright.errors import CompilerError
from tilewright.executable.runtime.library import SOURCE, find_compiler

__all__ = ["load_limits"]

_SOURCE = Path(__file__).with_name("limits.c")
#: The file of the runtime that says what a core is.
_CORES = SOURCE.with_name("cores.h")
_FLAGS = ("-x", "c", "-std=gnu11", "-O2", "-ffp-contract=fast", "-fPIC", "-pthread", "-shared")
#: Seconds that the compiler may take: it needs one.
_COMPILE_SECONDS = 120.0


def load_limits() -> ctypes.CDLL:
    """The library, from the user's cache directory where it was compiled before.

    Raises:
        CompilerError: there is no compiler, or it fails.
        OSError: the library cannot be loaded.
        AttributeError: the library lacks a function.
    """
    about = (*find_compiler(), *_FLAGS, sys.platform, platform.machine())
    key = hashlib.sha256(_SOURCE.read_bytes() + _CORES.read_bytes() + " ".join(about).encode()).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tilewright" / f"limits-{key}.so"
    if path.is_file():
        with contextlib.suppress(OSError, AttributeError):  # half a file, or another machine's
            return _load(path)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        made = Path(folder, path.name)
        command = [*find_compiler(), *_FLAGS, f"-I{_CORES.parent}", str(_SOURCE), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_SECONDS)
        except (OSError, subprocess.SubprocessError) as exc:
            raise CompilerError(f"the code that measures the machine cannot be compiled: {exc}") from exc
        with contextlib.suppress(OSError):  # a home that cannot be written: it is compiled again next time
            _store(made, path)
        return _load(made)


def _store(made: Path, path: Path) -> None:
    """Copy ``made`` to ``path``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(suffix=".so", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(made.read_bytes())
    os.replace(part, path)


def _load(path: Path) -> ctypes.CDLL:
    """Load a library, and declare the types of its functions."""
    library = ctypes.CDLL(str(path))
    number, real, size = ctypes.c_int, ctypes.c_double, ctypes.c_size_t
    library.tilewright_limits_variants.argtypes = []
    library.tilewright_limits_variants.restype = number
    library.tilewright_limits_fma.argtypes = [number, number, real]
    library.tilewright_limits_fma.restype = real
    library.tilewright_limits_product.argtypes = [number, number, real]
    library.tilewright_limits_product.restype = real
    library.tilewright_limits_product_error.argtypes = [number]
    library.tilewright_limits_product_error.restype = real
    library.tilewright_limits_product_times.argtypes = [number, number, real, number, ctypes.POINTER(real)]
    library.tilewright_limits_product_times.restype = real
    library.tilewright_limits_dot_variants.argtypes = []
    library.tilewright_limits_dot_variants.restype = number
    library.tilewright_limits_dot.argtypes = [number, number, real]
    library.tilewright_limits_dot.restype = real
    library.tilewright_limits_bytes.argtypes = [number, number, real, number, size]
    library.tilewright_limits_bytes.restype = real
    return library
