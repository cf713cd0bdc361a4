"""Parts of formulas in float32 arithmetic, as expressions of TIR. Operands are float32 where nothing else is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tilewright.vector_instructions import RECIPROCAL, register_operators

if TYPE_CHECKING:
    from tvm.ir import Expr

__all__ = ["absolute", "bits", "clamp", "cut", "float_of", "horner", "integer", "let", "number", "reciprocal", "select"]


def number(value: float) -> Expr:
    """A float32 constant."""
    from tvm import tirx

    return tirx.const(value, "float32")


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body`` of a variable that holds ``value``, so that the value is computed once."""
    from tvm import tirx

    variable = tirx.Var("t", "float32")
    return tirx.Let(variable, value, body(variable))


def horner(coefficients: tuple[float, ...], x: Expr) -> Expr:
    """The polynomial of ``x`` with these coefficients, that of the highest power first, by Horner's rule."""
    total = number(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + number(c)
    return total


def clamp(x: Expr, low: float, high: float) -> Expr:
    """``x`` within bounds. NaN stays NaN, because of the order of the operands."""
    from tvm import tirx

    return tirx.max(number(low), tirx.min(number(high), x))


def select(condition: Expr, value: Expr, otherwise: Expr) -> Expr:
    """``value`` if ``condition`` holds, else ``otherwise``. Both are computed."""
    from tvm import tirx

    return tirx.Select(condition, value, otherwise)


def bits(value: Expr) -> Expr:
    """The bits of a float32 as an int32."""
    from tvm import tirx

    return tirx.reinterpret("int32", value)


def float_of(bits: Expr) -> Expr:
    """The float32 with these bits, an int32."""
    from tvm import tirx

    return tirx.reinterpret("float32", tirx.const(bits, "int32") if isinstance(bits, int) else bits)


def cut(x: Expr, mask: int) -> Expr:
    """``x`` with the bits of ``mask`` alone. Products of numbers with short significands are exact."""
    from tvm import tirx

    return float_of(bits(x) & tirx.const(mask, "int32"))


def integer(x: Expr) -> Expr:
    """The whole number ``x`` as an int32."""
    from tvm import tirx

    return tirx.Cast("int32", x)


def absolute(x: Expr) -> Expr:
    """``x`` without its sign."""
    from tvm import tirx

    return float_of(bits(x) & tirx.const(0x7FFFFFFF, "int32"))


def reciprocal(d: Expr) -> Expr:
    """``1 / d`` for a ``d`` with an absolute value between 1e-37 and 1e38. NaN stays NaN.

    Its relative error is at most 1.2e-7, since targets with AVX-512 approximate it
    (:func:`tilewright.vector_instructions.choose_instructions`).
    """
    from tvm import tirx

    register_operators()
    return tirx.call_intrin("float32", RECIPROCAL, d)
