"""Lookups of vectors of bytes in tables of 256 bytes, by instructions that permute the bytes of registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr, Var

__all__ = ["look_up_by_permutations", "look_up_by_shuffles"]

#: Lanes of the vectors that ``look_up_by_permutations`` and ``look_up_by_shuffles`` make.
_PERMUTED, _SHUFFLED = 64, 16
#: Rows of 16 bytes among which bits of a place choose, after shuffles of all of them.
_CHOSEN = 4


def look_up_by_permutations(table: Var, index: Expr, lanes: int) -> Expr:
    """The bytes at a vector of places, by two permutations of half of the table each (``vpermi2b``, AVX512-VBMI).

        table[indices]  -->  select(indices < 128, vpermi2b(table[0:128], indices), vpermi2b(table[128:256], indices))

    Args:
        table: a buffer of 256 bytes.
        index: the places, a vector of integers below 256.
        lanes: of the vector, at most 64.
    """
    from tvm import tirx

    wide = _take(_bytes_of(index, lanes), [i % lanes for i in range(_PERMUTED)])
    quarters = [tirx.BufferLoad(table, [tirx.Ramp(begin, 1, 64)]) for begin in (0, 64, 128, 192)]
    halves = [
        tirx.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", first, wide, second)
        for first, second in (quarters[:2], quarters[2:])
    ]
    below = tirx.LT(wide, tirx.Broadcast(tirx.const(128, "uint8"), _PERMUTED))
    return _take(tirx.Select(below, *halves), list(range(lanes)))


def look_up_by_shuffles(table: Var, index: Expr, lanes: int) -> Expr:
    """The bytes at a vector of places, by eight shuffles of 32 bytes for each 16, or 16 for 32 (``vpshufb``, AVX2).

    ``vpshufb`` looks up places in a row of 16 bytes, and gives 0 for negative places. One half of a register looks up x
    in the lower half of the table, the other x - 128 in the upper half. Half of a table has eight rows. Rows q and
    q + 4 share a shuffle of both halves, and bits 4 and 5 of x choose q:

        R[q] = row[q], where x >= 0, xor (row[q + 4] xor row[q]), where x - 64 >= 0         likewise for the upper half
        table[x] = (R[0][x % 16], R[1][x % 16], R[2][x % 16], R[3][x % 16])[x / 16 % 4]

    32 bytes take 36 instructions (4.2 ns on a Zen 3; 5.6 where each row has a subtraction and an addition of its own).

    Args:
        table: a buffer of 256 bytes.
        index: the places, a vector of integers below 256.
        lanes: of the vector.
    """
    from tvm import tirx

    own = _bytes_of(index, lanes)
    if lanes == 2 * _SHUFFLED:
        return _look_up_register(table, own)
    rows = _rows_of(table, (0, 128))
    found = []
    for begin in range(0, lanes, _SHUFFLED):
        places = [min(begin + i % _SHUFFLED, lanes - 1) for i in range(2 * _SHUFFLED)]
        found.append(_shuffle(rows, _take(own, places)))
    count = min(lanes, _SHUFFLED)
    if len(found) == 1:
        return _take(found[0], list(range(count)))
    return tirx.Shuffle(found, [tirx.const(i, "int32") for i in range(lanes)])


def _look_up_register(table: Var, places: Expr) -> Expr:
    """The bytes at a vector of 32 places, by 16 shuffles: all lanes look up in both halves of the table."""
    from tvm import tirx

    upper = tirx.Broadcast(tirx.const(128, "uint8"), 2 * _SHUFFLED)
    halves = [
        _shuffle_all(_rows_of(table, (half, half)), own)
        for half, own in ((0, places), (128, tirx.bitwise_xor(places, upper)))
    ]
    return _choose([tirx.bitwise_xor(*both) for both in zip(*halves, strict=True)], places)


def _rows_of(table: Var, begins: tuple[int, int]) -> list[tuple[Expr, Expr]]:
    """For each q below 4, the row q, and what changes it to the row q + 4, of the halves that begin at ``begins``."""
    from tvm import tirx

    def row(number: int) -> Expr:
        places = [begin + _SHUFFLED * number for begin in begins]
        halves = [tirx.BufferLoad(table, [tirx.Ramp(place, 1, _SHUFFLED)]) for place in places]
        return tirx.Shuffle(halves, [tirx.const(i, "int32") for i in range(2 * _SHUFFLED)])

    return [(row(q), tirx.bitwise_xor(row(q), row(q + _CHOSEN))) for q in range(_CHOSEN)]


def _shuffle(rows: list[tuple[Expr, Expr]], twice: Expr) -> Expr:
    """The 16 bytes at the places in ``twice``, a vector that holds each place twice."""
    from tvm import tirx

    upper = tirx.Shuffle(
        [tirx.Broadcast(tirx.const(number, "uint8"), _SHUFFLED) for number in (0, 128)],
        [tirx.const(i, "int32") for i in range(2 * _SHUFFLED)],
    )
    total = _choose(_shuffle_all(rows, tirx.bitwise_xor(twice, upper)), twice)
    lower, higher = (_take(total, [begin + i for i in range(_SHUFFLED)]) for begin in (0, _SHUFFLED))
    return tirx.bitwise_xor(lower, higher)


def _shuffle_all(rows: list[tuple[Expr, Expr]], places: Expr) -> list[Expr]:
    """What 32 places have in the rows q and q + 4, for each q; nothing at those that are negative as signed bytes."""
    from tvm import tirx

    kind = f"uint8x{2 * _SHUFFLED}"
    by = tirx.Broadcast(tirx.const(_SHUFFLED * _CHOSEN, "uint8"), 2 * _SHUFFLED)
    moved = tirx.call_llvm_pure_intrin(kind, "llvm.ssub.sat", places, by)

    def shuffle(row: Expr, at: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin(kind, "llvm.x86.avx2.pshuf.b", row, at)

    return [tirx.bitwise_xor(shuffle(first, places), shuffle(change, moved)) for first, change in rows]


def _choose(found: list[Expr], places: Expr) -> Expr:
    """One of four vectors of 32 bytes for each place, by its bits 4 and 5 (``vpblendvb``, which tests bit 7)."""
    from tvm import tirx

    kind, words = f"uint8x{2 * _SHUFFLED}", f"uint16x{_SHUFFLED}"
    for by in (3, 2):
        moved = tirx.shift_left(tirx.reinterpret(words, places), tirx.Broadcast(tirx.const(by, "uint16"), _SHUFFLED))
        bit = tirx.reinterpret(kind, moved)
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [tirx.call_llvm_pure_intrin(kind, "llvm.x86.avx2.pblendvb", *pair, bit) for pair in pairs]
    return found[0]


def _bytes_of(index: Expr, lanes: int) -> Expr:
    """A vector of places as unsigned bytes."""
    from tvm import tirx

    narrow = isinstance(index, tirx.Cast) and str(index.value.ty.dtype).startswith("uint8")
    return index.value if narrow else tirx.Cast(f"uint8x{lanes}", index)


def _take(vector: Expr, places: list[int]) -> Expr:
    """The lanes of a vector at some places."""
    from tvm import tirx

    lanes = int(vector.ty.dtype.lanes)
    if places == list(range(lanes)):
        return vector
    # A shuffle has at most as many lanes as its operands.
    return tirx.Shuffle([vector] * -(-len(places) // lanes), [tirx.const(place, "int32") for place in places])
