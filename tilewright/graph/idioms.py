"""Finds activations that importers and exporters write as several operators, and names the one that they are.

    x * (erf(x / 1.4142) + 1) * 0.5  -->  gelu(x)        x * sigmoid(x)                -->  silu(x)
    log(1 + exp(x))                  -->  softplus(x)    x * tanh(log(1 + exp(x)))     -->  mish(x)
    log(1 + y)                       -->  log1p(y)       exp(x) - 1                    -->  expm1(x)
    1 + erf(y)                       -->  erfc(-y)       1 + tanh(u)                   -->  2 * sigmoid(2 * u)
    x * clip(x + 3, 0, 6) / 6        -->  hard_swish(x)

The written-out form loses the tails: ``1 + erf(-6)`` is 0 in float32, and so is ``log(1 + exp(-18))``. That of
hard-swish divides each element, which takes longer than all else. The factors of a product may have any order, and
constants among them become a scale of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tilewright.graph.polynomials import CLOSE, add, multiply, near
from tilewright.ops.elementwise import elementary
from tilewright.ops.elementwise.float32 import clamp, let, number

if TYPE_CHECKING:
    from tvm import relax, tirx

__all__ = ["SOFTPLUS_THRESHOLD", "Formula", "Idiom", "find_idiom"]

#: PyTorch's softplus(x) is x above a threshold. From 16 on, x and softplus(x) are the same float32.
SOFTPLUS_THRESHOLD = 16.0
#: How many operators deep an expression is searched.
_DEEP = 6
#: A gate is a function g in a product x * g(x), such as sigmoid in SiLU. These are the last operators of gates, and the
#: operators between a gate's last one and the gated value.
_GATES = {"relax.sigmoid", "relax.tanh", "relax.add"}
_INSIDE_GATES = {
    f"relax.{name}" for name in ("add", "multiply", "divide", "power", "square", "erf", "tanh", "log", "exp")
}
_INSIDE_GATES |= {"relax.nn.softplus", "relax.maximum", "relax.where", "relax.negative", "relax.abs", "relax.nn.relu"}

#: A formula of one element.
Formula: TypeAlias = "Callable[[tirx.Expr], tirx.Expr]"


@dataclass(frozen=True)
class _Name:
    """The name of an operator, in the place of a ``tvm.ir.Op``."""

    name: str


@dataclass(frozen=True)
class Idiom:
    """A call of an operator that Relax does not have. Its fields have the names of those of a ``relax.Call``.

    Attributes:
        op: has the operator's ``name``.
        args: the one operand, a variable.
        function: the formula of an element.
        ty: the type of the result.
        attrs: always None.
    """

    op: _Name
    args: tuple[relax.Var, ...]
    function: Formula
    ty: relax.TensorType
    attrs: None = None


def find_idiom(
    call: relax.Call, bindings: Mapping[relax.Var, relax.Expr], scalars: Mapping[relax.Var, float]
) -> Idiom | None:
    """The idiom whose last operator is ``call``; None if there is none.

    Args:
        call: the call of an operator.
        bindings: the expression of each variable that was bound before ``call``.
        scalars: the numbers of the variables that hold one number.
    """
    if str(getattr(call.ty, "dtype", "")) != "float32":
        return None
    reader = _Reader(bindings, scalars)
    name = call.op.name.removeprefix("relax.")
    rules = {"multiply": reader.product, "divide": reader.quotient, "log": reader.logarithm, "where": reader.choice}
    rule = (rules | {"add": reader.total, "subtract": reader.total}).get(name)
    found = None if rule is None else rule(call)
    if found is None:
        return None
    word, function, operand = found
    shapes = [[int(d) for d in expr.ty.shape.values] for expr in (operand, call)]
    return Idiom(_Name(word), (operand,), function, call.ty) if shapes[0] == shapes[1] else None


#: The name of an idiom, its formula, and its operand.
_Found: TypeAlias = "tuple[str, Formula, relax.Var]"


@dataclass(frozen=True)
class _Reader:
    """Reads expressions through the bindings of their variables."""

    bindings: Mapping[relax.Var, relax.Expr]
    scalars: Mapping[relax.Var, float]

    # Idioms, by their last operator

    def product(self, call: relax.Call) -> _Found | None:
        """The idiom of a product k * x * gate(x), with the factors in any order."""
        for gate in self.factors(call)[1]:
            for x in self.origins(gate):
                factor, terms = self.factors(call, x)
                if len(terms) != 2 or not any(self.same(x, term) for term in terms):
                    continue
                other = terms[0] if self.same(x, terms[1]) else terms[1]
                found = self.gate(x, other)
                if found is not None:
                    word, function, scale = found
                    return word, _scaled(function, factor * scale), x
        return None

    def quotient(self, call: relax.Call) -> _Found | None:
        """The idiom of x * clip(x + b, low, high) / c, with the factors in any order."""
        if not self.scalar(call.args[1]):
            return None
        for gate in self.factors(call)[1]:
            clipped = self.clipped(gate)
            if clipped is None:
                continue
            inner, low, high = clipped
            shifted = self.call(inner)
            for x in [] if shifted is None or shifted.op.name != "relax.add" else shifted.args:
                factor, terms = self.factors(call, x)
                line = self.polynomial(inner, x)
                if line is None or line.keys() != {0, 1} or line[1] != 1.0 or len(terms) != 2:
                    continue
                if any(self.same(x, term) for term in terms) and any(self.same(gate, term) for term in terms):
                    return "hard_swish", _hard_swish(line[0], (low, high), factor), x
        return None

    def origins(self, gate: relax.Expr) -> list[relax.Var]:
        """The variables from which a factor is computed; none if the factor cannot be a gate."""
        from tvm import relax

        call = self.call(gate)
        if call is None or call.op.name not in _GATES:
            return []
        found: dict[relax.Var, None] = {}
        level = list(call.args)
        for _ in range(_DEEP):
            level = [v for v in level if isinstance(v, relax.Var) and self.scalar(v) is None and v not in found]
            found |= dict.fromkeys(level)
            calls = [c for c in map(self.call, level) if c is not None and c.op.name in _INSIDE_GATES]
            level = [arg for c in calls for arg in c.args]
        return list(found)

    def gate(self, x: relax.Var, gate: relax.Expr) -> tuple[str, Formula, float] | None:
        """The idiom that x * gate is: its name, its formula of x, and a factor."""
        if (y := self.operand(gate, "sigmoid")) is not None and self.same(x, y):
            return "silu", elementary.silu, 1.0
        if (y := self.operand(gate, "tanh")) is not None:
            soft = self.soft(y)
            if soft is not None and self.same(x, soft):
                return "mish", elementary.mish, 1.0
        beside = self.beside_one(gate)
        if beside is None or beside[1] < 0:
            return None
        if (y := self.operand(beside[0], "erf")) is not None and near(self.polynomial(y, x), {1: math.sqrt(0.5)}):
            return "gelu", elementary.gelu, 2.0
        if (y := self.operand(beside[0], "tanh")) is not None:
            slope = math.sqrt(2.0 / math.pi)
            if near(self.polynomial(y, x), {1: slope, 3: 0.044715 * slope}):
                return "gelu_tanh", elementary.gelu_tanh, 2.0
        return None

    def logarithm(self, call: relax.Call) -> _Found | None:
        """The idiom of log(1 + e^x), log(1 + y), or log(sigmoid(x))."""
        if (x := self.operand(call.args[0], "sigmoid")) is not None:
            return "log_sigmoid", lambda v: _negative(elementary.softplus(_negative(v))), x
        beside = self.beside_one(call.args[0])
        if beside is None or beside[1] < 0:
            return None
        if (x := self.operand(beside[0], "exp")) is not None and self.operand(x, "negative") is None:
            return "softplus", elementary.softplus, x
        return "log1p", elementary.log1p, beside[0]

    def total(self, call: relax.Call) -> _Found | None:
        """The idiom of max(x, 0) + log(1 + e^-|x|), or of a sum with 1 that loses the tail of its other part."""
        if call.op.name == "relax.add":
            for large, small in (tuple(call.args), tuple(call.args)[::-1]):
                x = self.positive_part(large)
                if x is not None and self.is_soft_rest(small, x):
                    return "softplus", elementary.softplus, x
        expr = self.minus_one(call)
        if expr is not None:
            z = self.operand(expr, "exp")
            return None if z is None else ("expm1", elementary.expm1, z)
        beside = self.beside_one(call)
        if beside is None:
            return None
        expr, sign = beside
        if (y := self.operand(expr, "erf")) is not None:
            return "erfc", (lambda v: elementary.erfc(_negative(v))) if sign > 0 else elementary.erfc, y
        if (u := self.operand(expr, "tanh")) is not None:
            return "twice_sigmoid", lambda v: elementary.twice_sigmoid(v, sign), u
        if sign < 0 and (z := self.operand(expr, "sigmoid")) is not None:
            return "sigmoid", lambda v: elementary.sigmoid(_negative(v)), z
        if sign < 0 and (z := self.operand(expr, "exp")) is not None:
            return "one_minus_exp", lambda v: _negative(elementary.expm1(v)), z
        return None

    def choice(self, call: relax.Call) -> _Found | None:
        """The idiom of PyTorch's softplus: x where x > 20, log(1 + e^x) elsewhere."""
        condition, large, small = call.args
        x = self.soft(small)
        test = self.call(condition)
        if x is None or not self.same(x, large) or test is None or test.op.name != "relax.greater":
            return None
        limit = self.scalar(test.args[1])
        usual = limit is not None and limit >= SOFTPLUS_THRESHOLD and self.same(test.args[0], x)
        return ("softplus", elementary.softplus, x) if usual else None

    # Parts of idioms

    def clipped(self, expr: relax.Expr) -> tuple[relax.Expr, float, float] | None:
        """The y, the lower and the upper bound of a clipped y; None if the expression is no such thing."""
        call = self.call(expr)
        name = "" if call is None else call.op.name
        if call is not None and name == "relax.clip":
            bounds = [getattr(getattr(arg, "value", arg), "value", None) for arg in call.args[1:]]
            numbers = [float(bound) for bound in bounds if bound is not None]
            return (call.args[0], numbers[0], numbers[1]) if len(numbers) == 2 else None
        for outer, inner in (("minimum", "maximum"), ("maximum", "minimum")):
            first = self.bounded(expr, outer)
            second = None if first is None else self.bounded(first[0], inner)
            if first is not None and second is not None:
                low, high = sorted((first[1], second[1]))
                lower = second[1] if outer == "minimum" else first[1]
                return (second[0], low, high) if lower == low else None
        return None

    def bounded(self, expr: relax.Expr, name: str) -> tuple[relax.Expr, float] | None:
        """The y and the bound of a minimum or maximum of y and a number."""
        call = self.call(expr)
        if call is None or call.op.name != f"relax.{name}":
            return None
        for y, bound in (tuple(call.args), tuple(call.args)[::-1]):
            number = self.scalar(bound)
            if number is not None:
                return y, number
        return None

    def soft(self, expr: relax.Expr) -> relax.Expr | None:
        """The x of softplus(x), written in any form."""
        call = self.call(expr)
        if call is None:
            return None
        if call.op.name == "relax.nn.softplus":
            usual = float(call.attrs.beta) == 1.0 and float(call.attrs.threshold) >= SOFTPLUS_THRESHOLD
            return call.args[0] if usual else None
        rules = {"relax.log": self.logarithm, "relax.add": self.total, "relax.where": self.choice}
        rule = rules.get(call.op.name)
        found = None if rule is None else rule(call)
        return found[2] if found is not None and found[0] == "softplus" else None

    def positive_part(self, expr: relax.Expr) -> relax.Expr | None:
        """The x of max(x, 0)."""
        if (x := self.operand(expr, "nn.relu")) is not None:
            return x
        call = self.call(expr)
        if call is None or call.op.name != "relax.maximum":
            return None
        for x, zero in (tuple(call.args), tuple(call.args)[::-1]):
            if self.scalar(zero) == 0.0:
                return x
        return None

    def is_soft_rest(self, expr: relax.Expr, x: relax.Expr) -> bool:
        """Whether the expression is log(1 + e^-|x|)."""
        inner = self.operand(expr, "log")
        beside = None if inner is None else self.beside_one(inner)
        power = None if beside is None or beside[1] < 0 else self.operand(beside[0], "exp")
        size = None if power is None else self.operand(power, "negative")
        y = None if size is None else self.operand(size, "abs")
        return y is not None and self.same(x, y)

    def beside_one(self, expr: relax.Expr) -> tuple[relax.Expr, int] | None:
        """The y of 1 + y, y + 1 or 1 - y, and its sign: 1 or -1."""
        call = self.call(expr)
        if call is None or call.op.name not in ("relax.add", "relax.subtract"):
            return None
        left, right = call.args
        if self.scalar(left) == 1.0:
            return right, 1 if call.op.name == "relax.add" else -1
        return (left, 1) if call.op.name == "relax.add" and self.scalar(right) == 1.0 else None

    def minus_one(self, expr: relax.Expr) -> relax.Expr | None:
        """The y of y - 1."""
        call = self.call(expr)
        wanted = {"relax.subtract": 1.0, "relax.add": -1.0}.get("" if call is None else call.op.name)
        return call.args[0] if call is not None and wanted and self.scalar(call.args[1]) == wanted else None

    def factors(
        self, expr: relax.Expr, whole: relax.Expr | None = None, depth: int = 0
    ) -> tuple[float, list[relax.Expr]]:
        """The constant of a product, and its other factors. The factor ``whole`` is not split further."""
        number = self.scalar(expr)
        if number is not None:
            return number, []
        if whole is not None and self.same(expr, whole):
            return 1.0, [expr]
        call = self.call(expr)
        name = "" if call is None else call.op.name
        if call is not None and depth < _DEEP and name == "relax.multiply":
            parts = [self.factors(arg, whole, depth + 1) for arg in call.args]
            return parts[0][0] * parts[1][0], parts[0][1] + parts[1][1]
        if call is not None and depth < _DEEP and name == "relax.divide":
            divisor = self.scalar(call.args[1])
            if divisor:
                factor, terms = self.factors(call.args[0], whole, depth + 1)
                return factor / divisor, terms
        return 1.0, [expr]

    def polynomial(self, expr: relax.Expr, x: relax.Expr, depth: int = 0) -> dict[int, float] | None:
        """The coefficients of ``expr`` by powers of ``x``; None if ``expr`` is no polynomial of ``x``."""
        number = self.scalar(expr)
        if number is not None:
            return {0: number}
        if self.same(expr, x):
            return {1: 1.0}
        call = self.call(expr)
        if call is None or depth > _DEEP:
            return None
        parts = [self.polynomial(arg, x, depth + 1) for arg in call.args]
        known = [part for part in parts if part is not None]
        if len(known) != len(parts):
            return None
        name = call.op.name.removeprefix("relax.")
        if name == "add":
            return add(known[0], known[1])
        if name == "multiply":
            return multiply(known[0], known[1])
        if name == "square":
            return multiply(known[0], known[0])
        if name == "divide" and list(known[1]) == [0] and known[1][0]:
            return multiply(known[0], {0: 1.0 / known[1][0]})
        if name == "power" and list(known[1]) == [0] and known[1][0] in (2.0, 3.0):
            square = multiply(known[0], known[0])
            return square if known[1][0] == 2.0 else multiply(square, known[0])
        return None

    def same(self, a: relax.Expr, b: relax.Expr) -> bool:
        """Whether both are the same variable."""
        return bool(a.same_as(b))

    def call(self, expr: relax.Expr) -> relax.Call | None:
        """The call of an operator that a variable is bound to, or that the expression is; None for anything else."""
        from tvm import ir, relax

        bound = self.bindings.get(expr) if isinstance(expr, relax.Var) else expr
        return bound if isinstance(bound, relax.Call) and isinstance(bound.op, ir.Op) else None

    def operand(self, expr: relax.Expr, name: str) -> relax.Expr | None:
        """The operand of a call of the operator ``name``; None if the expression is no such call."""
        call = self.call(expr)
        return call.args[0] if call is not None and call.op.name == f"relax.{name}" else None

    def scalar(self, expr: relax.Expr) -> float | None:
        """The number that the expression holds; None if it does not hold one number."""
        from tvm import ir, relax

        if isinstance(expr, relax.Var):
            return self.scalars.get(expr)
        if isinstance(expr, ir.GenericConst) and math.prod(expr.value.shape) == 1:
            array = expr.value.numpy()
            return float(array.reshape(())) if array.dtype.kind in "fi" else None
        return None


def _scaled(function: Formula, factor: float) -> Formula:
    # A product of rounded constants is 1 - 6e-8 where the exporter meant 1.
    return function if abs(factor - 1.0) <= CLOSE else lambda v: function(v) * number(factor)


def _hard_swish(shift: float, bounds: tuple[float, float], factor: float) -> Formula:
    """The function x * clip(x + shift, bounds) * factor."""

    def formula(x: tirx.Expr) -> tirx.Expr:
        return let(x, lambda x: x * clamp(x + number(shift), *bounds) * number(factor))

    return formula


def _negative(value: tirx.Expr) -> tirx.Expr:
    return number(0.0) - value
