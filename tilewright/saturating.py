"""Reads vectors of int32 that are rounded numbers with the limits of unsigned bytes, so that others can pack them.

Such a number is ``max(min(round(x) + zero, 255), 0)``, where ``round(x)`` is the sum with 1.5 * 2^23 that
:mod:`tilewright.ops.elementwise.affine` writes. With AVX2:

    max(min(v, 255), 0)         -->  packuswb(packssdw(v))                          of any int32
    round(x)                    -->  vcvtps2dq(x)                                   where both are the same: |x| < 2^22
    packssdw(round(x) + zero)   -->  saturating sum of packssdw(round(x)) and zero  for a zero that is a byte
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm.ir import Expr

__all__ = ["ROUNDING", "ROUNDING_BITS", "read_levels"]

#: 1.5 * 2^23, and its bits. The sum of this number and one below 2^22 is rounded to an integer, as ``nearbyint`` rounds
#: it: halves to the even one. Addition is one instruction, and rounding two.
ROUNDING, ROUNDING_BITS = 12582912.0, 0x4B400000
#: LLVM's names of the instructions that round float32 to int32, by the lanes of a register.
_ROUNDS = {8: "llvm.x86.avx.cvt.ps2dq.256"}


def read_levels(sums: Sequence[Expr], lanes: int) -> tuple[list[Expr] | None, Expr | None]:
    """What is inside of the limits of bytes.

    Args:
        sums: vectors of int32.
        lanes: of each.

    Returns:
        the vectors without the limits, and a byte that is to be added to all of them after they became int16; None:
        there is none. None for the vectors: some have no such limits.
    """
    inner = [_read_limits(one) for one in sums]
    if any(one is None for one in inner):
        return None, None
    read = [_read_rounding(one, lanes) for one in inner]
    zeros = [zero for _, zero in read]
    if all(_same(zero, zeros[0]) for zero in zeros):
        return [level for level, _ in read], zeros[0]
    return inner, None


def _read_limits(expr: Any) -> Any:
    """``v`` of ``max(min(v, 255), 0)``; None if an expression is another."""
    from tvm import tirx

    if isinstance(expr, tirx.Max) and isinstance(expr.a, tirx.Min) and _number(expr.b) == 0:
        return expr.a.a if _number(expr.a.b) == 255 else None
    if isinstance(expr, tirx.Min) and isinstance(expr.a, tirx.Max) and _number(expr.b) == 255:
        return expr.a.a if _number(expr.a.b) == 0 else None
    return None


def _read_rounding(expr: Any, lanes: int) -> tuple[Any, Any]:
    """A rounded number, by one instruction, and the byte that is added to it; the expression and None if it is none."""
    from tvm import tirx

    constant, others = 0, []
    pending = [(1, expr)]
    while pending:
        sign, one = pending.pop()
        if isinstance(one, tirx.Add | tirx.Sub):
            pending += [(sign, one.a), (sign if isinstance(one, tirx.Add) else -sign, one.b)]
        elif (number := _number(one)) is not None:
            constant += sign * number
        else:
            others.append((sign, one))
    sums = [_read_sum(one) for _, one in others]
    rounded = [x for x in sums if x is not None]
    zeros = [one for (_, one), x in zip(others, sums, strict=True) if x is None]
    plain = len(rounded) == 1 and len(zeros) <= 1 and all(sign == 1 for sign, _ in others)
    if not plain or constant != -ROUNDING_BITS or lanes not in _ROUNDS or not all(map(_is_byte, zeros)):
        return expr, None
    level = tirx.call_llvm_pure_intrin(f"int32x{lanes}", _ROUNDS[lanes], rounded[0])
    return level, zeros[0].value if zeros else None


def _read_sum(expr: Any) -> Any:
    """``x`` of the bits of ``x + 1.5 * 2^23``; None if an expression is another."""
    from tvm import ir, tirx

    if not isinstance(expr, ir.Call) or getattr(expr.op, "name", "") != "tirx.reinterpret":
        return None
    (total,) = expr.args
    magic = isinstance(total, tirx.Add) and isinstance(total.b, tirx.Broadcast)
    return total.a if magic and getattr(total.b.value, "value", None) == ROUNDING else None


def _is_byte(expr: Any) -> bool:
    """Whether it is a byte in all lanes."""
    from tvm import tirx

    wide = isinstance(expr, tirx.Broadcast) and isinstance(expr.value, tirx.Cast)
    return wide and str(expr.value.value.ty.dtype) == "uint8"


def _number(expr: Any) -> int | None:
    """The integer that is in all lanes; None: an expression is no constant."""
    from tvm import tirx

    constant = expr.value if isinstance(expr, tirx.Broadcast) else None
    return int(constant.value) if isinstance(constant, tirx.IntImm) else None


def _same(one: Any, other: Any) -> bool:
    from tvm_ffi import structural_equal

    if one is None or other is None:
        return one is other
    return bool(structural_equal(one, other))
