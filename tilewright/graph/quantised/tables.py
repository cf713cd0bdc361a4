"""Functions of bytes: a chain of element-wise operators on one byte has 256 results, which are computed at build time.

    QuantizeLinear(DequantizeLinear(x) * DequantizeLinear(QuantizeLinear(sigmoid(DequantizeLinear(x)))))  -->  table[x]

A chain is kept as its table until an operator needs the tensor. If its end is quantised, the tensor is looked up.
Otherwise it is computed operator by operator, as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.graph.quantised.scaled import Doubles
from tilewright.graph.value import Value, shape_of
from tilewright.ops.elementwise.lookup import lookup

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["Tabulated", "look_up", "realise", "serve", "tabulate"]

_Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Tabulated:
    """A tensor that is a function of bytes.

    Attributes:
        source: the tensor of unsigned bytes.
        numbers: the function's value for each byte. ``(256,)``
        make: computes the tensor.
    """

    source: Value
    numbers: Doubles
    make: Callable[[], Value]


def tabulate(value: object) -> Tabulated | None:
    """The table of a tensor that is a function of bytes, or the bytes themselves, scaled; None if it is no such one."""
    if not isinstance(value, Value):
        return None
    if value.table is not None or value.scaled_form is None:
        return value.table
    form = value.scaled_form
    (term, *others) = form.terms
    plain = not others and term.value.dtype == "uint8" and term.offset is None and term.value.recipe is None
    if not plain or value.dtype != "float32" or term.scale.size > 1 or form.shift.size > 1:
        return None
    numbers = np.arange(256) * float(term.scale.reshape(())) + float(form.shift.reshape(()))
    return Tabulated(term.value, np.clip(numbers, form.low, form.high), lambda: value)


def realise(value: object) -> None:
    """Compute the tensor of a table, or make it the sum of scaled tensors that it is."""
    if not isinstance(value, Value) or value.table is None:
        return
    made, value.table = value.table.make(), None
    realise(made)
    for name in ("base", "view", "packed", "block", "order", "copies", "fused", "fresh", "scaled_form"):
        setattr(value, name, getattr(made, name))


def look_up(walk: Rewriter, source: Value, levels: Doubles) -> Value:
    """The tensor of the unsigned bytes ``levels[source]``, in the layout of the source."""
    recipe = walk.make_weight(levels.astype(np.uint8))
    if source.packed is not None:
        shape = shape_of(source.packed)
        result = walk.call(lookup(shape), [source.packed, walk.add_weight(recipe)], shape, "lookup", "uint8")
        return Value(
            source.shape, packed=result, block=source.block, order=source.order, dtype="uint8", fused=source.fused
        )
    view = walk.make_whole_view(source)
    shape = shape_of(source.base)
    result = walk.call(lookup(shape), [source.base, walk.add_weight(recipe)], shape, "lookup", "uint8")
    return Value(source.shape, base=result, view=view, dtype="uint8", fresh=source.fresh)


def serve(
    walk: Rewriter, name: str, call: relax.Call, args: list[Value | relax.Expr], constants: list[Doubles | None]
) -> Value | None:
    """The value of an element-wise operator on functions of the same bytes, and constants of one number.

    Args:
        walk: emits the new graph.
        name: of Relax's operator, without ``relax.``.
        call: the call.
        args: its arguments.
        constants: the numbers of those arguments that are constants.
    """
    function = _FUNCTIONS.get(name)
    if function is None or str(call.ty.dtype) != "float32":
        return None
    tables = [tabulate(arg) for arg in args if isinstance(arg, Value)]
    known = [table for table in tables if table is not None]
    if not known or any(table.source is not known[0].source for table in known):
        return None
    if known[0].source.shape != shape_of(call):
        return None
    operands: list[_Floats] = []
    for arg, constant in zip(args, constants, strict=True):
        table = tabulate(arg)
        if table is not None:
            operands.append(table.numbers.astype(np.float32))
        elif constant is not None and constant.size == 1:
            operands.append(constant.reshape(()).astype(np.float32))
        else:
            return None
    with np.errstate(all="ignore"):
        numbers = np.asarray(function(call, *operands), dtype=np.float32)
    if numbers.shape != (256,) or not np.isfinite(numbers).all():
        return None

    def make() -> Value:
        made = walk.serve_numbers(name, call, args)
        assert isinstance(made, Value)
        return made

    return Value(shape_of(call), table=Tabulated(known[0].source, numbers.astype(np.float64), make))


def _sigmoid(x: _Floats) -> _Floats:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))), dtype=np.float32)


def _erf(x: _Floats) -> _Floats:
    from math import erf

    return np.asarray([erf(number) for number in x], dtype=np.float32)


def _gelu(x: _Floats) -> _Floats:
    return np.asarray(x * (1 + _erf(x * np.float32(0.5**0.5))) / 2, dtype=np.float32)


_Function: TypeAlias = "Callable[..., _Floats | np.float32]"
#: Element-wise operators by their names in Relax, as functions of the call and of the operands.
_FUNCTIONS: dict[str, _Function] = {
    "add": lambda _, a, b: a + b,
    "subtract": lambda _, a, b: a - b,
    "multiply": lambda _, a, b: a * b,
    "divide": lambda _, a, b: a / b,
    "maximum": lambda _, a, b: np.maximum(a, b),
    "minimum": lambda _, a, b: np.minimum(a, b),
    "power": lambda _, a, b: np.power(a, b),
    "nn.relu": lambda _, a: np.maximum(a, 0),
    "nn.leakyrelu": lambda call, a: np.where(a < 0, a * np.float32(call.attrs.alpha), a),
    "sigmoid": lambda _, a: _sigmoid(a),
    "tanh": lambda _, a: np.tanh(a),
    "exp": lambda _, a: np.exp(a),
    "erf": lambda _, a: _erf(a),
    "sqrt": lambda _, a: np.sqrt(a),
    "abs": lambda _, a: np.abs(a),
    "negative": lambda _, a: -a,
    "square": lambda _, a: a * a,
    "nn.gelu": lambda _, a: _gelu(a),
    "nn.silu": lambda _, a: a * _sigmoid(a),
    "clip": lambda _, a, low, high: np.clip(a, low, high),
}
