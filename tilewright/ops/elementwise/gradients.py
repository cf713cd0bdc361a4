"""Tensor expressions of the gradients of activations, each of which is one element-wise function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.elementwise.elementary import exp, gelu_slope, sigmoid
from tilewright.ops.elementwise.float32 import let, number, select
from tilewright.ops.function import BROADCAST, ELEMENTWISE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

__all__ = ["ACTIVATIONS", "ACTIVATION_GRADIENT", "ActivationGradient", "activation_gradient"]

#: The kind of the mark of :func:`activation_gradient` as importers emit it.
ACTIVATION_GRADIENT = "activation_gradient"


def _threshold(dy: Expr, x: Expr, limit: float) -> Expr:
    return select(x <= number(limit), number(0.0), dy)


def _hard_swish(dy: Expr, x: Expr) -> Expr:
    inside = dy * (x * number(1 / 3) + number(0.5))
    return select(x <= number(-3.0), number(0.0), select(x < number(3.0), inside, dy))


def _hard_sigmoid(dy: Expr, x: Expr) -> Expr:
    from tvm import tirx

    return select(tirx.And(x > number(-3.0), x < number(3.0)), dy * number(1 / 6), number(0.0))


def _hard_tanh(dy: Expr, x: Expr, low: float, high: float) -> Expr:
    from tvm import tirx

    return select(tirx.Or(x <= number(low), x >= number(high)), number(0.0), dy)


def _leaky_relu(dy: Expr, x: Expr, slope: float) -> Expr:
    return select(x > number(0.0), dy, dy * number(slope))


def _elu(dy: Expr, x: Expr, factor: float, scale: float, inner: float, of_result: float) -> Expr:
    """The gradient of scale * (alpha * (e^(inner * x) - 1)) for a negative x, by x or by the result."""
    edge = factor * scale
    slope = x + number(edge) if of_result else number(edge) * exp(x * number(inner))
    return select(x <= number(0.0), dy * number(inner) * slope, dy * number(scale))


def _silu(dy: Expr, x: Expr) -> Expr:
    one = number(1.0)
    return let(x, lambda x: let(sigmoid(x), lambda s: dy * s * (one + x * (one - s))))


def _gelu(dy: Expr, x: Expr) -> Expr:
    return dy * gelu_slope(x)


#: The gradient of the data by the names of activations: of the result's gradient, the data, and the numbers.
ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "threshold": _threshold,
    "hardswish": _hard_swish,
    "hardsigmoid": _hard_sigmoid,
    "hardtanh": _hard_tanh,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "silu": _silu,
    "gelu": _gelu,
}

_Shape: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True)
class ActivationGradient:
    """The gradient of an activation.

    Attributes:
        activation: one of :data:`ACTIVATIONS`.
        numbers: of the activation, such as the slope of a leaky ReLU.
    """

    activation: str
    numbers: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """Of its function."""
        return f"{self.activation}_gradient"

    def detail(self) -> str:
        """All of it as text, for a mark."""
        return ",".join([self.activation, *map(repr, self.numbers)])

    @classmethod
    def parse(cls, detail: str) -> ActivationGradient:
        """What :meth:`detail` wrote."""
        activation, *numbers = detail.split(",")
        return cls(activation, tuple(map(float, numbers)))


@lru_cache(KEPT)
def activation_gradient(gradient: ActivationGradient, dy: _Shape, shape: _Shape, marked: bool) -> PrimFunc:
    """The gradient of an activation's data. Gives a PrimFunc (gradient, data, output).

    Args:
        gradient: which one.
        dy: shape of the result's gradient, which is repeated along axes where it has one element.
        shape: of the data and of the output.
        marked: whether it has a mark, so that its layout is chosen later.
    """
    from tvm import te

    given, x = te.placeholder(dy, name="gradient"), te.placeholder(shape, name="data")
    formula = ACTIVATIONS[gradient.activation]
    marks = Mark(ACTIVATION_GRADIENT, gradient.detail()).annotations if marked else {}

    def element(*place: Expr) -> Expr:
        source = [0 if extent == 1 else i for i, extent in zip(place, dy, strict=True)]
        return formula(given(*source), x(*place), *gradient.numbers)

    y = te.compute(shape, element, name=gradient.name, attrs=marks)
    return make_function([given, x, y], ELEMENTWISE if dy == shape else BROADCAST)
