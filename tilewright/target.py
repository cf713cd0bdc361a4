"""The machine that code is tuned for: what the compiler is told, and what the design spaces need to know."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias, get_args

from tilewright.errors import TargetError
from tilewright.processor import AARCH64, COMMON_CACHES, X86, cache_sizes, lacks, model_name
from tilewright.tvm_compat import keep_interrupts, light_import, set_threads, wanted_threads

__all__ = ["Caches", "Target"]

#: Where a kernel that is timed finds what it reads.
Caches: TypeAlias = Literal["warm", "shared", "streamed", "cold"]

#: The platforms that executables are built for.
_TRIPLE = re.compile(r"(aarch64|x86_64)-((unknown|pc|none)-)?linux-(gnu|musl)")
#: The levels of x86-64.
_LEVEL = re.compile(r"x86-64(-v[234])?")
#: This machine's targets, by how they are written.
_NATIVE: dict[str, Caches] = {
    "native": "warm",
    "native:shared": "shared",
    "native:streamed": "streamed",
    "native:cold": "cold",
}


@dataclass(frozen=True)
class Target:
    """A CPU.

    Attributes:
        mcpu: LLVM's name of the CPU, such as ``znver3``.
        cores: how many cores programs use, which is also how many threads they run on.
        machine: the CPU's own model name, so that records know whose they are.
        features: the vector extensions that matter, sorted.
        lanes: float32 numbers in a vector register.
        registers: number of vector registers.
        l1, l2, l3: data cache sizes in bytes; ``l1`` and ``l2`` per core, ``l3`` as shared.
        tvm_version: version of the compiler.
        triple: LLVM's name of the platform, where it is not this one's: code for it can be compiled, but not run here.
        caches: how candidates are timed: ``warm``, with all they read where the calls before have left it; ``shared``,
            with weights from the last cache, as in a network whose weights do not fit the caches of the cores;
            ``streamed``, with weights from memory, as in a network whose weights do not fit the last cache; ``cold``,
            with empty caches. It is part of the key: a kernel that is fast with its data in the caches need not be fast
            without them, so records of different kinds are never taken for each other.
        without: extensions of ``mcpu`` that this machine hides, by LLVM's names, sorted: no code uses them.
        recorded_as: the key of another machine with this CPU, whose records count for this target; empty: its own do.
    """

    mcpu: str
    cores: int
    machine: str
    features: tuple[str, ...]
    lanes: int
    registers: int
    l1: int
    l2: int
    l3: int
    tvm_version: str
    triple: str = ""
    caches: Caches = "warm"
    without: tuple[str, ...] = ()
    recorded_as: str = ""

    @classmethod
    def parse(cls, text: str = "native") -> Target:
        """The target of a text, with this machine's cores and caches, or with common caches on another platform.

        If ``TVM_NUM_THREADS`` is set, the target has that many cores.

        Args:
            text: ``native``, this machine; ``native:shared``, ``native:streamed`` or ``native:cold``, this machine with
                other ``caches``;
                ``llvm:MCPU``, another CPU, such as ``llvm:core-avx2``; ``x86-64-v2``, ``-v3`` or ``-v4``, the same with
                ``llvm:`` before it; or ``llvm:MCPU:TRIPLE``, a CPU of another
                architecture, such as ``llvm:cortex-a76:aarch64-linux-gnu``.

        Raises:
            TargetError: there is no such target, or ``TVM_NUM_THREADS`` is not a number of threads.
        """
        cores = wanted_threads()
        set_threads()
        with light_import():
            import tvm

        keep_interrupts()
        if text in _NATIVE:
            mcpu = str(tvm.target.codegen.llvm_get_system_cpu())
            # LLVM goes by the model's number, and a virtual machine may hide some of what the model has.
            hidden = tuple(lacks(_find_extensions(_tvm_target(mcpu, ""))))
            return replace(_describe(mcpu, "", cores, str(tvm.__version__), hidden), caches=_NATIVE[text])
        kind, _, rest = (f"llvm:{text}" if _LEVEL.fullmatch(text) else text).partition(":")
        mcpu, _, triple = rest.partition(":")
        if kind != "llvm" or not mcpu:
            raise TargetError(
                "a target is 'native', 'llvm:MCPU' such as llvm:core-avx2, or 'llvm:MCPU:TRIPLE', but this is "
                f"{text!r}; leave --target out to tune for this machine"
            )
        triple = _check_triple(triple)
        known = {str(name) for name in tvm.target.codegen.llvm_get_cpu_archlist(_tvm_target("", triple))}
        if mcpu not in known:
            near = ", ".join(sorted(name for name in known if name.startswith(mcpu[:4]))[:8])
            raise TargetError(
                f"LLVM knows no CPU called {mcpu!r} for {triple or 'this machine'}; "
                + (f"near it are {near}" if near else "name one of its, or generic")
                + ("" if triple else "; a CPU of another platform needs its triple, as in llvm:MCPU:aarch64-linux-gnu")
            )
        return _describe(mcpu, triple, cores, str(tvm.__version__))

    def with_weights(self, nbytes: int) -> Target:
        """The target for ``nbytes`` bytes of weights, by the caches that they do not fit.

        ``streamed`` if they are more than the last cache holds, ``shared`` if they are more than the second caches of
        all cores hold.
        """
        if self.caches != "warm" or nbytes <= min(self.cores * self.l2, self.l3):
            return self
        return replace(self, caches="streamed" if nbytes > self.l3 else "shared")

    @property
    def otherwise_timed(self) -> tuple[Target, ...]:
        """This machine's targets whose candidates find their data in other caches."""
        return tuple(replace(self, caches=caches) for caches in get_args(Caches) if caches != self.caches)

    @cached_property
    def key(self) -> str:
        """Identity for the records: two machines share records only where this agrees."""
        if self.recorded_as:
            return self.recorded_as
        text = json.dumps(
            [self.mcpu, self.cores, self.machine, self.features, self.l1, self.l2, self.l3, self.tvm_version]
            + ([self.triple] if self.triple else [])
            + ([self.without] if self.without else [])
        )
        suffix = "" if self.caches == "warm" else f"-{self.caches}"
        return f"{self.mcpu}-{self.cores}x-{hashlib.sha256(text.encode()).hexdigest()[:12]}{suffix}"

    @cached_property
    def tvm(self) -> Any:
        """The ``tvm.target.Target``. MetaSchedule refuses one without ``num-cores``."""
        return _tvm_target(self.mcpu, self.triple, self.cores, self.without)

    def __getstate__(self) -> dict[str, object]:
        # Another process makes its own from the fields: to read TVM's would import TVM with PyTorch, 2.4 s of a core.
        return {name: value for name, value in self.__dict__.items() if name != "tvm"}

    @cached_property
    def extensions(self) -> tuple[str, ...]:
        """The extensions that compiled code may use, by LLVM's names, sorted."""
        return _find_extensions(self.tvm)


def _check_triple(triple: str) -> str:
    """The name of another platform; empty if it names this one. Raises ``TargetError`` for one that is not supported.

    LLVM ends the process if it is asked for an architecture that it does not know.
    """
    if not triple:
        return ""
    if not _TRIPLE.fullmatch(triple):
        raise TargetError(
            "a target of another platform is llvm:MCPU:TRIPLE with a triple of Linux on aarch64 or x86_64, such as "
            f"llvm:cortex-a76:aarch64-linux-gnu, but the triple is {triple!r}; correct it"
        )
    here = sys.platform == "linux" and platform.machine() == triple.partition("-")[0]
    return "" if here and triple.endswith("-linux-gnu") and platform.libc_ver()[0] == "glibc" else triple


def _tvm_target(mcpu: str, triple: str, cores: int = 1, without: Sequence[str] = ()) -> Any:
    with light_import():  # in a process that got the target from another one, TVM is imported here
        import tvm

    options: dict[str, Any] = {"kind": "llvm", "num-cores": cores}
    options |= {"mcpu": mcpu} if mcpu else {}
    options |= {"mtriple": triple} if triple else {}
    options |= {"mattr": [f"-{name}" for name in without]} if without else {}
    return tvm.target.Target(options)


def _find_extensions(target: Any) -> tuple[str, ...]:
    import tvm

    has = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(target)}
    return tuple(sorted(has.intersection((*X86, *AARCH64))))


@cache
def _describe(mcpu: str, triple: str, cores: int, tvm_version: str, without: tuple[str, ...] = ()) -> Target:
    import tvm

    target = _tvm_target(mcpu, triple, cores, without)
    wanted = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512vnni", "neon", "sve")
    features = tuple(f for f in wanted if tvm.target.codegen.target_has_features(f, target))
    lanes, registers = 4, 16
    if "avx512f" in features:
        lanes, registers = 16, 32
    elif "avx2" in features or "avx" in features:
        lanes, registers = 8, 16
    elif "neon" in features:
        lanes, registers = 4, 32
    l1, l2, l3 = COMMON_CACHES if triple else cache_sizes()
    machine = mcpu if triple else model_name()
    return Target(mcpu, cores, machine, features, lanes, registers, l1, l2, l3, tvm_version, triple, without=without)
