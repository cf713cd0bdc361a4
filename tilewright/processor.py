"""The processor of this machine, as the operating system describes it."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

__all__ = ["AARCH64", "COMMON_CACHES", "X86", "cache_sizes", "count_cores", "lacks", "model_name"]

#: Data caches of the three levels in bytes, where they are not known. (A choice.)
COMMON_CACHES = (32 << 10, 512 << 10, 8 << 20)
#: Extensions that LLVM may use by itself if ``-mcpu`` has them; ``cpu.h`` has the same names. LLVM uses others
#: (``aes``, ``rdrnd``) for intrinsics only, which no kernel calls.
X86 = (
    *("sse3", "ssse3", "sse4.1", "sse4.2", "sse4a", "movbe", "popcnt", "lzcnt", "bmi", "bmi2", "tbm", "gfni"),
    *("avx", "avx2", "fma", "fma4", "xop", "f16c", "avxvnni", "avxvnniint8", "avxvnniint16", "avxifma", "avxneconvert"),
    *("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512vbmi2"),
    *("avx512vnni", "avx512bitalg", "avx512vpopcntdq", "avx512bf16", "avx512fp16"),
    *("egpr", "ndd", "ccmp", "nf", "ppx", "push2pop2", "zu"),
)
AARCH64 = (
    *("fp-armv8", "neon", "lse", "lse2", "rcpc", "rcpc-immo", "rdm", "fullfp16", "dotprod", "fp16fml", "complxnum"),
    *("jsconv", "flagm", "altnzcv", "fptoint", "sha3", "bf16", "i8mm", "cssc", "mops", "hbc"),
    *("sve", "sve2", "sve2p1", "f32mm", "f64mm", "sme", "sme2"),
)
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


def lacks(needed: Iterable[str]) -> list[str]:
    """Those extensions of ``needed`` that Linux does not list for this processor.

    A virtual machine may hide some of what a processor of its model has.

    Args:
        needed: LLVM's names. An unknown name counts as missing. Where Linux describes nothing, nothing is missing.
    """
    flags = _linux_flags()
    return [name for name in needed if _LINUX.get(name, name) not in flags] if flags else []


def cache_sizes() -> tuple[int, int, int]:
    """Data cache sizes of the first core in bytes; common ones where the system does not tell.

    Of a machine that has no third level the last one counts.
    """
    sizes: dict[int, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
            scale = {"K": 1 << 10, "M": 1 << 20}.get(text[-1])
            sizes[int((index / "level").read_text())] = int(text[:-1]) * scale if scale else int(text)
        except (OSError, ValueError):
            continue
    if not sizes:
        return COMMON_CACHES
    l1 = sizes.get(1, 32 << 10)
    l2 = sizes.get(2, l1)
    return l1, l2, sizes.get(3, l2)


def count_cores(processors: Collection[int], root: Path = Path("/")) -> int:
    """How many cores some logical processors are, for code that keeps the units of a core busy.

    The logical processors of one core (hyper-threads) count as one. A core with less than half the capacity of the
    best one (LITTLE cores) does not count: the others would wait for the part of a loop that it has taken last. The C
    runtime counts alike (``executable/runtime/cores.h``).

    Args:
        processors: their numbers, at least one.
        root: where ``sys`` is. Processors that are not described there are cores of their own.
    """
    folder = root / "sys/devices/system/cpu"
    capacities = {cpu: _read_number(folder / f"cpu{cpu}/cpu_capacity", 1024) for cpu in processors}
    best = max(capacities.values())
    able = [cpu for cpu, capacity in capacities.items() if 2 * capacity >= best]
    return len({_first_of_core(folder / f"cpu{cpu}/topology/thread_siblings_list", cpu, processors) for cpu in able})


def _first_of_core(siblings: Path, cpu: int, processors: Collection[int]) -> int:
    """The first of the given logical processors that are on one core with ``cpu``, by a list such as ``0,64``."""
    try:
        ends = [part.partition("-") for part in siblings.read_text(encoding="ascii").strip().split(",")]
        listed = [n for first, _, last in ends for n in range(int(first), int(last or first) + 1)]
    except (OSError, ValueError):
        return cpu
    return min((n for n in listed if n in processors), default=cpu)


def _read_number(path: Path, otherwise: int) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return otherwise


def model_name() -> str:
    """The CPU's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _linux_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(_LISTS):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
