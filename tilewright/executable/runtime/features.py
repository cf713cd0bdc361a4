"""The extensions of a processor's instruction set that kernels need and that a processor has, by LLVM's names."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import TargetError
from tilewright.executable.runtime.cross import same_architecture
from tilewright.target import model_name

if TYPE_CHECKING:
    import tvm

__all__ = ["KNOWN", "check_features", "check_platform", "find_missing_features", "find_needed_features"]

#: Extensions that LLVM may use by itself if ``-mcpu`` has them; ``cpu.h`` has the same names. LLVM uses others
#: (``aes``, ``rdrnd``) for intrinsics only, which no kernel calls.
_X86 = (
    *("sse3", "ssse3", "sse4.1", "sse4.2", "sse4a", "movbe", "popcnt", "lzcnt", "bmi", "bmi2", "tbm", "gfni"),
    *("avx", "avx2", "fma", "fma4", "xop", "f16c", "avxvnni", "avxvnniint8", "avxvnniint16", "avxifma", "avxneconvert"),
    *("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512vbmi2"),
    *("avx512vnni", "avx512bitalg", "avx512vpopcntdq", "avx512bf16", "avx512fp16"),
    *("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu"),
)
_AARCH64 = (
    *("fp-armv8", "neon", "lse", "lse2", "rcpc", "rcpc-immo", "rdm", "fullfp16", "dotprod", "fp16fml", "complxnum"),
    *("jsconv", "flagm", "altnzcv", "fptoint", "sha3", "bf16", "i8mm", "cssc", "mops", "hbc"),
    *("sve", "sve2", "sve2p1", "f32mm", "f64mm", "sme", "sme2"),
)
#: Those of this machine's architecture.
KNOWN = _AARCH64 if same_architecture("aarch64", platform.machine()) else _X86
#: The names in ``/proc/cpuinfo`` of extensions that Linux names differently.
_LINUX = {
    **{"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lzcnt": "abm", "bmi": "bmi1", "avxvnni": "avx_vnni"},
    **{name: "apx" for name in ("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu")},
    **{name: "avx512_" + name[6:] for name in ("avx512vbmi2", "avx512vnni", "avx512bitalg", "avx512vpopcntdq")},
    **{"avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16"},
    **{"fp-armv8": "fp", "neon": "asimd", "lse": "atomics", "lse2": "uscat", "rcpc": "lrcpc", "rcpc-immo": "ilrcpc"},
    **{"rdm": "asimdrdm", "fullfp16": "asimdhp", "dotprod": "asimddp", "fp16fml": "asimdfhm", "complxnum": "fcma"},
    **{"jsconv": "jscvt", "altnzcv": "flagm2", "fptoint": "frint", "f32mm": "svef32mm", "f64mm": "svef64mm"},
}
#: How Linux calls the list of a processor's extensions.
_LISTS = ("flags", "Features")


def find_needed_features(target: tvm.target.Target) -> tuple[str, ...]:
    """The extensions that code for ``target`` may use, sorted; empty for others than x86-64 and 64-bit Arm."""
    import tvm

    has = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}
    return tuple(sorted(has.intersection((*_X86, *_AARCH64))))


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


def check_platform(triple: str) -> None:
    """Refuse to load kernels of another architecture.

    Args:
        triple: LLVM's name of the platform that they were compiled for; empty: the one that they were compiled on.

    Raises:
        TargetError: it has another architecture than this machine.
    """
    if triple and not same_architecture(triple, platform.machine()):
        raise TargetError(f"its kernels are for {triple}, but this machine is {platform.machine()}")


@cache
def _linux_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(_LISTS):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
