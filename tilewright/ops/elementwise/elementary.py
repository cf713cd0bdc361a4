"""tanh, erf and activations as formulas in float32 arithmetic, which LLVM vectorises.

LLVM would call the C library for each element of these functions, which takes 5 ns. The formulas take 0.3 to 2 ns.
Relative errors are below 1e-6 (4e-6 for the GELU by tanh) wherever the result is a normal float32, also near zero and
in tails such as ``softplus(-80)``. NaN stays NaN. A formula binds each value that it uses more than once to a variable
(``Let``), so that the value is compiled once, and its operations count once.

To add an activation function, write its formula here, and add it to :data:`ELEMENTARY` by the name of its operator in
Relax. ``tests/ops/elementwise/test_elementary.py`` compares it with a reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.exponential import (
    exp,
    exp_below_zero,
    expm1,
    half_square_decay,
    log,
    log1p,
    log1p_unit,
    one_plus_decay,
)
from tilewright.ops.elementwise.float32 import (
    absolute,
    clamp,
    cut,
    horner,
    let,
    number,
    reciprocal,
    select,
)

if TYPE_CHECKING:
    from tvm.ir import Expr

__all__ = [
    "ELEMENTARY",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "gelu",
    "gelu_in_training",
    "gelu_slope",
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

#: For t up to 14.5, e^(t^2 / 2) * (1 + erf(-t / sqrt 2)) / 2 is v times this polynomial in v = 1 / (1 + _TAIL_SCALE *
#: t). The relative error is 1.6e-7. Lawson's algorithm found the coefficients.
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
#: (gelu'(x) - 1/2) / x by x^2, for |x| <= 6. Lawson's algorithm found the coefficients. gelu' is 1.4e-7 off at most.
_SLOPE_TOP = (
    1.90968129147232e-07,
    3.585033998139882e-05,
    2.3800876703624606e-05,
    0.014210623874055176,
    -0.030764196786712,
    0.7978846994393877,
)
_SLOPE_BOTTOM = (
    8.88980986156288e-06,
    0.0001933677889443841,
    0.0035283290619909295,
    0.04105704337576375,
    0.29478050078085416,
    1.0,
)
#: erf(x / sqrt 2) / (2 x) by x^2, for |x| <= 5.7, in the same way: the error function is 1.2e-8 off at most.
_NORMAL_TOP = (
    2.157839542361297e-08,
    6.373643813404707e-06,
    0.00017938031361687727,
    0.00474074939566987,
    0.034940310000373995,
    0.3989422062104108,
)
_NORMAL_BOTTOM = (
    1.164864951625873e-06,
    7.676099744617007e-05,
    0.0019444830759401646,
    0.029260128774059087,
    0.25424784232562975,
    1.0,
)
#: Masks that keep the first 12 or 8 bits of a significand.
_TWELVE_BITS, _EIGHT_BITS = -(1 << 12), -(1 << 16)
#: A tail x * e^-|x| may be a normal number where e^-|x| is none. So it is computed as x * e^(12-|x|) * e^-12.
_HEADROOM, _HEADROOM_FACTOR = 12.0, 6.14421235332821e-06
#: Below the first bound the product of a number and its sigmoid is no normal number. Above the second one, the sigmoid
#: is 1. The sigmoid itself is no normal number below -87.3, so it is computed times 2 to the third number.
_GATE_LOW, _GATE_HIGH, _HALVINGS = -92.5, 60.0, 8
#: The GELU by tanh is x * sigmoid(x * (a + b * x^2)). The factor b of the cubic term is b1 + b2, and b1 has 8 bits.
_GELU_LINEAR, _GELU_CUBIC, _GELU_CUBIC_REST = 1.5957691216057308, 0.0712890625, 6.575377e-05


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""

    def ratio(x: Expr) -> Expr:
        return let(x * x, lambda z: x * (horner(_TANH_TOP, z) * reciprocal(horner(_TANH_BOTTOM, z))))

    return let(clamp(x, -7.90531110763549805, 7.90531110763549805), ratio)


def erf(x: Expr) -> Expr:
    """Error function."""

    def ratio(x: Expr) -> Expr:
        return let(x * x, lambda z: x * (horner(_ERF_TOP, z) * reciprocal(horner(_ERF_BOTTOM, z))))

    return let(clamp(x, -4.0, 4.0), ratio)


def _bell(x: Expr, scale: float, finish: Callable[[Expr], Expr]) -> Expr:
    """``finish(e)``, e = exp(-scale * x * x), precise for x * x up to 170. ``scale`` is a power of 2."""

    def parts(high: Expr) -> Expr:
        low = (x - high) * (x + high) * number(-scale)
        return let(low, lambda low: let(exp_below_zero(high * high * number(-scale), low), finish))

    return let(cut(x, _TWELVE_BITS), parts)


def _tail(t: Expr) -> Expr:
    """The tail e^(t^2 / 2) * (1 + erf(-t / sqrt 2)) / 2, for t from 0 to 14.5."""
    return let(reciprocal(number(1.0) + number(_TAIL_SCALE) * t), lambda v: v * horner(_TAIL, v))


def erfc(x: Expr) -> Expr:
    """1 - erf(x)."""

    def result(x: Expr) -> Expr:
        tail = number(2.0) * _tail(absolute(x) * number(1.4142135623730951))
        return _bell(x, 1.0, lambda e: let(e * tail, lambda p: select(x < number(0.0), number(2.0) - p, p)))

    return let(clamp(x, -10.2, 10.2), result)


def gelu(x: Expr) -> Expr:
    """GELU: x * (1 + erf(x / sqrt 2)) / 2.

    It is max(x, 0) - t * e^(-t^2 / 2) * tail(t) with t = |x|, so that no formula for positive numbers is needed.
    """
    from tvm import tirx

    def result(x: Expr) -> Expr:
        def tail(t: Expr) -> Expr:
            falling = half_square_decay(t)
            return tirx.max(number(0.0), x) - t * falling * _tail(t)

        # Beyond the bound the tail is no normal number.
        return let(tirx.min(number(13.2), absolute(x)), tail)

    return let(x, result)


def gelu_in_training(x: Expr) -> Expr:
    """GELU with an absolute error of 1e-6, which takes half the time of :func:`gelu`.

    PyTorch's own has such an error where the result is small.
    """
    from tvm import tirx

    def result(x: Expr) -> Expr:
        def ratio(bounded: Expr, z: Expr) -> Expr:
            half = bounded * horner(_NORMAL_TOP, z) * reciprocal(horner(_NORMAL_BOTTOM, z)) + number(0.5)
            return tirx.max(number(-5.7), x) * half

        return let(clamp(x, -5.7, 5.7), lambda bounded: let(bounded * bounded, lambda z: ratio(bounded, z)))

    return let(x, result)


def gelu_slope(x: Expr) -> Expr:
    """The derivative of the GELU: (1 + erf(x / sqrt 2)) / 2 + x * e^(-x^2 / 2) / sqrt(2 pi).

    Its absolute error is 4e-7. A gradient needs no relative precision of slopes next to 0, so no exponential is needed.
    """

    def ratio(x: Expr) -> Expr:
        return let(x * x, lambda z: x * horner(_SLOPE_TOP, z) * reciprocal(horner(_SLOPE_BOTTOM, z)) + number(0.5))

    return let(clamp(x, -6.0, 6.0), ratio)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x); 0 for x below -88."""
    return _sigmoid(x, -88.0, 0)


def twice_sigmoid(u: Expr, sign: int) -> Expr:
    """1 + tanh(u), or 1 - tanh(u) if ``sign`` is negative; 0 where it is below 7e-39."""
    return _sigmoid(number(2.0 if sign > 0 else -2.0) * u, -88.6, 1)


def _sigmoid(x: Expr, lowest: float, doublings: int) -> Expr:
    """The sigmoid of ``x`` times ``2^doublings``; 0 for ``x`` below ``lowest``."""

    def result(x: Expr) -> Expr:
        value = reciprocal(one_plus_decay(clamp(x, lowest, 80.0), doublings))
        return select(x < number(lowest), number(0.0), value)  # NaN is not below

    return let(x, result)


def _gate(x: Expr, z: Expr, low: Expr = None) -> Expr:
    """The product x * sigmoid(z + low), x and z of the same sign. ``low`` is a correction of at most 0.1; None: 0."""
    from tvm import tirx

    # AVX-512 can mask the result of an instruction by a comparison without another instruction.
    def product(r: Expr) -> Expr:
        kept = select(z >= number(_GATE_LOW), r, number(0.0))
        return select(z <= number(_GATE_HIGH), x * kept * number(0.5**_HALVINGS), x)

    return let(reciprocal(one_plus_decay(tirx.max(number(_GATE_LOW), z), _HALVINGS, low)), product)


def silu(x: Expr) -> Expr:
    """SiLU: x * sigmoid(x)."""
    return let(x, lambda x: _gate(x, x))


def gelu_tanh(x: Expr) -> Expr:
    """GELU by tanh: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2."""

    # 0.5 * (1 + tanh(u)) = sigmoid(2u). Where the sigmoid is small, it multiplies a relative error of 2u by up to 87.
    # So 2u is computed in two parts. The larger one is a product of factors of 12 bits, which is exact.
    def result(x: Expr) -> Expr:
        def square(bounded: Expr) -> Expr:
            def cubic(eight: Expr) -> Expr:
                return let(eight * eight * number(_GELU_CUBIC), lambda a: parts(bounded, eight, a))

            return let(cut(bounded, _EIGHT_BITS), cubic)

        def parts(bounded: Expr, eight: Expr, a: Expr) -> Expr:
            more = number(_GELU_LINEAR) + number(_GELU_CUBIC_REST) * eight * eight
            more = more + number(_GELU_CUBIC + _GELU_CUBIC_REST) * (bounded - eight) * (bounded + eight)

            def product(twelve: Expr, factor: Expr) -> Expr:
                rest = (bounded - twelve) * a + (twelve * (a - factor) + bounded * more)
                return let(twelve * factor, lambda z: let(rest, lambda rest: _gate_of_sum(x, z, rest)))

            twelve, factor = cut(bounded, _TWELVE_BITS), cut(a, _TWELVE_BITS)
            return let(twelve, lambda twelve: let(factor, lambda factor: product(twelve, factor)))

        return let(clamp(x, -13.0, 13.0), square)

    return let(x, result)


def _gate_of_sum(x: Expr, a: Expr, b: Expr) -> Expr:
    """The product x * sigmoid(a + b), including the part that a + b rounds away (Knuth's sum)."""

    def low(total: Expr, part: Expr) -> Expr:
        return let((a - (total - part)) + (b - part), lambda low: _gate(x, total, low))

    return let(a + b, lambda total: let(total - a, lambda part: low(total, part)))


def softplus(x: Expr) -> Expr:
    """ln(1 + e^x)."""
    from tvm import tirx

    return let(x, lambda x: tirx.max(number(0.0), x) + log1p_unit(exp_below_zero(number(0.0) - absolute(x))))


def mish(x: Expr) -> Expr:
    """Mish: x * tanh(ln(1 + e^x))."""

    # With e = e^-|x|, the tangent is (1 + 2e) / (1 + 2e + 2e^2). For a negative x it is e (2 + e) / (2 + 2e + e^2).
    def result(x: Expr) -> Expr:
        def ratio(raised: Expr) -> Expr:
            def of(e: Expr) -> Expr:
                negative = x < number(0.0)
                top = select(
                    negative, x * raised * number(_HEADROOM_FACTOR) * (e + number(2.0)), x * (number(1.0) + e + e)
                )
                bottom = select(
                    negative, e * (e + number(2.0)) + number(2.0), number(1.0) + number(2.0) * e * (e + number(1.0))
                )
                return top * reciprocal(bottom)

            return let(raised * number(_HEADROOM_FACTOR), of)

        return let(exp_below_zero(number(_HEADROOM) - absolute(x)), ratio)

    return let(x, result)


def selu(x: Expr) -> Expr:
    """SELU: 1.0507 * x, or 1.0507 * 1.67326 * (e^x - 1) if x is negative."""

    def result(x: Expr) -> Expr:
        negative = number(1.0507009873554805 * 1.6732632423543772) * expm1(x)
        return select(x < number(0.0), negative, number(1.0507009873554805) * x)

    return let(x, result)


#: The formulas by the names of Relax's operators.
ELEMENTARY: dict[str, Callable[[Expr], Expr]] = {
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
