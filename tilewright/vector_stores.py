"""Joins stores of short vectors of bytes that lie side by side into stores of whole registers.

A convolution of bytes gives vectors of sums, of neighbouring pixels: 8 sums with AVX2, 16 with AVX-512. Several
instructions turn the sums of a vector into bytes, which fill a quarter of a register. Looking these bytes up in a table
takes as many instructions as looking up a whole register. So four vectors are packed, looked up and stored together.
With AVX2:

    Y[i : i + 8] = bytes(a); Y[i + 8 : i + 16] = bytes(b); ...  -->  Y[i : i + 32] = pack(a, b, c, d)
    Y[i : i + 8] = table[bytes(a)]; ...                         -->  Y[i : i + 32] = table[pack(a, b, c, d)]

Instructions that pack integers saturate them, too. So limits of unsigned bytes cost nothing, and a zero point is added
to two vectors at once (:mod:`tilewright.saturating`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilewright.saturating import read_levels

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import Stmt

__all__ = ["join_stores"]

#: How many vectors become one store, the most first.
_JOINED = (4, 2)
#: LLVM's names of the instructions that make int16 of int32, and bytes of int16, by the int32 of a register. They keep
#: parts of 128 bits apart.
_PACKS = {
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
}


@dataclass(frozen=True)
class _Store:
    """A store of a short vector of bytes.

    Attributes:
        statement: the store.
        first: the index of the first byte.
        sums: an int32 for each byte, which is its lowest one.
        table: in which the bytes are looked up; None: they are stored as they are.
    """

    statement: Any
    first: Expr
    sums: Expr
    table: Any

    def joins(self, other: _Store) -> bool:
        """Whether both look up in the same table, or in none."""
        if self.table is None or other.table is None:
            return self.table is other.table
        return bool(self.table.same_as(other.table))


def join_stores(body: Stmt, lanes: int) -> Stmt:
    """A function's body with joined stores.

    Args:
        body: after loops have become vectors, and others were written out.
        lanes: the int32 of a register: 8 (AVX2) or 16 (AVX512BW).
    """
    from tvm import tirx
    from tvm_ffi import structural_map

    made: Stmt = structural_map(body, (tirx.SeqStmt, _join_sequence(lanes)))
    return made


def _join_sequence(lanes: int) -> Callable[[Any], Any]:
    """What joins runs of stores to one buffer among the statements of a sequence."""
    from tvm import tirx

    def join(sequence: Any) -> Any:
        done: list[Any] = []
        run: list[_Store] = []
        for statement in sequence.seq:
            store = _read_store(statement, lanes)
            if store is None or (run and not statement.buffer.same_as(run[0].statement.buffer)):
                done += _join_run(run, lanes)
                run = []
            if store is None:
                done.append(statement)
            else:
                run.append(store)
        done += _join_run(run, lanes)
        same = len(done) == len(sequence.seq) and all(a.same_as(b) for a, b in zip(done, sequence.seq, strict=True))
        return sequence if same else tirx.SeqStmt(done)

    return join


def _read_store(statement: Any, lanes: int) -> _Store | None:
    """The store of as many bytes as a register has int32; None if a statement is another, or reads what it writes."""
    from tvm import ir, tirx
    from tvm_ffi import structural_walk

    if not isinstance(statement, tirx.BufferStore) or len(statement.indices) != 1:
        return None
    place, value, table = statement.indices[0], statement.value, None
    kind = f"uint8x{lanes}"
    if not isinstance(place, tirx.Ramp) or str(value.ty.dtype) != kind:
        return None
    if not isinstance(place.stride, tirx.IntImm) or place.stride.value != 1:
        return None
    if isinstance(value, ir.TensorLoad) and _is_lookup(value):
        table, value = value.source, value.indices[0]
        while isinstance(value, tirx.Cast) and str(value.ty.dtype) != kind:
            value = value.value
    if not isinstance(value, tirx.Cast) or str(value.value.ty.dtype) != f"int32x{lanes}":
        return None
    read: list[Any] = []
    structural_walk(value, [(ir.TensorLoad, lambda load: read.append(load.source))])
    if any(source.same_as(statement.buffer) for source in read):
        return None
    return _Store(statement, place.base, value.value, table)


def _is_lookup(load: Any) -> bool:
    from tvm import tirx

    whole = str(load.source.ty.dtype) == "uint8" and [int(d) for d in load.source.ty.shape] == [256]
    return whole and len(load.indices) == 1 and not isinstance(load.indices[0], tirx.Ramp)


def _join_run(run: list[_Store], lanes: int) -> list[Any]:
    """Stores to one buffer, joined where they lie side by side. Their order does not matter: none reads the buffer."""
    from tvm.sym import Analyzer

    analyzer, left = Analyzer(), list(run)
    done: list[Any] = []
    while left:
        first = left[0]
        near = {0: first}
        for other in left[1:]:
            apart = analyzer.simplify(other.first - first.first)
            if other.joins(first) and hasattr(apart, "value"):
                near.setdefault(int(apart.value), other)
        begin = 0
        while begin - lanes in near:
            begin -= lanes
        count = next((n for n in _JOINED if all(begin + lanes * i in near for i in range(n))), 1)
        group = [near[begin + lanes * i] for i in range(count)]
        alone = count == 1 and read_levels([group[0].sums], lanes)[0] is None
        done += [group[0].statement] if alone else _join(group, lanes)
        left = [store for store in left if all(store is not other for other in group)]
    return done


def _join(stores: list[_Store], lanes: int) -> list[Any]:
    """The statements that store neighbouring vectors at once."""
    from tvm import tirx

    first, count = stores[0], lanes * len(stores)
    numbers = tirx.Var("bytes", f"uint8x{count}")
    value: Any = numbers
    if first.table is not None:
        value = tirx.BufferLoad(first.table, [tirx.Cast(f"int32x{count}", numbers)])
    place = tirx.Ramp(first.first, tirx.const(1, str(first.first.ty.dtype)), count)
    return [
        tirx.Bind(numbers, _pack([store.sums for store in stores], lanes)),
        tirx.BufferStore(first.statement.buffer, value, [place]),
    ]


def _pack(sums: list[Expr], lanes: int) -> Expr:
    """One, two or four vectors of int32 as bytes, one vector after the other: their lowest bytes, or saturated ones."""
    from tvm import tirx

    to_words, to_bytes = _PACKS[lanes]
    low = tirx.Broadcast(tirx.const(255, "int32"), lanes)  # otherwise instructions saturate
    levels, zero = read_levels(sums, lanes)
    parts = [tirx.bitwise_and(one, low) for one in sums] if levels is None else levels
    parts += parts[: len(parts) % 2]
    words = [
        tirx.call_llvm_pure_intrin(f"int16x{2 * lanes}", to_words, a, b)
        for a, b in zip(parts[::2], parts[1::2], strict=True)
    ]
    if zero is not None:
        wide = tirx.Broadcast(tirx.Cast("int16", zero), 2 * lanes)
        words = [tirx.call_llvm_pure_intrin(f"int16x{2 * lanes}", "llvm.sadd.sat", one, wide) for one in words]
    packed = tirx.call_llvm_pure_intrin(f"uint8x{4 * lanes}", to_bytes, words[0], words[-1])
    # A part of 128 bits has four bytes of each vector.
    order = [4 * part + vector for vector in range(len(sums)) for part in range(lanes // 4)]
    moved = tirx.Shuffle([tirx.reinterpret(f"int32x{lanes}", packed)], [tirx.const(place, "int32") for place in order])
    return tirx.reinterpret(f"uint8x{4 * len(order)}", moved)
