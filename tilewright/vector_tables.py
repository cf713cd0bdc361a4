"""Lookups of vectors of bytes in tables of 256 bytes, by instructions that permute the bytes of registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr, Var

__all__ = ["look_up_by_permutations", "look_up_by_shuffles"]

#: Lanes of the vectors that ``look_up_by_permutations`` and ``look_up_by_shuffles`` make.
_PERMUTED, _SHUFFLED = 64, 16


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

    ``vpshufb`` looks up places in 16 bytes, and gives 0 for negative places. So each shuffle serves 16 bytes of the
    table. One half of a register looks up x in the lower half of the table, the other x - 128 in the upper half:

        D[0] = table[0:16],  D[s] = table[16 s : 16 s + 16] xor table[16 s - 16 : 16 s]      likewise for the upper half
        table[x] = xor of D[s][(x - 16 s) % 16] for all s with x - 16 s >= 0 = D[0][..] xor ... xor D[x / 16][..]

    A function that only looks 47,040 bytes up, by vectors of 8, took 0.62 of the time that loads of single bytes take
    (code for AVX2 on an Emerald Rapids).

    Args:
        table: a buffer of 256 bytes.
        index: the places, a vector of integers below 256.
        lanes: of the vector.
    """
    from tvm import tirx

    own = _bytes_of(index, lanes)
    if lanes == 2 * _SHUFFLED:
        return _look_up_register(table, own)
    differences = _differences(table)
    found = []
    for begin in range(0, lanes, _SHUFFLED):
        places = [min(begin + i % _SHUFFLED, lanes - 1) for i in range(2 * _SHUFFLED)]
        found.append(_shuffle(differences, _take(own, places)))
    count = min(lanes, _SHUFFLED)
    if len(found) == 1:
        return _take(found[0], list(range(count)))
    return tirx.Shuffle(found, [tirx.const(i, "int32") for i in range(lanes)])


def _look_up_register(table: Var, places: Expr) -> Expr:
    """The bytes at a vector of 32 places, by 16 shuffles: all lanes look up in both halves of the table."""
    from tvm import tirx

    upper = tirx.Broadcast(tirx.const(128, "uint8"), 2 * _SHUFFLED)
    halves = [
        _shuffle_all(_differences(table, half), own)
        for half, own in (((0, 0), places), ((128, 128), tirx.bitwise_xor(places, upper)))
    ]
    return tirx.bitwise_xor(*halves)


def _differences(table: Var, begins: tuple[int, int] = (0, 128)) -> list[Expr]:
    """The 16 bytes of each step, of the halves of the table that begin at ``begins``."""
    from tvm import tirx

    first, second = begins

    def part(begin: int) -> Expr:
        halves = [tirx.BufferLoad(table, [tirx.Ramp(place, 1, _SHUFFLED)]) for place in (first + begin, second + begin)]
        return tirx.Shuffle(halves, [tirx.const(i, "int32") for i in range(2 * _SHUFFLED)])

    parts = [part(begin) for begin in range(0, 128, _SHUFFLED)]
    return [parts[0], *(tirx.bitwise_xor(a, b) for a, b in zip(parts[1:], parts[:-1], strict=True))]


def _shuffle(differences: list[Expr], twice: Expr) -> Expr:
    """The 16 bytes at the places in ``twice``, a vector that holds each place twice."""
    from tvm import tirx

    upper = tirx.Shuffle(
        [tirx.Broadcast(tirx.const(number, "uint8"), _SHUFFLED) for number in (0, 128)],
        [tirx.const(i, "int32") for i in range(2 * _SHUFFLED)],
    )
    total = _shuffle_all(differences, tirx.bitwise_xor(twice, upper))
    lower, higher = (_take(total, [begin + i for i in range(_SHUFFLED)]) for begin in (0, _SHUFFLED))
    return tirx.bitwise_xor(lower, higher)


def _shuffle_all(differences: list[Expr], places: Expr) -> Expr:
    """What the shuffles of all steps find at 32 places; nothing at those that are negative as signed bytes."""
    from tvm import tirx

    kind = f"uint8x{2 * _SHUFFLED}"
    total: Expr | None = None
    for step, bytes_of_step in enumerate(differences):
        moved = places
        if step:
            by = tirx.Broadcast(tirx.const(_SHUFFLED * step, "uint8"), 2 * _SHUFFLED)
            moved = tirx.call_llvm_pure_intrin(kind, "llvm.ssub.sat", places, by)
        bytes_there = tirx.call_llvm_pure_intrin(kind, "llvm.x86.avx2.pshuf.b", bytes_of_step, moved)
        total = bytes_there if total is None else tirx.bitwise_xor(total, bytes_there)
    assert total is not None
    return total


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
