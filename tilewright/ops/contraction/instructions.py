"""Which instructions for dot products a target has."""

from __future__ import annotations

from collections.abc import Collection

from tilewright.target import Target

__all__ = ["LLVM_NAMES", "find_instruction"]

#: The instructions by the extensions that they need, the best first: extensions, name, and lanes.
_INSTRUCTIONS: tuple[tuple[frozenset[str], str, int], ...] = (
    (frozenset({"avx512vnni"}), "vpdpbusd", 16),
    (frozenset({"avx512vnni", "avx512vl"}), "vpdpbusd", 8),
    (frozenset({"avxvnni"}), "vpdpbusd", 8),
    (frozenset({"avx512vnni", "avx512vl"}), "vpdpbusd", 4),
    (frozenset({"avxvnni"}), "vpdpbusd", 4),
    (frozenset({"avx512bw"}), "vpmaddubsw", 16),
    (frozenset({"avx2"}), "vpmaddubsw", 8),
    (frozenset({"ssse3"}), "vpmaddubsw", 4),
    (frozenset({"avx512bw"}), "vpmaddwd", 16),
    (frozenset({"avx2"}), "vpmaddwd", 8),
    (frozenset({"sse4.1"}), "vpmaddwd", 4),
    (frozenset({"neon", "i8mm"}), "usdot", 4),
    (frozenset({"neon", "dotprod"}), "sdot", 4),
    (frozenset({"avx512bf16"}), "vdpbf16ps", 16),
    (frozenset({"avx512bf16", "avx512vl"}), "vdpbf16ps", 8),
    (frozenset({"avx512bf16", "avx512vl"}), "vdpbf16ps", 4),
    (frozenset({"neon", "bf16"}), "bfdot", 4),
)
#: LLVM's names of the instructions, by name and lanes.
LLVM_NAMES = {
    ("vpdpbusd", 16): "llvm.x86.avx512.vpdpbusd.512",
    ("vpdpbusd", 8): "llvm.x86.avx512.vpdpbusd.256",
    ("vpdpbusd", 4): "llvm.x86.avx512.vpdpbusd.128",
    ("vpmaddubsw", 16): "llvm.x86.avx512.pmaddubs.w.512",
    ("vpmaddubsw", 8): "llvm.x86.avx2.pmadd.ub.sw",
    ("vpmaddubsw", 4): "llvm.x86.ssse3.pmadd.ub.sw.128",
    ("vpmaddwd", 16): "llvm.x86.avx512.pmaddw.d.512",
    ("vpmaddwd", 8): "llvm.x86.avx2.pmadd.wd",
    ("vpmaddwd", 4): "llvm.x86.sse2.pmadd.wd",
    ("usdot", 4): "llvm.aarch64.neon.usdot",
    ("sdot", 4): "llvm.aarch64.neon.sdot",
    ("vdpbf16ps", 16): "llvm.x86.avx512bf16.dpbf16ps.512",
    ("vdpbf16ps", 8): "llvm.x86.avx512bf16.dpbf16ps.256",
    ("vdpbf16ps", 4): "llvm.x86.avx512bf16.dpbf16ps.128",
    ("bfdot", 4): "llvm.aarch64.neon.bfdot.v4f32.v8bf16",
}


def find_instruction(target: Target, lanes: int, able: Collection[str]) -> str | None:
    """The name of the target's best instruction among those of ``able``; None if it has none of them.

    Args:
        target: the machine.
        lanes: the sums of a vector.
        able: names of instructions that do what is wanted.
    """
    has = {*target.extensions}
    return next((name for needs, name, n in _INSTRUCTIONS if n == lanes and needs <= has and name in able), None)
