"""The instructions that multiply quads of bytes: four products of unsigned by signed bytes are added to an int32 sum.

    for l, q: C[l] += int32(A[q]) * int32(W[l, q])      of one vector of sums
    -->
    C[0:lanes] = vpdpbusd(C[0:lanes], broadcast(A[0:4]), W[0:lanes, 0:4])

Which instruction does this is a property of the target: ``vpdpbusd`` (AVX512-VNNI, AVX-VNNI), otherwise ``vpmaddwd`` on
bytes that are widened to pairs of int16, which is exact as well; on Arm ``usdot`` (i8mm), otherwise ``sdot`` (dotprod).
All other targets run plain code, which is what the function of the task says.

``sdot`` multiplies signed by signed bytes, so 128 is subtracted from the data. Either the data of a function are
shifted already, and what follows the sums adds the missing 128 * W. Or each step shifts the data, and adds it:

    A * W = (A - 128) * W + 128 * W
    -->
    C[0:lanes] = sdot(C[0:lanes] + (sdot(0, 1, W[0:lanes, 0:4]) << 7), broadcast(A[0:4]) ^ 0x80, W[0:lanes, 0:4])

Bytes are widened at each use, which takes half as many instructions again. Functions whose numbers are used often have
pairs of int16 instead, widened once: ``multiplies_pairs`` says which targets gain by that.

``vpmaddubsw`` multiplies bytes, but adds two products in int16, and saturates. It is used only for weights of which
``pairs_fit`` has proved that no two products exceed int16. Such a function's block has the annotation ``FITS``.

    C[0:lanes] = C[0:lanes] + vpmaddwd(broadcast(A[0:2]), W[0:lanes, 0:2])

Pairs of bfloat16 numbers are multiplied by ``vdpbf16ps`` (AVX512-BF16) and by ``bfdot`` (Arm, bf16), with float32 sums.
Both treat denormal numbers as zeros, and round sums in their own way. So results differ from those of plain code, as
they do between two orders of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.instructions import LLVM_NAMES, find_instruction
from tilewright.ops.statements import bind_once
from tilewright.target import Target

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorRegion
    from tvm.tirx import SBlock, Stmt

__all__ = [
    "FITS",
    "PAIR",
    "QUAD",
    "SHIFT",
    "DotProduct",
    "Operands",
    "add_quads",
    "find_bf16_product",
    "find_dot_product",
    "multiplies_pairs",
    "multiplies_signed",
    "pairs_fit",
]

#: What is known of unsigned data and signed weights: nothing; no two products exceed int16 together (``pairs_fit``); or
#: data are shifted, so that they are signed.
Operands: TypeAlias = Literal["any", "fitting", "shifted"]
#: The bytes that one instruction adds to a sum.
QUAD = 4
#: The int16 that one instruction adds to a sum.
PAIR = 2
#: The annotation of blocks whose weights are proved to fit: see ``pairs_fit``.
FITS = "tilewright.pairs_fit"
#: Unsigned bytes minus this are signed ones.
SHIFT = 128
#: The largest sum of two weights' sizes for which two products with bytes fit int16: 128 * 255 <= 32767.
_LARGEST = 128
#: The even bytes of a quad.
_EVEN = 0x00FF00FF
#: The highest bit of each byte of a quad, which subtracting 128 flips; and four bytes of 1.
_SIGNS, _ONES = -0x7F7F7F80, 0x01010101
#: The instructions that multiply bfloat16 numbers.
_HALVES = ("vdpbf16ps", "bfdot")


@dataclass(frozen=True)
class DotProduct:
    """An instruction that adds products of quads of bytes, or of pairs of 16 bits, to ``lanes`` sums.

    TVM's ``tensorize`` would do what :meth:`put_into` does, but refuses blocks under a condition (0.27), which tiles
    that stick out have.

    Attributes:
        name: of the instruction.
        lanes: the sums of a vector: int32, or float32 of products of bfloat16 numbers.
        together: 4 for quads of bytes, 2 for pairs of int16 or of bfloat16 numbers.
        shifted: whether the data are bytes minus 128, as int8.
    """

    name: str
    lanes: int
    together: int = QUAD
    shifted: bool = False

    @property
    def adds(self) -> bool:
        """Whether products are added to the sums by another instruction."""
        return self.name.startswith("vpmadd") or (self.name == "sdot" and not self.shifted)

    @property
    def halves(self) -> bool:
        """Whether it multiplies bfloat16 numbers."""
        return self.name in _HALVES

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
        made = tvm.ir.IRModule({"main": function.with_body(bind_once(body))})
        return _with_wrapper(made, self) if self.halves else made

    def _implement(self, block: SBlock) -> SBlock:
        from tvm import s_tir

        sums = block.writes[0]
        operands = [region for region in block.reads if not region.source.same_as(sums.source)]
        if self.together == QUAD:  # shifted data come first, as the expression reads them
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
            sums: int32, or float32 of products of bfloat16 numbers.
            quads: an int32 of unsigned bytes for each sum; of pairs, two int16 for each, or the bits of two bfloat16
                numbers in uint16.
            weights: as many signed bytes, of int8, or int16 or uint16.
        """
        from tvm import tirx

        if self.halves:
            return tirx.call_pure_extern(f"float32x{self.lanes}", _wrapper(self), sums, quads, weights)
        if self.together == PAIR:
            return sums + self._call(quads, weights)
        products = {"vpmaddubsw": self._vpmaddubsw, "vpmaddwd": self._vpmaddwd, "sdot": self._sdot}
        return products.get(self.name, self._unsigned_by_signed)(sums, quads, weights)

    def _quads(self, data: TensorRegion) -> Expr:
        """The quad of all sums, as int32."""
        from tvm import tirx

        return tirx.Broadcast(tirx.reinterpret("int32", _load(data, QUAD)), self.lanes)

    def _pairs(self, data: TensorRegion) -> Expr:
        """The pair of all sums, as int16 or uint16."""
        from tvm import tirx

        both = tirx.Broadcast(tirx.reinterpret("int32", _load(data, PAIR)), self.lanes)
        return tirx.reinterpret(f"{'uint16' if self.halves else 'int16'}x{PAIR * self.lanes}", both)

    def _unsigned_by_signed(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        from tvm import tirx

        return self._call(sums, tirx.reinterpret(f"uint8x{self.lanes * QUAD}", quads), weights)

    def _sdot(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        """Both operands are signed. If data were not shifted before, what is missing depends on the weights alone."""
        from tvm import tirx

        def constant(value: int) -> Expr:
            return tirx.Broadcast(tirx.const(value, "int32"), self.lanes)

        kind = f"int8x{self.lanes * QUAD}"
        if self.shifted:
            return self._call(sums, tirx.reinterpret(kind, quads), weights)
        rest = self._call(constant(0), tirx.reinterpret(kind, constant(_ONES)), weights) << constant(7)
        return self._call(sums + rest, tirx.reinterpret(kind, quads ^ constant(_SIGNS)), weights)

    def _vpmaddubsw(self, sums: Expr, quads: Expr, weights: Expr) -> Expr:
        """Two products of bytes make an int16, which is exact for weights that fit. Two of these make an int32."""
        from tvm import tirx

        ones = tirx.Broadcast(tirx.const(1, "int16"), PAIR * self.lanes)
        data = tirx.reinterpret(f"uint8x{QUAD * self.lanes}", quads)
        name = LLVM_NAMES[self.name, self.lanes]
        halves = tirx.call_llvm_pure_intrin(f"int16x{PAIR * self.lanes}", name, data, weights)
        pairs = tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", LLVM_NAMES["vpmaddwd", self.lanes], halves, ones)
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

        return tirx.call_llvm_pure_intrin(f"int32x{self.lanes}", LLVM_NAMES[self.name, self.lanes], *arguments)


def find_dot_product(target: Target, lanes: int, together: int = QUAD, operands: Operands = "any") -> DotProduct | None:
    """The best instruction of the target for vectors of ``lanes`` sums of bytes or int16; None if it has none.

    Args:
        target: the machine.
        lanes: of the vectors.
        together: the products that one sum gets at once: 4 of bytes, 2 of int16, or 1, for which there is none.
        operands: what is known of bytes.
    """
    shifted = operands == "shifted"
    able = {QUAD: {"vpdpbusd", "vpmaddwd", "usdot", "sdot"}, PAIR: {"vpmaddwd"}}.get(together, set())
    able |= {"vpmaddubsw"} if operands == "fitting" and together == QUAD else set()
    name = find_instruction(target, lanes, {"sdot"} if shifted else able)
    return None if name is None else DotProduct(name, lanes, together, shifted)


def find_bf16_product(target: Target, lanes: int) -> DotProduct | None:
    """The target's instruction for vectors of ``lanes`` sums of pairs of bfloat16 numbers; None if it has none."""
    name = find_instruction(target, lanes, _HALVES)
    return None if name is None else DotProduct(name, lanes, PAIR)


def multiplies_signed(target: Target) -> bool:
    """Whether the target's best instruction for bytes takes signed data."""
    dot = find_dot_product(target, target.lanes)
    return dot is not None and dot.name == "sdot"


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


def _wrapper(dot: DotProduct) -> str:
    """The name of the function in LLVM's language that calls the instruction."""
    return f"tilewright_{dot.name}_{dot.lanes}"


def _with_wrapper(module: IRModule, dot: DotProduct) -> IRModule:
    """The module with a function in LLVM's language that takes the bits of bfloat16 numbers as int16.

    TVM 0.27 makes float32 of every bfloat16, also of an operand of an instruction. So none is in the program.
    """
    from tvm.s_tir import Schedule

    sums, numbers = f"<{dot.lanes} x float>", f"<{PAIR * dot.lanes} x bfloat>"
    bits, name = f"<{PAIR * dot.lanes} x i16>", LLVM_NAMES[dot.name, dot.lanes]
    text = f"""
declare {sums} @{name}({sums}, {numbers}, {numbers})
define linkonce_odr hidden {sums} @{_wrapper(dot)}({sums} %sums, {bits} %data, {bits} %weights) alwaysinline nounwind {{
  %a = bitcast {bits} %data to {numbers}
  %w = bitcast {bits} %weights to {numbers}
  %r = call {sums} @{name}({sums} %sums, {numbers} %a, {numbers} %w)
  ret {sums} %r
}}
"""
    schedule = Schedule(module)
    schedule.annotate(schedule.get_sblock("root"), "pragma_import_llvm", text)
    return schedule.mod


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
