"""Tensor expressions of products with weights of 4 bits, in blocks along the reduction that have a scale each.

A word of 32 bits holds the levels of eight neighbouring inputs of one output, the first one in its lowest bits. The
number of a level is ``(level - zero) * scale``, with a scale and a zero point for each block of inputs and each output.

    word shifted, so that a level is in the bits 19 to 22
    & 0x00780000 | 0x3F800000              the bits of the float32 number 1 + level / 16
    * (16 * scale) - (16 + zero) * scale   the number, rounded once

Both factors belong to the block, so a level becomes a number with three instructions: a shift, a selection of bits, and
a multiply-add. Its error is below 2^-18 of the scale, for ``(16 + zero) * scale`` is rounded, too. Products of few rows
do so in registers, just before each number is used. Products of many rows write the numbers of a block of outputs to
memory, and all rows read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.contraction.form import BLOCK, PACK, PAD, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, OPAQUE, make_function

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["NIBBLES", "WORD", "NibbleForm", "nibble_dense", "nibble_panels", "plain_nibbles"]

#: The attribute of the importer's function (:func:`plain_nibbles`), by which the graph knows it: the inputs of a block.
NIBBLES = "tilewright.nibbles"
#: The levels in a word.
WORD = 8
#: The zero point of weights that have none.
_MIDDLE = 8
#: The bits of 1 in float32, and the four highest bits of its mantissa, with the place of the lowest of them.
_ONE, _HIGHEST, _PLACE = 0x3F800000, 0x00780000, 19


@dataclass(frozen=True)
class NibbleForm:
    """A matrix of weights ``(depth, outputs)`` of 4 bits.

    Attributes:
        depth: the inputs, K.
        outputs: the outputs, N.
        block: the inputs that share a scale, a multiple of 8.
        zeros: the dtype of zero points, ``uint8`` or ``float32``; empty: all are 8.
    """

    depth: int
    outputs: int
    block: int
    zeros: str = ""

    @property
    def blocks(self) -> int:
        """The blocks along the inputs. The last one may stick out."""
        return -(-self.depth // self.block)

    @property
    def words(self) -> int:
        """The words of one output."""
        return self.blocks * self.block // WORD


@lru_cache(KEPT)
def nibble_dense(rows: int, form: NibbleForm, x: int) -> PrimFunc:
    """``(m, K)`` data times weights of 4 bits. Gives a PrimFunc (data, words, scales, [zeros,] output ``(m, N)``).

    Words have the shape ``(ceil(N/x), words, x)`` and the dtype uint32; scales and zero points ``(ceil(N/x), blocks,
    x)``. If the last block sticks out, the data are padded with zeros.

    Args:
        rows: m, a few.
        form: of the weights.
        x: outputs in a block of the packed weights.
    """
    from tvm import te, tirx

    weight = _Packed(form, x)
    a = te.placeholder((rows, form.depth), name="data")
    whole = form.blocks * form.block
    source = a
    if whole > form.depth:
        source = te.compute(
            (rows, whole),
            lambda m, k: te.if_then_else(k < form.depth, a(m, tirx.min(k, form.depth - 1)), 0.0),
            name=PAD,
        )
    rb, rw = te.reduce_axis((0, form.blocks), "rb"), te.reduce_axis((0, form.block // WORD), "rw")
    ri = te.reduce_axis((0, WORD), "ri")

    def product(m: Expr, o: Expr, v: Expr) -> Expr:
        word = weight.words(o, rb * (form.block // WORD) + rw, v)
        number = weight.number(_move_known(word, ri), (o, rb, v))
        return te.sum(source(m, rb * form.block + rw * WORD + ri) * number, axis=[rb, rw, ri])

    c = te.compute((rows, weight.count, x), product, name=BLOCK, attrs=mark_roles("pol/rrr"))
    y = te.compute((rows, form.outputs), lambda m, n: c[m, n // x, n % x], name="unpack")
    return make_function([a, *weight.tensors, y], FUSABLE)


@lru_cache(KEPT)
def nibble_panels(rows: int, form: NibbleForm, x: int) -> PrimFunc:
    """As :func:`nibble_dense` for many rows: the numbers of a block of outputs are written to memory before their use.

    Gives a PrimFunc (data, words, scales, [zeros,] output ``(1, m, N)``).
    """
    from tvm import te

    weight = _Packed(form, x)
    a = te.placeholder((rows, form.depth), name="data")

    def panel(b: Expr, o: Expr, k: Expr, v: Expr) -> Expr:
        return weight.number(_move(weight.words(o, k // WORD, v), k % WORD), (o, k // form.block, v))

    p = te.compute((1, weight.count, form.depth, x), panel, name=PACK)
    r = te.reduce_axis((0, form.depth), "k")
    c = te.compute(
        (1, rows, weight.count, x),
        lambda b, m, o, v: te.sum(a(m, r) * p(b, o, r, v), axis=[r]),
        name=BLOCK,
        attrs=mark_roles("bpol/r"),
    )
    y = te.compute((1, rows, form.outputs), lambda b, m, n: c[b, m, n // x, n % x], name="unpack")
    return make_function([a, *weight.tensors, y], FUSABLE)


@lru_cache(KEPT)
def plain_nibbles(rows: int, form: NibbleForm) -> PrimFunc:
    """The product as an importer has it. Gives a PrimFunc (data ``(m, K)``, bytes, scales, [zeros,] output ``(m, N)``).

    Bytes have the shape ``(N, blocks, block/2)``, with the first of two levels in the lower bits. Scales have
    ``(N * blocks,)``, and so have zero points of float32; those of uint8 have ``(N * ceil(blocks/2),)``, two in a byte.

    Args:
        rows: m.
        form: of the weights.
    """
    from tvm import te, tirx

    a = te.placeholder((rows, form.depth), name="data")
    w = te.placeholder((form.outputs, form.blocks, form.block // 2), "uint8", name="weight")
    s = te.placeholder((form.outputs * form.blocks,), name="scale")
    pairs = -(-form.blocks // 2)
    moved = [te.placeholder((form.outputs * form.blocks,), name="zero")] if form.zeros == "float32" else []
    if form.zeros == "uint8":
        moved = [te.placeholder((form.outputs * pairs,), "uint8", name="zero")]

    def half(byte: Expr, place: Expr) -> Expr:
        bits = byte.astype("int32") >> (place % 2 * 4).astype("int32")
        return (bits & tirx.const(15, "int32")).astype("float32")

    def zero(n: Expr, b: Expr) -> Expr:
        if not moved:
            return tirx.const(float(_MIDDLE), "float32")
        return moved[0](n * form.blocks + b) if form.zeros == "float32" else half(moved[0](n * pairs + b // 2), b)

    k = te.reduce_axis((0, form.depth), "k")

    def product(m: Expr, n: Expr) -> Expr:
        b = k // form.block
        level = half(w(n, b, k % form.block // 2), k)
        return te.sum(a(m, k) * ((level - zero(n, b)) * s(n * form.blocks + b)), axis=[k])

    y = te.compute((rows, form.outputs), product, name="nibbles")
    return make_function([a, w, s, *moved, y], OPAQUE).with_attr(NIBBLES, str(form.block))


class _Packed:
    """The tensors of packed weights.

    Attributes:
        count: blocks of outputs.
        words: the levels.
        tensors: the words, the scales, and the zero points if there are any.
    """

    def __init__(self, form: NibbleForm, x: int) -> None:
        from tvm import te

        self.count = -(-form.outputs // x)
        self.words: Tensor = te.placeholder((self.count, form.words, x), "uint32", name="weight")
        shape = (self.count, form.blocks, x)
        self._scales = te.placeholder(shape, name="scale")
        self._zeros = te.placeholder(shape, form.zeros, name="zero") if form.zeros else None
        self.tensors = [self.words, self._scales, *([] if self._zeros is None else [self._zeros])]

    def number(self, bits: Expr, block: tuple[Expr, Expr, Expr]) -> Expr:
        """The number of one level.

        Args:
            bits: the level in the four highest bits of a mantissa, and 0 elsewhere.
            block: the indices of its scale.
        """
        from tvm import tirx

        level = tirx.reinterpret("float32", bits | tirx.const(_ONE, "uint32"))
        scale = self._scales(*block)
        zero = tirx.const(float(_MIDDLE), "float32") if self._zeros is None else self._zeros(*block).astype("float32")
        return level * (scale * tirx.const(16.0, "float32")) - scale * (zero + tirx.const(16.0, "float32"))


def _move_known(word: Expr, place: Expr) -> Expr:
    """A level in the four highest bits of a mantissa, by one shift if its place in the word is a constant of the code.

    The level that begins at bit 16 moves by 3 bits to the left, and the next one by 1 bit to the right.
    """
    from tvm import tirx

    beyond = place * 4 - _PLACE
    right, left = (tirx.max(amount, 0).astype("uint32") for amount in (beyond, -beyond))
    moved = (word >> right) << left  # one of both moves by nothing
    return moved & tirx.const(_HIGHEST, "uint32")


def _move(word: Expr, place: Expr) -> Expr:
    """A level in the four highest bits of a mantissa, for any place in the word: right to the end, then left."""
    from tvm import tirx

    lowest = word >> (place * 4).astype("uint32")
    return (lowest << tirx.const(_PLACE, "uint32")) & tirx.const(_HIGHEST, "uint32")
