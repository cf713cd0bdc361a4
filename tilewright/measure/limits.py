"""What the machine reaches at best: multiply-adds, a matrix product, bytes from caches and from memory.

Tilewright's own code (``limits.c``) measures these, because a BLAS may not know the processor: with
``OPENBLAS_CORETYPE=Haswell`` in the environment NumPy reaches half of what an AVX-512 machine can do.
NumPy's product is measured as well. All of it runs in a process of its own, because code for the wrong instruction set
ends its process.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

from tilewright.errors import CompilerError, MeasureError
from tilewright.measure.isolated import IsolatedProcess
from tilewright.measure.limits_library import load_limits
from tilewright.processor import cache_sizes

__all__ = ["Limits", "Probe", "measure_limits"]

#: Seconds for each figure of arithmetic, of caches, and of memory: rounds of half a millisecond, of which the best
#: counts. Copying in memory takes at least one round, however long that is.
_ARITHMETIC_SECONDS, _BYTES_SECONDS, _MEMORY_SECONDS = 0.02, 0.005, 0.03
#: The largest error of a right product, whose elements are sums of 192 products of numbers from -1 to 1. Rounding made
#: errors of 5e-6 to 8e-6 (four instruction sets of a Zen 4).
_PRODUCT_ERROR = 1e-3
#: Extent of NumPy's matrix product, which takes 17 ms on a slow core and 2 ms on two fast ones.
_EXTENT = 768
#: The instruction sets that ``limits.c`` has kernels for, in its order, by the features of a target that they need.
_VARIANTS: tuple[tuple[str, ...], ...] = ((), ("avx",), ("avx2", "fma"), ("avx512f",))
#: The instructions for dot products by their numbers in ``limits.c``, with the features that they need: of bytes, and
#: of bfloat16 numbers. A target's features list neither AVX-VNNI nor bfloat16, so a target without these may get a peak
#: that is too high. That is still a bound.
_DOTS = {0: {"avx2"}, 1: {"avx2"}, 2: {"avx512f", "avx512vnni"}, 3: {"neon"}}
_BF16_DOTS = {4: {"avx512f"}, 5: {"neon"}}
#: The number of the widest instruction sets that are measured: some machines run the second one at a higher clock.
_WIDEST = 2
#: The kinds of traffic of ``tilewright_limits_bytes``.
_COPY, _ADD, _READ = 0, 1, 2
#: The bytes of the tensors that are copied in memory: so many times the last cache, so that it keeps none of them.
_TIMES_CACHE = 4
#: Bounds of these bytes: machines that tell no size, or that of a whole server.
_LEAST_COPIED, _MOST_COPIED = 64 << 20, 1 << 30


@dataclass(frozen=True)
class Limits:
    """What the cores of a machine reached together, each figure in the best of some rounds.

    A figure is None if it was not measured: there is no C compiler, or Tilewright's own code does not run here.

    Attributes:
        fma: float32 operations per second of multiply-adds on registers: no code does more.
        product: float32 operations per second of Tilewright's register-blocked matrix product of packed operands: good
            code reaches this.
        blas: float32 operations per second of NumPy's matrix product.
        innermost_bandwidth: bytes per second, read and written, if all lie in the first caches of the cores.
        cache_bandwidth: bytes per second, read and written, if all lie in the second caches.
        memory_bandwidth: bytes per second, read and written, of copying tensors that no cache keeps.
        innermost_bytes: the size of the first caches of the cores together.
        dot: operations per second on products of bytes that are added to int32, on registers: no code does more.
        bf16_dot: the same of products of bfloat16 numbers that are added to float32.
    """

    fma: float | None = None
    product: float | None = None
    blas: float | None = None
    innermost_bandwidth: float | None = None
    cache_bandwidth: float | None = None
    memory_bandwidth: float | None = None
    innermost_bytes: int = 0
    dot: float | None = None
    bf16_dot: float | None = None

    @property
    def source(self) -> str:
        """The figure that is the peak: ``fma``, ``product`` or ``blas``."""
        known = {name: value for name in ("fma", "product", "blas") if (value := getattr(self, name)) is not None}
        return max(known, key=lambda name: known[name])

    @property
    def peak(self) -> float:
        """The most operations per second that anything reached."""
        return float(getattr(self, self.source))

    @property
    def reachable(self) -> float:
        """The operations per second of the faster matrix product; of multiply-adds if none was measured."""
        return max([rate for rate in (self.product, self.blas) if rate is not None], default=self.peak)

    def describe(self) -> dict[str, float | int | str | None]:
        """For reports: the fields, and the peak with its source, ready for JSON."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"peak": self.peak, "peak_source": self.source, **own}


def measure_limits(cores: int, features: Sequence[str] | None = None) -> Limits:
    """Measure the limits of this machine, in about 0.3 s. Nothing else should run.

    Args:
        cores: the number of threads.
        features: of the target that code is compiled for, as :class:`tilewright.target.Target` has them; None: all that
            this machine has. A BLAS counts only if the target has the widest vectors of the machine.

    Raises:
        MeasureError: no process can be started.
    """
    try:
        return _ask(cores, features, own=True)
    except MeasureError:  # it died of an instruction, or could not be loaded
        return _ask(cores, features, own=False)


def _ask(cores: int, features: Sequence[str] | None, own: bool) -> Limits:
    arguments = (cores, None if features is None else tuple(features), own)
    variables = {"TVM_NUM_THREADS": str(cores)}
    with IsolatedProcess(Probe, arguments, variables, "measuring the machine needs a process of its own") as process:
        found = process.call("measure")
    assert isinstance(found, Limits)
    return found


class Probe:
    """Measures in its own process, which :func:`measure_limits` starts.

    Args:
        cores: the number of threads.
        features: of the target; None: all that this machine has.
        own: whether to run Tilewright's own code.
    """

    def __init__(self, cores: int, features: Sequence[str] | None, own: bool) -> None:
        self._cores, self._features, self._own = cores, features, own

    def measure(self) -> Limits:
        """Measure every figure."""
        variants, widest = self._variants()
        # NumPy last: its threads spin for a while.
        if not variants:
            blas, copying = _numpy_product(self._cores), _numpy_copy(self._cores)
            return Limits(blas=blas, innermost_bandwidth=copying, cache_bandwidth=copying)
        found = self._measure_by_own_code(variants)
        return replace(found, blas=_numpy_product(self._cores)) if widest else found

    @cached_property
    def _library(self) -> ctypes.CDLL:
        return load_limits()

    def _variants(self) -> tuple[list[int], bool]:
        """The numbers of the kernels to run, the widest last; and whether the machine has no wider ones."""
        try:
            runs = self._library.tilewright_limits_variants() if self._own else 0
        except (CompilerError, OSError, AttributeError):
            return [], True
        possible = [number for number in range(len(_VARIANTS)) if runs >> number & 1]
        if self._features is None or not possible:
            return possible[-_WIDEST:], True
        wanted = [number for number in possible if {*_VARIANTS[number]} <= {*self._features}]
        return wanted[-_WIDEST:], wanted[-1] == possible[-1]

    def _measure_by_own_code(self, variants: list[int]) -> Limits:
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
        return Limits(
            fma=arithmetic(library.tilewright_limits_fma),
            product=arithmetic(library.tilewright_limits_product) if right else None,
            # Three tensors in half of the first cache; and in half of the second one, but not in the first.
            innermost_bandwidth=traffic(l1 // 6, every, _BYTES_SECONDS),
            cache_bandwidth=traffic(max(l2 // 6, l1), every, _BYTES_SECONDS),
            memory_bandwidth=traffic(copied // (2 * cores), (_COPY,), _MEMORY_SECONDS),
            innermost_bytes=cores * l1,
            dot=self._measure_dot(_DOTS),
            bf16_dot=self._measure_dot(_BF16_DOTS),
        )

    def _measure_dot(self, variants: Mapping[int, set[str]]) -> float | None:
        """Operations per second of the fastest of some instructions; None where there is none of them."""
        has = self._library.tilewright_limits_dot_variants()
        possible = [number for number in variants if has >> number & 1]
        if self._features is not None:
            possible = [number for number in possible if variants[number] <= {*self._features}]
        rates = [self._library.tilewright_limits_dot(v, self._cores, _ARITHMETIC_SECONDS) for v in possible]
        return max(rates, default=None)


def _numpy_product(cores: int) -> float:
    """Measure the operations per second of NumPy's matrix product."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    left, right = (rng.random((_EXTENT, _EXTENT), dtype=np.float32) for _ in range(2))
    product = np.empty_like(left)
    with threadpool_limits(cores):
        return 2.0 * _EXTENT**3 / _fastest(lambda: np.matmul(left, right, out=product), 2 * _ARITHMETIC_SECONDS)


def _numpy_copy(cores: int) -> float:
    """Measure the bytes that a core reads and writes per second in its own cache, times the number of cores."""
    import numpy as np

    source = np.random.default_rng(0).random(1 << 15, dtype=np.float32)
    copy = np.empty_like(source)
    return 2.0 * cores * source.nbytes / _fastest(lambda: np.copyto(copy, source), _ARITHMETIC_SECONDS)


def _fastest(work: Callable[[], object], seconds: float) -> float:
    """The seconds of the fastest call of ``work``, of those that begin within ``seconds``."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best
