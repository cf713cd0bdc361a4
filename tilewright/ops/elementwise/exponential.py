"""Exponentials and logarithms in float32 arithmetic. Most elementary functions are made of them.

Their precision is that of :mod:`tilewright.ops.elementwise.elementary`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.float32 import (
    bits,
    clamp,
    cut,
    float_of,
    horner,
    integer,
    let,
    number,
    reciprocal,
    select,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

__all__ = ["exp", "exp_below_zero", "expm1", "half_square_decay", "log", "log1p", "log1p_unit", "one_plus_decay"]

_LOG2E = 1.4426950408889634
#: ln 2 in two parts, so that n * ln 2 is exact (Cephes).
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
#: Below the first bound the exponential is no normal float32. Above the second one it is infinite.
_EXP_LOW, _EXP_HIGH = -87.33654, 88.7228
#: (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2 (Cephes).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
#: The same with a relative error of the exponential of 3.1e-9. Lawson's algorithm found the coefficients.
_SHORT = (0.0013814540579915047, 0.00836874544620514, 0.04166838899254799, 0.1666652113199234, 0.4999999403953552)
#: A float32 n plus this number rounds to a whole number, and 127 + n are the last bits of the sum.
_ROUNDING = 12582912.0 + 127.0
#: (ln(1 + f) - f + f^2 / 2) / f^3 for 1 + f from the root of 1/2 to that of 2 (Cephes).
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
#: (artanh(s) / s - 1) / s^2 by s^2, for s <= 1/3. Lawson's algorithm found the coefficients; the relative error of the
#: logarithm is 5e-9.
_ARTANH = (0.140059969, 0.140009018, 0.200107637, 0.333332081)
#: A mask that keeps the first 12 bits of a significand.
_TWELVE_BITS = -(1 << 12)
#: The bits of infinity, of a NaN, and of the root of 1/2.
_INFINITY, _NAN, _HALF_ROOT = 0x7F800000, 0x7FC00000, 0x3F3504F3


def _exp_parts(x: Expr, finish: Callable[[Expr, Expr], Expr]) -> Expr:
    """``finish(e^r - 1, n)`` for ``x`` = n ln 2 + r."""
    from tvm import tirx

    def rest(n: Expr) -> Expr:
        r = x - n * number(_LN2_HIGH) - n * number(_LN2_LOW)
        return let(r, lambda r: let(horner(_EXP, r) * r * r + r, lambda q: finish(q, n)))

    return let(tirx.floor(x * number(_LOG2E) + number(0.5)), rest)


def _power(q: Expr, n: Expr) -> Expr:
    """(1 + q) * 2^n, which adds n to the bits of the exponent."""
    return float_of(bits(q + number(1.0)) + (integer(n) << 23))


def exp(x: Expr) -> Expr:
    """The exponential of ``x``; 0 for x below -87.33654."""

    def result(x: Expr) -> Expr:
        value = let(clamp(x, _EXP_LOW, _EXP_HIGH), lambda bounded: _exp_parts(bounded, _power))
        return select(x < number(_EXP_LOW), number(0.0), select(x > number(_EXP_HIGH), float_of(_INFINITY), value))

    return let(x, result)


def exp_below_zero(x: Expr, low: Expr = None) -> Expr:
    """The exponential of ``x + low`` for an x of at most 88; 0 for x below -87.7. Its relative error is 8e-8.

    It takes two thirds of the operations of :func:`exp`: there is no test for infinity, and the sum that rounds also
    holds the bits of the power of 2. ``low`` is a correction of at most 0.1; None: 0.
    """
    from tvm import tirx

    def power(bounded: Expr, total: Expr) -> Expr:
        def rest(n: Expr) -> Expr:
            return let(bounded - n * number(_LN2_HIGH) - n * number(_LN2_LOW), corrected)

        def corrected(r: Expr) -> Expr:
            return polynomial(r) if low is None else let(r + low, polynomial)

        def polynomial(r: Expr) -> Expr:
            return horner((*_SHORT, 1.0, 1.0), r) * float_of(bits(total) << 23)

        return let(total - number(_ROUNDING), rest)

    def result(bounded: Expr) -> Expr:
        return let(bounded * number(_LOG2E) + number(_ROUNDING), lambda total: power(bounded, total))

    # The power of 2 is 0 from the bound on.
    return let(tirx.max(number(-88.0), x), result)


def one_plus_decay(x: Expr, halvings: int, low: Expr = None) -> Expr:
    """``(1 + e^-(x + low)) / 2^halvings`` with a relative error of 1e-7.

    Args:
        x: from ``-ln 2 * (127 + halvings)`` to ``ln 2 * (126 - halvings)``. For other numbers the result is wrong.
        halvings: how often the result is halved. So ``x`` may be below -88, where the exponential exceeds float32.
        low: a correction of at most 0.1; None: 0.
    """
    rounding = number(_ROUNDING - halvings)
    # e^-q for q = x + n ln 2: the signs of the coefficients alternate.
    signed = tuple(c if power % 2 == 0 else -c for power, c in zip(range(6, -1, -1), (*_SHORT, 1.0, 1.0), strict=True))

    def rest(x: Expr, total: Expr) -> Expr:
        n = total - rounding
        return let(n, lambda n: let(x + n * number(_LN2_HIGH) + n * number(_LN2_LOW), lambda q: polynomial(q, total)))

    def polynomial(q: Expr, total: Expr) -> Expr:
        return let(q if low is None else q + low, lambda q: sum_of(horner(signed, q), total))

    def sum_of(power: Expr, total: Expr) -> Expr:
        return number(0.5**halvings) + power * float_of(bits(total) << 23)

    return let(x, lambda x: let(x * number(-_LOG2E) + rounding, lambda total: rest(x, total)))


def half_square_decay(t: Expr) -> Expr:
    """e^(-t^2 / 2) for t from 0 to 13.24, with a relative error of 2e-7.

    The square is h * h + (t - h) * (t + h), where h has 12 bits of t: h * h is exact. So is its remainder after
    multiples of 2 ln 2 were subtracted.
    """
    signed = tuple(c * (-0.5) ** power for power, c in zip(range(6, -1, -1), (*_SHORT, 1.0, 1.0), strict=True))

    def split(h: Expr) -> Expr:
        return let(
            h * h, lambda square: let(square * number(-0.5 * _LOG2E) + number(_ROUNDING), partial(rest, h, square))
        )

    def rest(h: Expr, square: Expr, total: Expr) -> Expr:
        def polynomial(n: Expr) -> Expr:
            q = square + n * number(2.0 * _LN2_HIGH) + n * number(2.0 * _LN2_LOW) + (t - h) * (t + h)
            return let(q, lambda q: horner(signed, q) * float_of(bits(total) << 23))

        return let(total - number(_ROUNDING), polynomial)

    return let(cut(t, _TWELVE_BITS), split)


def expm1(x: Expr) -> Expr:
    """The exponential of ``x``, less 1."""
    from tvm import tirx

    def finish(q: Expr, n: Expr) -> Expr:
        # 2^128 is no float32. Above 2^24, the subtraction of 1 is lost in rounding anyway.
        small = tirx.min(n, number(60.0))
        near = let(float_of((integer(small) + 127) << 23), lambda power: q * power + (power - number(1.0)))
        return select(n > number(30.0), _power(q, n), near)

    def result(x: Expr) -> Expr:
        value = let(clamp(x, _EXP_LOW, _EXP_HIGH), lambda bounded: _exp_parts(bounded, finish))
        return select(x > number(_EXP_HIGH), float_of(_INFINITY), value)

    return let(x, result)


def log(x: Expr) -> Expr:
    """The natural logarithm: -inf for 0, and NaN for negative numbers."""
    from tvm import tirx

    def result(x: Expr) -> Expr:
        small = x < number(1.17549435e-38)

        def parts(pattern: Expr) -> Expr:
            variable = tirx.Var("e", "int32")
            e = tirx.Cast("float32", variable) - select(small, number(23.0), number(0.0))
            f = float_of(pattern - (variable << 23)) - number(1.0)
            body = let(e, lambda e: let(f, lambda f: polynomial(e, f)))
            return tirx.Let(variable, (pattern - _HALF_ROOT) >> 23, body)

        def polynomial(e: Expr, f: Expr) -> Expr:
            square = f * f
            return let(
                square,
                lambda z: (
                    f + (horner(_LOG, f) * f * z + e * number(_LN2_LOW) - number(0.5) * z) + e * number(_LN2_HIGH)
                ),
            )

        scaled = tirx.Var("i", "int32")
        value = tirx.Let(scaled, bits(select(small, x * number(8388608.0), x)), parts(scaled))
        infinite = float_of(_INFINITY)
        value = select(x < infinite, value, x)  # infinity and NaN stay
        return select(x < number(0.0), float_of(_NAN), select(x == number(0.0), number(0.0) - infinite, value))

    return let(x, result)


def log1p(y: Expr) -> Expr:
    """ln(1 + y)."""

    def result(y: Expr) -> Expr:
        def corrected(w: Expr) -> Expr:
            lost = (y - (w - number(1.0))) / w  # the part that 1 + y rounds away
            return log(w) + select(w < number(1e30), select(w > number(0.0), lost, number(0.0)), number(0.0))

        return let(y + number(1.0), corrected)

    return let(y, result)


def log1p_unit(u: Expr) -> Expr:
    """ln(1 + u) for u from 0 to 1: 2 artanh(u / (2 + u))."""

    def series(s: Expr) -> Expr:
        return let(s * s, lambda z: number(2.0) * (s + s * z * horner(_ARTANH, z)))

    return let(u, lambda u: let(u * reciprocal(number(2.0) + u), series))
