"""Quantises and dequantises, as an importer's functions say it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilewright.graph.quantised.computing import compute, settle
from tilewright.graph.quantised.dynamic import serve_ends, subtract_computed
from tilewright.graph.quantised.scaled import Doubles, Scaled, Term
from tilewright.graph.quantised.tables import Tabulated, look_up, realise, tabulate
from tilewright.graph.value import Value, shape_of
from tilewright.ops.elementwise.affine import QUANTISATION
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["Quantiser", "as_bytes", "read_quantiser", "serve_call"]


@dataclass(frozen=True)
class Quantiser:
    """A call that quantises or dequantises a tensor by one known scale.

    Attributes:
        kind: ``quantise`` or ``dequantise``.
        data: what is quantised or dequantised.
        scale: the scale.
        zero: the zero point.
        dtype: of the integers.
    """

    kind: str
    data: relax.Var
    scale: float
    zero: float
    dtype: str

    def same_as(self, other: Quantiser) -> bool:
        """Whether both have the same numbers."""
        return (self.scale, self.zero, self.dtype) == (other.scale, other.zero, other.dtype)


def read_quantiser(walk: Rewriter, call: relax.Call) -> Quantiser | None:
    """What a call of an importer's function quantises or dequantises; None if it has several scales, or is neither."""
    from tvm import relax

    role = _role(walk, call)
    kind = "" if role is None else role.split()[0]
    data, *operands = call.args[1].fields
    if kind not in ("quantise", "dequantise") or not isinstance(data, relax.Var):
        return None
    found = [_read_constant(walk, walk.values.get(operand, operand)) for operand in operands]
    numbers = [number for number in found if number is not None and number.size == 1]
    kinds = [str(expr.ty.dtype) for expr in (call, data)]
    integers, reals = kinds if kind == "quantise" else kinds[::-1]
    if not numbers or len(numbers) < len(operands) or integers not in ("uint8", "int8") or reals != "float32":
        return None
    scale, zero = (float(number.reshape(-1)[0]) for number in (*numbers, np.zeros(()))[:2])
    return Quantiser(kind, data, scale, zero, integers) if 0.0 < scale < np.inf else None


def _role(walk: Rewriter, call: relax.Call) -> str | None:
    """What a function of an importer says that it does, and along which axis; None if it says nothing."""
    function = walk.builder.get()[call.args[0]]
    known = function.attrs is not None and QUANTISATION in function.attrs
    return str(function.attrs[QUANTISATION]) if known else None


def serve_call(walk: Rewriter, call: relax.Call) -> Value | None:
    """The value of a call of an importer's function that quantises or dequantises; None for any other call."""
    from tvm import relax

    role = _role(walk, call)
    if role is None:
        return None
    kind, axis = role.split()
    operands = [walk.values.get(a) if isinstance(a, relax.Var) else a for a in call.args[1].fields]
    x = operands[0]
    if kind == "ends":
        return serve_ends(walk, x) if isinstance(x, Value) else None
    numbers = [found for operand in operands[1:] if (found := _read_constant(walk, operand)) is not None]
    shape = shape_of(call)
    if kind == "widen" and isinstance(x, Value):
        zero_point = operands[1] if len(operands) > 1 else None
        if isinstance(zero_point, Value) and not numbers:
            return subtract_computed(walk, x, zero_point, shape)
        return _widen(walk, x, _along((*numbers, np.zeros(()))[0], shape, int(axis)), shape)
    if not isinstance(x, Value) or len(numbers) < len(operands) - 1:
        return None
    scale, zero = (_along(number, shape, int(axis)) for number in (*numbers, np.zeros(()))[:2])
    if scale is None or zero is None or not np.isfinite(scale).all() or not (scale > 0).all():
        return None
    if kind == "dequantise":
        return _dequantise(walk, x, shape, scale, zero, str(call.ty.dtype))
    return _quantise(walk, x, scale, zero, str(call.ty.dtype))


def _read_constant(walk: Rewriter, operand: object) -> Doubles | None:
    from tvm import ir

    if isinstance(operand, ir.GenericConst):
        return np.asarray(operand.value.numpy(), dtype=np.float64)
    if not isinstance(operand, Value) or operand.recipe is None or operand.recipe.source in walk.varying:
        return None
    return operand.recipe.apply(walk.arrays).astype(np.float64)


def _along(numbers: Array, shape: tuple[int, ...], axis: int) -> Doubles | None:
    """Scales or zero points in a shape that broadcasts; None if there is neither one nor one for each index."""
    values = np.asarray(numbers, dtype=np.float64)
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    if values.ndim != 1 or not shape or values.size != shape[axis % len(shape)]:
        return None
    column = [1] * len(shape)
    column[axis % len(shape)] = values.size
    return values.reshape(column)


def _dequantise(
    walk: Rewriter, x: Value, shape: tuple[int, ...], scale: Doubles, zero: Doubles, dtype: str
) -> Value | None:
    if dtype != "float32" or x.dtype not in ("uint8", "int8", "int32") or (x.recipe is None and scale.size > 1):
        return None
    if x.table is not None:
        numbers = (x.table.numbers - float(zero.reshape(-1)[0])) * float(scale.reshape(-1)[0])

        def make() -> Value:
            realise(x)
            made = _dequantise(walk, x, shape, scale, zero, dtype)
            assert made is not None
            return made

        return Value(shape, table=Tabulated(x.table.source, numbers.astype(np.float32).astype(np.float64), make))
    if x.scaled_form is not None:
        known = dataclasses.replace(x.scaled_form, shift=x.scaled_form.shift - zero).scaled(scale)
        return None if known is None else Value(shape, scaled_form=known)
    if x.dtype == "int8" and x.recipe is None:
        x = _shift_signed(walk, x)
        zero = zero + 128.0
    return Value(shape, scaled_form=Scaled((Term(x, scale),), -zero * scale))


def _widen(walk: Rewriter, x: Value, zero: Doubles | None, shape: tuple[int, ...]) -> Value | None:
    """Bytes minus a known zero point, in int32."""
    if zero is None or x.dtype not in ("uint8", "int8") or (x.recipe is None and zero.size > 1):
        return None
    if x.recipe is None and x.dtype == "int8":
        x = _shift_signed(walk, x)
        zero = zero + 128.0
    return Value(shape, dtype="int32", scaled_form=Scaled((Term(x, np.ones(())),), -zero))


def _quantise(walk: Rewriter, x: Value, scale: Doubles, zero: Doubles, dtype: str) -> Value | None:
    """Integers of real numbers. None if there are scales of channels, or zero points that are no bytes."""
    if dtype not in ("uint8", "int8") or scale.size != 1 or x.dtype != "float32" or x.recipe is not None:
        return None
    table = tabulate(x)
    if table is None:
        return _compute_bytes(walk, x, scale, zero, dtype)
    step, origin = float(scale.reshape(-1)[0]), float(zero.reshape(-1)[0])
    low, high = (0.0, 255.0) if dtype == "uint8" else (-128.0, 127.0)
    levels = np.clip(np.rint(table.numbers / step) + origin, low, high)
    if np.array_equal(levels - low, np.arange(256)):  # the same bytes again, as quantisers write them around moves
        return as_bytes(table.source, dtype)

    def make() -> Value:
        if x.scaled_form is not None:  # a scaled tensor of bytes, of which arithmetic makes other ones
            made = _compute_bytes(walk, x, scale, zero, dtype)
            assert made is not None
            return made
        return as_bytes(look_up(walk, table.source, levels - low), dtype)

    return Value(x.shape, dtype=dtype, table=Tabulated(table.source, levels, make))


def _compute_bytes(walk: Rewriter, x: Value, scale: Doubles, zero: Doubles, dtype: str) -> Value | None:
    step, origin = float(scale.reshape(-1)[0]), float(zero.reshape(-1)[0]) + (128.0 if dtype == "int8" else 0.0)
    whole = x.scaled_form
    if whole is None or whole.is_weight:
        whole = Scaled((Term(settle(walk, x), np.ones(())),))
        divided: float | None = step  # as ONNX Runtime does it
    else:
        divided = None
        form = whole.scaled(np.asarray(1.0 / step))
        if form is None:
            return None
        whole = form
    whole = whole.limited_to(-origin, 255.0 - origin)
    return as_bytes(compute(walk, whole, "uint8", int(origin), divided), dtype)


def as_bytes(made: Value, dtype: str) -> Value:
    """Unsigned bytes, or the signed ones that are less by 128."""
    if dtype == "uint8":
        return made
    return Value(made.shape, dtype="int8", scaled_form=Scaled((Term(made, np.ones(())),), np.asarray(-128.0)))


def _shift_signed(walk: Rewriter, x: Value) -> Value:
    """A tensor of signed bytes as one of unsigned bytes, each larger by 128."""
    form = Scaled((Term(x, np.ones(())),), np.zeros(()), -128.0, 127.0)
    return compute(walk, form, "uint8", 128, None)
