"""The extensions of a processor's instruction set that kernels need and that a processor has, by LLVM's names."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable

from tilewright.errors import TargetError
from tilewright.executable.runtime.cross import same_architecture
from tilewright.processor import AARCH64, X86, lacks, model_name

__all__ = ["KNOWN", "check_features", "check_platform", "find_missing_features"]

#: Those of this machine's architecture.
KNOWN = AARCH64 if same_architecture("aarch64", platform.machine()) else X86


def find_missing_features(needed: Iterable[str], library: ctypes.CDLL | None = None) -> list[str]:
    """Those extensions of ``needed`` that this processor does not have.

    Args:
        needed: LLVM's names. An unknown name counts as missing.
        library: a library with the runtime, which asks the processor. If it is None, or of a version that cannot ask,
            Linux's description of the processor counts. Without a description nothing is missing.
    """
    if library is not None and hasattr(library, "tilewright_cpu_has"):
        return [name for name in needed if library.tilewright_cpu_has(name.encode("ascii", "replace")) != 1]
    return lacks(needed)


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
