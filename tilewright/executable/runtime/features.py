"""The extensions of a processor's instruction set that kernels need and that a processor has, by LLVM's names."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import TargetError
from tilewright.target import model_name

if TYPE_CHECKING:
    import tvm

__all__ = ["KNOWN", "check_features", "find_missing_features", "find_needed_features"]

#: Extensions of x86-64 that LLVM may use by itself if ``-mcpu`` has them; ``cpu.h`` has the same names. LLVM uses
#: others (``aes``, ``rdrnd``) for intrinsics only, which no kernel calls.
KNOWN = (
    *("sse3", "ssse3", "sse4.1", "sse4.2", "sse4a", "movbe", "popcnt", "lzcnt", "bmi", "bmi2", "tbm", "gfni"),
    *("avx", "avx2", "fma", "fma4", "xop", "f16c", "avxvnni", "avxvnniint8", "avxvnniint16", "avxifma", "avxneconvert"),
    *("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512vbmi2"),
    *("avx512vnni", "avx512bitalg", "avx512vpopcntdq", "avx512bf16", "avx512fp16"),
    *("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu"),
)
#: The names in ``/proc/cpuinfo`` of extensions that Linux names differently.
_LINUX = {
    **{"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lzcnt": "abm", "bmi": "bmi1", "avxvnni": "avx_vnni"},
    **{name: "apx" for name in ("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu")},
    **{name: "avx512_" + name[6:] for name in ("avx512vbmi2", "avx512vnni", "avx512bitalg", "avx512vpopcntdq")},
    **{"avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16"},
}


def find_needed_features(target: tvm.target.Target) -> tuple[str, ...]:
    """The extensions that code for ``target`` may use, sorted; empty for other architectures than x86-64."""
    import tvm

    has = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}
    return tuple(sorted(has.intersection(KNOWN)))


def find_missing_features(needed: Iterable[str], library: ctypes.CDLL | None = None) -> list[str]:
    """Those extensions of ``needed`` that this processor does not have.

    Args:
        needed: LLVM's names. An unknown name counts as missing.
        library: a library with the runtime, which asks the processor. If it is None, or of a version that cannot ask,
            Linux's description of the processor counts. Without a description nothing is missing.
    """
    if library is not None and hasattr(library, "tilewright_cpu_has"):
        return [name for name in needed if library.tilewright_cpu_has(name.encode("ascii", "replace")) != 1]
    flags = _linux_flags()
    return [name for name in needed if _LINUX.get(name, name) not in flags] if flags else []


def check_features(needed: Iterable[str], library: ctypes.CDLL | None = None) -> None:
    """Refuse to run kernels that need other extensions than the processor has; see :func:`find_missing_features`.

    Raises:
        TargetError: an extension is missing.
    """
    missing = find_missing_features(needed, library)
    if missing:
        raise TargetError(
            f"its kernels need a processor with {', '.join(missing)}, but {model_name()} has no such instructions"
        )


@cache
def _linux_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
