"""exp, log, erf, tanh and the activations made of them, in float32 arithmetic that vectorises.

LLVM calls the C library for each element of them, 5 ns each where these take 0.3 to 2 ns. Relative errors are below
1e-6 (for the GELU by tanh 4e-6) wherever the result is a normal float32: near zero, and in tails such as
``softplus(-80)``, too. NaN stays NaN. Formulas bind what they use more than once to a variable (``Let``), so that it
is compiled, and its operations are counted, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilewright.ops.elementwise.float32 import (
    absolute,
    bits,
    clamp,
    cut,
    float_of,
    horner,
    integer,
    let,
    number,
    select,
)

__all__ = [
    "ELEMENTARY",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "gelu",
    "gelu_tanh",
    "log",
    "log1p",
    "mish",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
    "twice_sigmoid",
]

_LOG2E = 1.4426950408889634
#: ln 2 in two parts, so that n * ln 2 loses nothing (Cephes).
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
#: Below the first one the exponential is no normal float32, above the second one it is infinite.
_EXP_LOW, _EXP_HIGH = -87.33654, 88.7228
#: (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2 (Cephes).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
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
#: (artanh(s) / s - 1) / s^2 by s^2, for s <= 1/3: relative error of the logarithm 5e-9 (Lawson's algorithm).
_ARTANH = (0.140059969, 0.140009018, 0.200107637, 0.333332081)
#: e^(t^2 / 2) * (1 + erf(-t / sqrt 2)) / 2 is v times this polynomial in v = 1 / (1 + _TAIL_SCALE * t), for t up to
#: 14.5: relative error 1.6e-7 (Lawson's algorithm).
_TAIL_SCALE = 0.3
_TAIL = (
    0.0354237106,
    -0.156158353,
    0.204556635,
    -0.0520338929,
    0.127691714,
    0.100175963,
    0.120712134,
    0.119632007,
)
#: Rational approximations of tanh and erf around zero (Eigen).
_TANH_TOP = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BOTTOM = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_ERF_TOP = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BOTTOM = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
#: Bits of infinity, of a NaN, of the root of 1/2; and masks that leave 12 and 8 bits of a significand.
_INFINITY, _NAN, _HALF_ROOT = 0x7F800000, 0x7FC00000, 0x3F3504F3
_TWELVE_BITS, _EIGHT_BITS = -(1 << 12), -(1 << 16)
#: Tails of the form x * e^-|x| are normal numbers where e^-|x| is none any more: computed as x * e^(12-|x|) * e^-12.
_HEADROOM, _HEADROOM_FACTOR = 12.0, 6.14421235332821e-06
#: The GELU by tanh is x * sigmoid(x * (a + b * x^2)). The cubic term's factor is b1 + b2, of which b1 has 8 bits.
_GELU_LINEAR, _GELU_CUBIC, _GELU_CUBIC_REST = 1.5957691216057308, 0.0712890625, 6.575377e-05


def _exp_parts(x: Any, low: Any, finish: Callable[[Any, Any], Any]) -> Any:
    """``finish(e^r - 1, n)``, where ``x + low`` is n ln 2 + r; ``low`` (None: 0) is what ``x`` could not hold."""
    from tvm import tirx

    def rest(n: Any) -> Any:
        r = x - n * number(_LN2_HIGH) - n * number(_LN2_LOW)
        return let(r if low is None else r + low, lambda r: let(horner(_EXP, r) * r * r + r, lambda q: finish(q, n)))

    return let(tirx.floor(x * number(_LOG2E) + number(0.5)), rest)


def _power(q: Any, n: Any) -> Any:
    """(1 + q) * 2^n, by the bits of the exponent."""
    return float_of(bits(q + number(1.0)) + (integer(n) << 23))


def exp(x: Any, low: Any = None) -> Any:
    """The exponential of ``x + low``; 0 below -87.33654. ``low``: a correction of at most 0.1; None: 0."""

    def result(x: Any) -> Any:
        value = let(clamp(x, _EXP_LOW, _EXP_HIGH), lambda bounded: _exp_parts(bounded, low, _power))
        return select(x < number(_EXP_LOW), number(0.0), select(x > number(_EXP_HIGH), float_of(_INFINITY), value))

    return let(x, result)


def _decay(x: Any, low: Any = None) -> Any:
    """The same, for an ``x`` below 88."""
    from tvm import tirx

    def result(x: Any) -> Any:
        value = let(tirx.max(number(_EXP_LOW), x), lambda bounded: _exp_parts(bounded, low, _power))
        return select(x < number(_EXP_LOW), number(0.0), value)

    return let(x, result)


def expm1(x: Any) -> Any:
    """The exponential of ``x``, less 1."""
    from tvm import tirx

    def finish(q: Any, n: Any) -> Any:
        # 2^128 is no float32, and above 2^24 the one that is taken away is lost anyway.
        small = tirx.min(n, number(60.0))
        near = let(float_of((integer(small) + 127) << 23), lambda power: q * power + (power - number(1.0)))
        return select(n > number(30.0), _power(q, n), near)

    def result(x: Any) -> Any:
        value = let(clamp(x, _EXP_LOW, _EXP_HIGH), lambda bounded: _exp_parts(bounded, None, finish))
        return select(x > number(_EXP_HIGH), float_of(_INFINITY), value)

    return let(x, result)


def log(x: Any) -> Any:
    """The natural logarithm; -inf of 0, NaN of what is negative."""
    from tvm import tirx

    def result(x: Any) -> Any:
        small = x < number(1.17549435e-38)

        def parts(pattern: Any) -> Any:
            variable = tirx.Var("e", "int32")
            e = tirx.Cast("float32", variable) - select(small, number(23.0), number(0.0))
            f = float_of(pattern - (variable << 23)) - number(1.0)
            body = let(e, lambda e: let(f, lambda f: polynomial(e, f)))
            return tirx.Let(variable, (pattern - _HALF_ROOT) >> 23, body)

        def polynomial(e: Any, f: Any) -> Any:
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


def log1p(y: Any) -> Any:
    """ln(1 + y)."""

    def result(y: Any) -> Any:
        def corrected(w: Any) -> Any:
            lost = (y - (w - number(1.0))) / w  # what 1 + y rounded away
            return log(w) + select(w < number(1e30), select(w > number(0.0), lost, number(0.0)), number(0.0))

        return let(y + number(1.0), corrected)

    return let(y, result)


def _log1p_unit(u: Any) -> Any:
    """ln(1 + u) for u from 0 to 1: 2 artanh(u / (2 + u))."""

    def series(s: Any) -> Any:
        return let(s * s, lambda z: number(2.0) * (s + s * z * horner(_ARTANH, z)))

    return let(u, lambda u: let(u / (number(2.0) + u), series))


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""

    def ratio(x: Any) -> Any:
        return let(x * x, lambda z: x * (horner(_TANH_TOP, z) / horner(_TANH_BOTTOM, z)))

    return let(clamp(x, -7.90531110763549805, 7.90531110763549805), ratio)


def erf(x: Any) -> Any:
    """Error function."""

    def ratio(x: Any) -> Any:
        return let(x * x, lambda z: x * (horner(_ERF_TOP, z) / horner(_ERF_BOTTOM, z)))

    return let(clamp(x, -4.0, 4.0), ratio)


def _bell(x: Any, scale: float, finish: Callable[[Any], Any]) -> Any:
    """``finish(e)`` with e = exp(-scale * x * x) and ``scale`` a power of 2, exact although x * x may be 170."""

    def parts(high: Any) -> Any:
        low = (x - high) * (x + high) * number(-scale)
        return let(low, lambda low: let(_decay(high * high * number(-scale), low), finish))

    return let(cut(x, _TWELVE_BITS), parts)


def _tail(t: Any) -> Any:
    """e^(t^2 / 2) * (1 + erf(-t / sqrt 2)) / 2, for t from 0 to 14.5."""
    return let(number(1.0) / (number(1.0) + number(_TAIL_SCALE) * t), lambda v: v * horner(_TAIL, v))


def erfc(x: Any) -> Any:
    """1 - erf(x)."""

    def result(x: Any) -> Any:
        tail = number(2.0) * _tail(absolute(x) * number(1.4142135623730951))
        return _bell(x, 1.0, lambda e: let(e * tail, lambda p: select(x < number(0.0), number(2.0) - p, p)))

    return let(clamp(x, -10.2, 10.2), result)


def gelu(x: Any) -> Any:
    """GELU: x * (1 + erf(x / sqrt 2)) / 2."""

    def result(x: Any) -> Any:
        def tail(bounded: Any) -> Any:
            return _bell(
                bounded,
                0.5,
                lambda e: let(bounded * e * _tail(absolute(bounded)), lambda p: select(x < number(0.0), p, x - p)),
            )

        return let(clamp(x, -14.4, 14.4), tail)

    return let(x, result)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    return number(1.0) / (number(1.0) + exp(number(0.0) - x))


def twice_sigmoid(u: Any, sign: int) -> Any:
    """1 + tanh(u), or 1 - tanh(u) where ``sign`` is negative."""
    return number(2.0) / (number(1.0) + exp(number(-2.0 if sign > 0 else 2.0) * u))


def _gate(x: Any, z: Any, low: Any = None) -> Any:
    """The product x * sigmoid(z + low) for x and z of one sign; ``low`` as :func:`exp` has it."""

    def result(negative: Any) -> Any:
        # e^-|z| with some headroom.
        raised = _decay(
            number(_HEADROOM) - absolute(z), None if low is None else select(negative, low, number(0.0) - low)
        )

        def ratio(e: Any) -> Any:
            top = select(negative, x * e * number(_HEADROOM_FACTOR), x)
            return top / (number(1.0) + e * number(_HEADROOM_FACTOR))

        return let(raised, ratio)

    return result(z < number(0.0))


def silu(x: Any) -> Any:
    """SiLU: x * sigmoid(x)."""
    return let(x, lambda x: _gate(x, x))


def gelu_tanh(x: Any) -> Any:
    """GELU by tanh: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2."""

    # 0.5 * (1 + tanh(u)) = sigmoid(2u). Where that is small, a relative error of 2u counts up to 87 times. So 2u is
    # computed in two parts: the cubic term is mostly a product of factors of 12 bits, and their sum is exact.
    def result(x: Any) -> Any:
        def square(bounded: Any) -> Any:
            def cubic(eight: Any) -> Any:
                return let(eight * eight * number(_GELU_CUBIC), lambda a: parts(bounded, eight, a))

            return let(cut(bounded, _EIGHT_BITS), cubic)

        def parts(bounded: Any, eight: Any, a: Any) -> Any:
            more = number(_GELU_LINEAR) + number(_GELU_CUBIC_REST) * eight * eight
            more = more + number(_GELU_CUBIC + _GELU_CUBIC_REST) * (bounded - eight) * (bounded + eight)

            def product(twelve: Any, factor: Any) -> Any:
                rest = (bounded - twelve) * a + (twelve * (a - factor) + bounded * more)
                return let(twelve * factor, lambda z: let(rest, lambda rest: _gate_of_sum(x, z, rest)))

            twelve, factor = cut(bounded, _TWELVE_BITS), cut(a, _TWELVE_BITS)
            return let(twelve, lambda twelve: let(factor, lambda factor: product(twelve, factor)))

        return let(clamp(x, -13.0, 13.0), square)

    return let(x, result)


def _gate_of_sum(x: Any, a: Any, b: Any) -> Any:
    """The product x * sigmoid(a + b), with what a + b rounds away (Knuth's sum)."""

    def low(total: Any, part: Any) -> Any:
        return let((a - (total - part)) + (b - part), lambda low: _gate(x, total, low))

    return let(a + b, lambda total: let(total - a, lambda part: low(total, part)))


def softplus(x: Any) -> Any:
    """ln(1 + e^x)."""
    from tvm import tirx

    return let(x, lambda x: tirx.max(number(0.0), x) + _log1p_unit(_decay(number(0.0) - absolute(x))))


def mish(x: Any) -> Any:
    """Mish: x * tanh(ln(1 + e^x))."""

    # With e = e^-|x| the tangent is (1 + 2e) / (1 + 2e + 2e^2), and e (2 + e) / (2 + 2e + e^2) for a negative x.
    def result(x: Any) -> Any:
        def ratio(raised: Any) -> Any:
            def of(e: Any) -> Any:
                negative = x < number(0.0)
                top = select(
                    negative, x * raised * number(_HEADROOM_FACTOR) * (e + number(2.0)), x * (number(1.0) + e + e)
                )
                bottom = select(
                    negative, e * (e + number(2.0)) + number(2.0), number(1.0) + number(2.0) * e * (e + number(1.0))
                )
                return top / bottom

            return let(raised * number(_HEADROOM_FACTOR), of)

        return let(_decay(number(_HEADROOM) - absolute(x)), ratio)

    return let(x, result)


def selu(x: Any) -> Any:
    """1.0507 * (x, or 1.67326 * (e^x - 1) where x is negative)."""

    def result(x: Any) -> Any:
        negative = number(1.0507009873554805 * 1.6732632423543772) * expm1(x)
        return select(x < number(0.0), negative, number(1.0507009873554805) * x)

    return let(x, result)


#: By the name of Relax's operator.
ELEMENTARY: dict[str, Callable[[Any], Any]] = {
    "exp": exp,
    "log": log,
    "erf": erf,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "nn.gelu": gelu,
    "nn.gelu_tanh": gelu_tanh,
    "nn.silu": silu,
    "nn.softplus": softplus,
    "nn.selu": selu,
}
