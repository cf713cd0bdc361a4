"""What the machine reaches at best: multiply-adds, a matrix product, bytes from caches and from memory.

Tilewright's own code (``limits.c``) measures them, since a BLAS may not know the processor: with
``OPENBLAS_CORETYPE=Haswell`` in the environment NumPy reaches half of what an AVX-512 machine can do.
NumPy's product is measured as well. All of it runs in a process of its own, since it uses particular instruction sets.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from tilewright.errors import CompilerError, MeasureError
from tilewright.executable.runtime.library import find_compiler
from tilewright.measure.isolated import IsolatedProcess
from tilewright.target import cache_sizes

__all__ = ["Limits", "Probe", "measure_limits", "time_own_product"]

SOURCE = Path(__file__).with_name("limits.c")
_FLAGS = ("-x", "c", "-std=gnu11", "-O2", "-ffp-contract=fast", "-fPIC", "-pthread", "-shared")
#: Seconds for each of the things that are measured; copying in memory does at least one round, whatever that takes.
_ARITHMETIC_SECONDS, _BYTES_SECONDS, _MEMORY_SECONDS = 0.02, 0.005, 0.03
#: The largest error of a product of 192 pairs of numbers from -1 to 1; one that is wrong counts for nothing.
_PRODUCT_ERROR = 1e-3
#: Extent of NumPy's matrix product: 17 ms on a slow core, 2 ms on two fast ones.
_EXTENT = 768
#: The instruction sets that ``limits.c`` has kernels for, in its order, by the features of a target that they need.
_VARIANTS: tuple[tuple[str, ...], ...] = ((), ("avx",), ("avx2", "fma"), ("avx512f",))
#: So many of the widest are measured: some machines run the second one at a higher clock.
_WIDEST = 2
#: The kinds of traffic of ``tilewright_limits_bytes``.
_COPY, _ADD, _READ = 0, 1, 2
#: Copying in memory needs tensors that no cache keeps: so many times the last one, in bytes, but within bounds.
_TIMES_CACHE, _LEAST_COPIED, _MOST_COPIED = 4, 64 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """What the cores of a machine reached together, each figure in the best of some rounds.

    None: not measured, since there is no C compiler, or the code of our own does not run here.

    Attributes:
        fma: float32 operations per second of multiply-adds on registers: no code does more.
        product: the same of a register-blocked matrix product of our own whose operands are packed: what is reachable.
        blas: the same of NumPy's matrix product.
        innermost_bandwidth: bytes per second, read and written, where all lie in the first caches of the cores.
        cache_bandwidth: the same out of the second caches.
        memory_bandwidth: the same of copying tensors that no cache keeps.
        innermost_bytes: what the first caches of the cores hold, in bytes.
    """

    fma: float | None = None
    product: float | None = None
    blas: float | None = None
    innermost_bandwidth: float | None = None
    cache_bandwidth: float | None = None
    memory_bandwidth: float | None = None
    innermost_bytes: int = 0

    @property
    def source(self) -> str:
        """What gave the peak: ``fma``, ``product`` or ``blas``."""
        known = {name: value for name in ("fma", "product", "blas") if (value := getattr(self, name)) is not None}
        return max(known, key=lambda name: known[name])

    @property
    def peak(self) -> float:
        """The most operations per second that anything reached."""
        return float(getattr(self, self.source))

    @property
    def reachable(self) -> float:
        """The operations per second of the faster matrix product, where one is known."""
        return max([rate for rate in (self.product, self.blas) if rate is not None], default=self.peak)

    def describe(self) -> dict[str, Any]:
        """For reports: the fields, and the peak with its source."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"peak": self.peak, "peak_source": self.source, **own}


def measure_limits(cores: int, features: Sequence[str] | None = None) -> Limits:
    """The limits of this machine, in about 0.3 s. Nothing else should run.

    Args:
        cores: how many threads run.
        features: of the target that code is compiled for, as :class:`tilewright.target.Target` has them; None: all that
            this machine has. A BLAS counts only where the target has the widest vectors of the machine.

    Raises:
        MeasureError: no process can be started.
    """
    try:
        return _asked(cores, features, own=True)
    except MeasureError:  # it died of an instruction, or could not be loaded
        return _asked(cores, features, own=False)


def _asked(cores: int, features: Sequence[str] | None, own: bool) -> Limits:
    arguments = (cores, None if features is None else tuple(features), own)
    variables = {"TVM_NUM_THREADS": str(cores)}
    with IsolatedProcess(Probe, arguments, variables, "measuring the machine needs a process of its own") as process:
        found = process.call("measure")
    assert isinstance(found, Limits)
    return found


class Probe:
    """Measures in its own process, which :func:`measure_limits` starts.

    Args:
        cores: how many threads run.
        features: of the target; None: all.
        own: whether to run code of our own.
    """

    def __init__(self, cores: int, features: Sequence[str] | None, own: bool) -> None:
        self._cores, self._features, self._own = cores, features, own

    def measure(self) -> Limits:
        """All of it."""
        variants, widest = self._variants()
        found: dict[str, Any] = {} if not variants else self._by_own_code(variants)
        # NumPy last: its threads spin for a while.
        if widest or not variants:
            found["blas"] = _numpy_product(self._cores)
        if not variants:
            found["innermost_bandwidth"] = found["cache_bandwidth"] = _numpy_copy(self._cores)
        return Limits(**found)

    @cached_property
    def _library(self) -> ctypes.CDLL:
        return _library()

    def _variants(self) -> tuple[list[int], bool]:
        """The kernels to run, by their numbers, the widest last; and whether the machine has none that are wider."""
        try:
            runs = self._library.tilewright_limits_variants() if self._own else 0
        except (CompilerError, OSError, AttributeError):
            return [], True
        possible = [number for number in range(len(_VARIANTS)) if runs >> number & 1]
        if self._features is None or not possible:
            return possible[-_WIDEST:], True
        wanted = [number for number in possible if {*_VARIANTS[number]} <= {*self._features}]
        return wanted[-_WIDEST:], wanted[-1] == possible[-1]

    def _by_own_code(self, variants: list[int]) -> dict[str, Any]:
        library, cores, widest = self._library, self._cores, variants[-1]
        l1, l2, l3 = cache_sizes()

        def traffic(size: int, kinds: Sequence[int], seconds: float) -> float:
            rates = [library.tilewright_limits_bytes(widest, cores, seconds, kind, size) for kind in kinds]
            return max(float(rate) for rate in rates)

        def arithmetic(function: Callable[[int, int, float], float]) -> float:
            return max(function(variant, cores, _ARITHMETIC_SECONDS) for variant in variants)

        right = all(library.tilewright_limits_product_error(v) < _PRODUCT_ERROR for v in variants)
        copied = min(max(_TIMES_CACHE * l3, _LEAST_COPIED), _MOST_COPIED)
        every = (_COPY, _ADD, _READ)
        return {
            "fma": arithmetic(library.tilewright_limits_fma),
            "product": arithmetic(library.tilewright_limits_product) if right else None,
            # Three tensors in half of the first cache; and in half of the second one, but not in the first.
            "innermost_bandwidth": traffic(l1 // 6, every, _BYTES_SECONDS),
            "cache_bandwidth": traffic(max(l2 // 6, l1), every, _BYTES_SECONDS),
            "memory_bandwidth": traffic(copied // (2 * cores), (_COPY,), _MEMORY_SECONDS),
            "innermost_bytes": cores * l1,
        }


def time_own_product(threads: int, operations: float, runs: int) -> list[float]:
    """Seconds of each of some matrix products of our own with about so many operations, in this process.

    Raises:
        MeasureError: there is no C compiler, or the library cannot be loaded.
    """
    try:
        library = _library()
    except (CompilerError, OSError, AttributeError) as exc:
        raise MeasureError(f"Tilewright's matrix product cannot be measured: {exc}") from exc
    widest = int(library.tilewright_limits_variants()).bit_length() - 1
    seconds = (ctypes.c_double * runs)()
    done = float(library.tilewright_limits_product_times(widest, threads, operations, runs, seconds))
    return [operations / done * float(second) for second in seconds]


def _library() -> ctypes.CDLL:
    """``limits.c`` as a library, compiled once for all processes of this user.

    Raises:
        CompilerError: there is no compiler, or it fails.
        OSError: the library cannot be loaded.
    """
    about = (find_compiler(), *_FLAGS, sys.platform, platform.machine())
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(about).encode()).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tilewright" / f"limits-{key}.so"
    if path.is_file():
        with contextlib.suppress(OSError, AttributeError):  # half a file, or another machine's
            return _bound(path)
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        made = Path(folder, path.name)
        command = [find_compiler(), *_FLAGS, str(SOURCE), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as exc:
            raise CompilerError(f"the code that measures the machine cannot be compiled: {exc}") from exc
        with contextlib.suppress(OSError):  # a home that cannot be written: it is compiled again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(suffix=".so", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(made.read_bytes())
            os.replace(part, path)
        return _bound(made)


def _bound(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in ("fma", "product"):
        function = getattr(library, f"tilewright_limits_{name}")
        function.argtypes, function.restype = [ctypes.c_int, ctypes.c_int, ctypes.c_double], ctypes.c_double
    library.tilewright_limits_product_error.argtypes = [ctypes.c_int]
    library.tilewright_limits_product_error.restype = ctypes.c_double
    times: list[Any] = [ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_int, ctypes.POINTER(ctypes.c_double)]
    library.tilewright_limits_product_times.argtypes = times
    library.tilewright_limits_product_times.restype = ctypes.c_double
    integers: list[Any] = [ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_int, ctypes.c_size_t]
    library.tilewright_limits_bytes.argtypes, library.tilewright_limits_bytes.restype = integers, ctypes.c_double
    library.tilewright_limits_variants.argtypes, library.tilewright_limits_variants.restype = [], ctypes.c_int
    return library


def _numpy_product(cores: int) -> float:
    """Operations per second of NumPy's matrix product."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    left, right = (rng.random((_EXTENT, _EXTENT), dtype=np.float32) for _ in range(2))
    product = np.empty_like(left)
    with threadpool_limits(cores):
        return 2.0 * _EXTENT**3 / _fastest(lambda: np.matmul(left, right, out=product), 2 * _ARITHMETIC_SECONDS)


def _numpy_copy(cores: int) -> float:
    """Bytes read and written per second by as many cores as this one's copying from its own cache."""
    import numpy as np

    source = np.random.default_rng(0).random(1 << 15, dtype=np.float32)
    copy = np.empty_like(source)
    return 2.0 * cores * source.nbytes / _fastest(lambda: np.copyto(copy, source), _ARITHMETIC_SECONDS)


def _fastest(work: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of some calls."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best
