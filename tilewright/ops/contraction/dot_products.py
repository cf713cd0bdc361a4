"""The instructions that multiply quads of bytes: four products of unsigned by signed bytes are added to an int32 sum.

    for l, q: C[l] += int32(A[q]) * int32(W[l, q])      of one vector of sums
    -->
    C[0:lanes] = vpdpbusd(C[0:lanes], broadcast(A[0:4]), W[0:lanes, 0:4])

Which instruction does this is a property of the target: ``vpdpbusd`` (AVX512-VNNI, AVX-VNNI), otherwise ``vpmaddwd`` on
bytes that are widened to pairs of int16, which is exact as well. All other targets run plain code, which is what the
function of the task says.

Bytes are widened at each use, which takes half as many instructions again. Functions whose numbers are used often have
pairs of int16 instead, widened once: ``multiplies_pairs`` says which targets gain by that.

``vpmaddubsw`` multiplies bytes, but adds two products in int16, and saturates. It is used only for weights of which
``pairs_fit`` has proved that no two products exceed int16. Such a function's block has the annotation ``FITS``.

    C[0:lanes] = C[0:lanes] + vpmaddwd(broadcast(A[0:2]), W[0:lanes, 0:2])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.statements import bind_once
from tilewright.target import Target

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorRegion
    from tvm.tirx import SBlock, Stmt

__all__ = ["FITS", "PAIR", "QUAD", "DotProduct", "add_quads", "find_dot_product", "multiplies_pairs", "pairs_fit"]

#: The bytes that one instruction adds to a sum.
QUAD = 4
#: The int16 that one instruction adds to a sum.
PAIR = 2
#: The annotation of blocks whose weights are proved to fit: see ``pairs_fit``.
FITS = "tilewright.pairs_fit"
#: The largest sum of two weights' sizes for which two products with bytes fit int16: 128 * 255 <= 32767.
_LARGEST = 128
#: The even bytes of a quad.
_EVEN = 0x00FF00FF


@dataclass(frozen=True)
class DotProduct:
    """An instruction that adds products of quads of bytes, or of pairs of int16, to ``lanes`` sums.

    TVM's ``tensorize`` would do what :meth:`put_into` does, but refuses blocks under a condition (0.27), which tiles
    that stick out have.

    Attributes:
        name: of the instruction.
        lanes: the int32 sums of a vector.
        together: 4 for quads of bytes, 2 for pairs of int16.
    """

    name: str
    lanes: int
    together: int = QUAD

    @property
    def adds(self) -> bool:
        """Whether products are added to the sums by another instruction."""
        return self.name != "vpdpbusd"

    def put_into(self, module: IRModule, block: str) -> IRModule:
        """The module whose function has the instruction in place of the loops of a block.

        Args:
            module: holds the function ``main``.
            block: the name of the block, which adds the products of one quad or pair to one vector of sums.
        """
        import tvm
        from tvm import s_tir
        from tvm_ffi import structural_map

        def replace(node: SBlock) -> SBlock:
            return self._implement(node) if node.name_hint == block else node

        function = module["main"]
        body = structural_map(function.body, (s_tir.SBlock, replace))
        return tvm.ir.IRModule({"main": function.with_body(bind_once(body))})

    def _implement(self, block: SBlock) -> SBlock:
        from tvm import s_tir

        sums = block.writes[0]
        operands = [region for region in block.reads if not region.source.same_as(sums.source)]
        if self.together == QUAD:
            operands.sort(key=lambda region: str(region.source.ty.dtype) != "uint8")
        else:  # both are int16, and the weights have the lanes besides
            operands.sort(key=_extent)
        data, weights = operands
        return s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, self._statement(sums, data, weights)
        )

    def _statement(self, sums: TensorRegion, data: TensorRegion, weights: TensorRegion) -> Stmt:
        from tvm import tirx

        numbers = self._quads(data) if self.together == QUAD else self._pairs(data)
        after = self.add(_load(sums, self.lanes), numbers, _load(weights, self.lanes * self.together))
        return tirx.BufferStore(sums.source, after, _indices(sums, self.lanes))

    def add(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        """The sums plus the products of quads or pairs.

        Args:
            sums: int32.
            quads: an int32 of unsigned bytes for each sum; of pairs, two int16 for each.
            weights: as many signed bytes, of int8, or int16.
        """
        if self.together == PAIR:
            return sums + self._call(quads, weights)
        products = {"vpdpbusd": self._vpdpbusd, "vpmaddubsw": self._vpmaddubsw}.get(self.name, self._vpmaddwd)
        return products(sums, quads, weights)

    def _quads(self, data: TensorRegion) -> Expr:
        """The quad of all sums, as int32."""
        from tvm import tirx

        return tirx.Broadcast(tirx.reinterpret("int32", _load(data, QUAD)), self.lanes)

    def _pairs(self, data: TensorRegion) -> Expr:
        """The pair of all sums, as int16."""
        from tvm import tirx

        both = tirx.Broadcast(tirx.reinterpret("int32", _load(data, PAIR)), self.lanes)
        return tirx.reinterpret(f"int16x{PAIR * self.lanes}", both)

    def _vpdpbusd(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        from tvm import tirx

        return self._call(sums, tirx.reinterpret(f"uint8x{self.lanes * QUAD}", quads), weights)

    def _vpmaddubsw(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        """Two products of bytes make an int16, which is exact for weights that fit. Two of these make an int32."""
        from tvm import tirx

        ones = tirx.Broadcast(tirx.const(1, "int16"), PAIR * self.lanes)
        data = tirx.reinterpret(f"uint8x{QUAD * self.lanes}", quads)
        name = _LLVM[self.name, self.lanes]
        halves = tirx.call_llvm_pure_intrin(f"int16x{PAIR * self.lanes}", name, data, weights)
        pairs = tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", _LLVM["vpmaddwd", self.lanes], halves, ones)
        return sums + pairs

    def _vpmaddwd(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        """Even and odd bytes make pairs of int16 of their own. Data are unsigned, and weights keep their sign."""
        from tvm import tirx

        kind = f"int16x{2 * self.lanes}"
        eight = tirx.Broadcast(tirx.const(8, "int16"), 2 * self.lanes)
        pairs = tirx.reinterpret(kind, weights)

        def spread(numbers: Expr) -> Expr:
            mask = tirx.Broadcast(tirx.const(_EVEN, "int32"), self.lanes)
            return tirx.reinterpret(kind, numbers & mask)

        even = self._call(spread(quads), (pairs << eight) >> eight)
        odd = self._call(spread(quads >> tirx.Broadcast(tirx.const(8, "int32"), self.lanes)), pairs >> eight)
        return sums + even + odd

    def _call(self, *arguments: Expr) -> Expr:
        from tvm import tirx

        return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", _LLVM[self.name, self.lanes], *arguments)


#: The instructions of x86-64 by the extensions that they need, the best first: extensions, name, and lanes.
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
)
#: LLVM's names of the instructions.
_LLVM = {
    ("vpdpbusd", 16): "llvm.x86.avx512.vpdpbusd.512",
    ("vpdpbusd", 8): "llvm.x86.avx512.vpdpbusd.256",
    ("vpdpbusd", 4): "llvm.x86.avx512.vpdpbusd.128",
    ("vpmaddubsw", 16): "llvm.x86.avx512.pmaddubs.w.512",
    ("vpmaddubsw", 8): "llvm.x86.avx2.pmadd.ub.sw",
    ("vpmaddubsw", 4): "llvm.x86.ssse3.pmadd.ub.sw.128",
    ("vpmaddwd", 16): "llvm.x86.avx512.pmaddw.d.512",
    ("vpmaddwd", 8): "llvm.x86.avx2.pmadd.wd",
    ("vpmaddwd", 4): "llvm.x86.sse2.pmadd.wd",
}


def find_dot_product(target: Target, lanes: int, together: int = QUAD, fits: bool = False) -> DotProduct | None:
    """The best instruction of the target for vectors of ``lanes`` sums; None if it has none.

    Args:
        target: the machine.
        lanes: of the vectors.
        together: the products that one sum gets at once: 4 of bytes, 2 of int16, or 1, for which there is none.
        fits: whether no two products exceed int16 together (:func:`pairs_fit`).
    """
    has = {*target.extensions}
    able = {QUAD: {"vpdpbusd", "vpmaddwd"}, PAIR: {"vpmaddwd"}}.get(together, set())
    able |= {"vpmaddubsw"} if fits and together == QUAD else set()
    names = (name for needs, name, count in _INSTRUCTIONS if count == lanes and needs <= has and name in able)
    name = next(names, None)
    return None if name is None else DotProduct(name, lanes, together)


def multiplies_pairs(target: Target) -> bool:
    """Whether the target's best instruction for bytes widens them to pairs of int16."""
    dot = find_dot_product(target, target.lanes)
    return dot is not None and dot.name == "vpmaddwd"


def pairs_fit(weights: NDArray[np.generic]) -> bool:
    """Whether no two neighbouring weights make products with bytes (0 to 255) whose sum exceeds int16.

    This is the proof that ``vpmaddubsw`` does not saturate. Weights of 7 bits (``reduce_range``) always fit.

    Args:
        weights: of int8. The last axis has an even length.
    """
    sizes = np.abs(weights.astype(np.int16))
    return bool((sizes[..., ::2] + sizes[..., 1::2]).max(initial=0) <= _LARGEST)


def add_quads(instruction: DotProduct | None, lanes: int, sums: Expr, quads: Expr, weights: Expr) -> Expr:
    """The sums plus the products of quads, by plain code where there is no instruction.

    Args:
        instruction: of the target, for vectors of ``lanes`` sums.
        lanes: of the vectors, at least 2.
        sums: int32.
        quads: an int32 of unsigned bytes for each sum, or of two int16.
        weights: an int32 of signed bytes for each sum, or of two int16.
    """
    from tvm import tirx

    if instruction is not None:
        if instruction.together == PAIR:
            kind = f"int16x{PAIR * lanes}"
            return instruction.add(sums, tirx.reinterpret(kind, quads), tirx.reinterpret(kind, weights))
        return instruction.add(sums, quads, tirx.reinterpret(f"int8x{QUAD * lanes}", weights))

    def constant(value: int) -> Expr:
        return tirx.Broadcast(tirx.const(value, "int32"), lanes)

    for place in range(QUAD):
        byte = (quads >> constant(8 * place)) & constant(255)
        weight = (weights << constant(24 - 8 * place)) >> constant(24)
        sums = sums + byte * weight
    return sums


def _extent(region: TensorRegion) -> int:
    return math.prod(int(extent.extent) for extent in region.region)


def _indices(region: TensorRegion, count: int) -> Sequence[Expr]:
    """The indices of the ``count`` elements that a region begins with. They lie side by side."""
    from tvm import tirx

    first = [extent.min for extent in region.region]
    return [*first[:-1], tirx.Ramp(first[-1], tirx.const(1, str(first[-1].ty.dtype)), count)]


def _load(region: TensorRegion, count: int) -> Expr:
    from tvm import tirx

    return tirx.BufferLoad(region.source, _indices(region, count))
