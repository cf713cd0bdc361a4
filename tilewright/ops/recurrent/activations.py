"""The activation functions of recurrent operators, as formulas in float32 arithmetic that LLVM vectorises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tilewright.ops.elementwise.elementary import expm1, sigmoid, softplus, tanh
from tilewright.ops.elementwise.float32 import absolute, clamp, let, number, select

if TYPE_CHECKING:
    from tvm.ir import Expr

__all__ = ["FORMULAS", "Formula"]

#: Computes an activation from an expression and the activation's two parameters.
Formula: TypeAlias = "Callable[[Expr, float, float], Expr]"


def _affine(x: Expr, alpha: float, beta: float) -> Expr:
    return number(alpha) * x + number(beta)


def _elu(x: Expr, alpha: float, _: float) -> Expr:
    return let(x, lambda x: select(x < number(0.0), number(alpha) * expm1(x), x))


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return clamp(number(alpha) * x + number(beta), 0.0, 1.0)


def _leaky_relu(x: Expr, alpha: float, _: float) -> Expr:
    return let(x, lambda x: select(x < number(0.0), number(alpha) * x, x))


def _relu(x: Expr, _: float, __: float) -> Expr:
    from tvm import tirx

    return tirx.max(number(0.0), x)


def _scaled_tanh(x: Expr, alpha: float, beta: float) -> Expr:
    return number(alpha) * tanh(number(beta) * x)


def _softsign(x: Expr, _: float, __: float) -> Expr:
    return let(x, lambda x: x / (number(1.0) + absolute(x)))


def _thresholded_relu(x: Expr, alpha: float, _: float) -> Expr:
    return let(x, lambda x: select(number(alpha) < x, x, number(0.0)))


#: The formulas by the names of ONNX's activations, in lower case.
FORMULAS: dict[str, Formula] = {
    "affine": _affine,
    "elu": _elu,
    "hardsigmoid": _hard_sigmoid,
    "leakyrelu": _leaky_relu,
    "relu": _relu,
    "scaledtanh": _scaled_tanh,
    "sigmoid": lambda x, *_: sigmoid(x),
    "softplus": lambda x, *_: softplus(x),
    "softsign": _softsign,
    "tanh": lambda x, *_: tanh(x),
    "thresholdedrelu": _thresholded_relu,
}
