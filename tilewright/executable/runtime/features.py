"""The instructions that kernels need and that a processor has, by LLVM's names of them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path

__all__ = ["KNOWN", "missing_features", "needed_features"]

#: Extensions of x86-64 that LLVM makes use of by itself where ``-mcpu`` has them; ``cpu.h`` has the same names. Others
#: (``aes``, ``rdrnd``) come with intrinsics alone, which no kernel has.
KNOWN = (
    *("sse3", "ssse3", "sse4.1", "sse4.2", "sse4a", "movbe", "popcnt", "lzcnt", "bmi", "bmi2", "tbm", "gfni"),
    *("avx", "avx2", "fma", "fma4", "xop", "f16c", "avxvnni", "avxvnniint8", "avxvnniint16", "avxifma", "avxneconvert"),
    *("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512vbmi2"),
    *("avx512vnni", "avx512bitalg", "avx512vpopcntdq", "avx512bf16", "avx512fp16"),
    *("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu"),
)
#: Linux has other names for some of them in ``/proc/cpuinfo``.
_LINUX = {
    **{"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lzcnt": "abm", "bmi": "bmi1", "avxvnni": "avx_vnni"},
    **{name: "apx" for name in ("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu")},
    **{name: "avx512_" + name[6:] for name in ("avx512vbmi2", "avx512vnni", "avx512bitalg", "avx512vpopcntdq")},
    **{"avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16"},
}


def needed_features(target: object) -> tuple[str, ...]:
    """The extensions that code for ``target`` (a ``tvm.target.Target``) may consist of, sorted.

    Nothing for another architecture than x86-64, where nothing is compared.
    """
    import tvm

    has = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}
    return tuple(sorted(has.intersection(KNOWN)))


def missing_features(needed: Iterable[str], library: ctypes.CDLL | None = None) -> list[str]:
    """Those of ``needed`` that this processor does not have.

    Args:
        needed: LLVM's names. One that nobody knows counts as missing.
        library: a library with the runtime, which asks the processor. None, or one of an earlier version: what Linux
            says of the processor counts, and nothing is missing where it says nothing.
    """
    if library is not None and hasattr(library, "tilewright_cpu_has"):
        return [name for name in needed if library.tilewright_cpu_has(name.encode("ascii", "replace")) != 1]
    flags = _linux_flags()
    return [name for name in needed if _LINUX.get(name, name) not in flags] if flags else []


@cache
def _linux_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
