"""Operators on sums of scaled tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tilewright.graph import pixels, tokens
from tilewright.graph.parts import split
from tilewright.graph.quantised import tables
from tilewright.graph.quantised.averages import average_pool, layer_norm, mean, multiply
from tilewright.graph.quantised.contractions import conv2d, matmul
from tilewright.graph.quantised.dynamic import cast, scale_by_computed
from tilewright.graph.quantised.scaled import Doubles, Scaled, Term
from tilewright.graph.value import Value, shape_of
from tilewright.graph.weight_moves import move_weight

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["read_constant", "serve"]

#: The most terms of a sum. More operands would not fit the registers beside the sums of a convolution.
_MOST_TERMS = 3


def serve(walk: Rewriter, name: str, call: relax.Call, args: list[Value | relax.Expr]) -> Value | list[Value] | None:
    """The value of an operator of which an operand is a sum of scaled tensors, or its parts.

    None if it needs the numbers.
    """
    known = [a for a in args if isinstance(a, Value) and (a.scaled_form is not None or a.table is not None)]
    if not known:
        return None
    handler = _TABLE.get(name)
    lazy = any(a.table is not None for a in known)
    found = None if handler is None or lazy else handler(walk, call, args)
    if found is None:
        constants = [read_constant(walk, a, 0) for a in args]
        found = tables.serve(walk, name, call, args, constants)
    if found is None and lazy and handler is not None:
        for operand in known:
            tables.realise(operand)
        found = handler(walk, call, args)
    return found


def read_constant(walk: Rewriter, operand: object, rank: int) -> Doubles | None:
    """The numbers of a constant operand, with as many axes as the result; None if it is not constant."""
    from tvm import ir, tirx

    if isinstance(operand, ir.GenericConst):
        found = np.asarray(operand.value.numpy(), dtype=np.float64)
    elif isinstance(operand, tirx.FloatImm | tirx.IntImm):
        found = np.asarray(operand.value, dtype=np.float64)
    elif isinstance(operand, Value) and operand.scaled_form is not None and operand.scaled_form.is_weight:
        found = operand.scaled_form.read(walk.arrays)
    elif isinstance(operand, Value) and operand.recipe is not None and operand.recipe.source not in walk.varying:
        if operand.dtype != "float32":
            return None
        found = operand.recipe.apply(walk.arrays).astype(np.float64)
    else:
        return None
    return found.reshape((1,) * (rank - found.ndim) + found.shape)


def _binary(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """A sum, a difference, or a product with a constant."""
    shape, name = shape_of(call), call.op.name.removeprefix("relax.")
    left, right = args
    numbers = read_constant(walk, right, len(shape))
    other, turned = left, False
    if numbers is None:
        numbers, other, turned = read_constant(walk, left, len(shape)), right, True
    if numbers is not None:
        form = other.scaled_form if isinstance(other, Value) else None
        if form is None or form.is_weight or other.shape != shape or not np.isfinite(numbers).all():
            return None
        if name in ("multiply", "divide"):
            if name == "divide" and (turned or not numbers.all()):
                return None
            made = form.scaled(numbers if name == "multiply" else 1.0 / numbers)
        else:
            if form.limited or (turned and name == "subtract"):
                return None
            made = dataclasses.replace(form, shift=form.shift + (numbers if name == "add" else -numbers))
        if made is None or not _is_by_channels(made, len(shape)):
            return None
        return Value(shape, scaled_form=made)
    if name == "multiply":
        scaled = scale_by_computed(walk, call, args, shape) if str(call.ty.dtype) == "float32" else None
        return scaled or multiply(walk, call, args)
    if name != "add" or not all(isinstance(a, Value) and a.shape == shape and a.dtype == "float32" for a in args):
        return None
    if any(a.recipe is not None for a in args):
        return None
    forms = [a.scaled_form or Scaled((Term(a, np.ones(())),)) for a in args]
    if any(f.limited for f in forms) or sum(len(f.terms) for f in forms) > _MOST_TERMS:
        return None
    whole = Scaled((*forms[0].terms, *forms[1].terms), forms[0].shift + forms[1].shift)
    # A convolution and a matrix product may have scales along different axes.
    return Value(shape, scaled_form=whole) if _is_by_channels(whole, len(shape)) else None


def _is_by_channels(form: Scaled, rank: int) -> bool:
    """Whether numbers differ only along the channels: axis 1 of tensors in blocks, and the last axis of others."""
    axis = 1 if any(term.value.packed is not None for term in form.terms) else rank - 1
    return all(n.size == 1 or (n.ndim == rank and n.size == n.shape[axis]) for n in form.numbers)


def _limit(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """Relu, and the maximum and the minimum of a tensor and a number, which Clip becomes."""
    value, shape = args[0], shape_of(call)
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or form.is_weight or value.shape != shape or str(call.ty.dtype) != "float32":
        return None
    bound = np.zeros(()) if call.op.name == "relax.nn.relu" else read_constant(walk, args[1], len(shape))
    if bound is None or bound.size != 1 or np.isnan(bound).any():
        return None
    number = float(bound.reshape(()))
    low, high = (-math.inf, number) if call.op.name == "relax.minimum" else (number, math.inf)
    return Value(shape, scaled_form=form.limited_to(low, high))


def _move(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """An operator that only moves elements, on the integers."""
    value, name = args[0], call.op.name.removeprefix("relax.")
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or len(form.terms) != 1 or form.terms[0].computed is not None:
        return None
    (term,) = form.terms
    if form.is_weight:
        if name != "permute_dims":
            return None
        axes = call.attrs.axes
        order = [int(a) for a in axes] if axes is not None else [*reversed(range(len(term.value.shape)))]
        moved = move_weight(name, call, [term.value])
        if moved is None or any(n.ndim not in (0, len(order)) for n in form.numbers):
            return None
        scale, shift = (n if n.ndim == 0 else n.transpose(order) for n in (term.scale, form.shift))
        return Value(moved.shape, scaled_form=dataclasses.replace(form, terms=(Term(moved, scale),), shift=shift))
    if any(n.size > 1 for n in form.numbers) or term.value.dtype != "uint8":
        return None
    moved = pixels.serve(walk, name, call, [term.value]) or tokens.serve(walk, name, call, [term.value])
    if moved is None:
        return None
    moved.dtype = term.value.dtype
    scale, shift = (n.reshape(()) for n in (term.scale, form.shift))
    return Value(
        moved.shape,
        dtype=value.dtype,
        scaled_form=dataclasses.replace(form, terms=(Term(moved, scale),), shift=shift),
    )


def _split(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> list[Value] | None:
    """The equal parts of bytes, as views. Those of blocked images are no views."""
    value = args[0]
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or not form.is_bytes:
        return None
    (term,) = form.terms
    if term.value.packed is not None:
        return None
    parts = split(walk, call, term.value)
    return parts and [
        Value(part.shape, dtype=value.dtype, scaled_form=dataclasses.replace(form, terms=(Term(part, term.scale),)))
        for part in parts
    ]


def _max_pool(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The maximum over windows, on the integers."""
    value = args[0]
    form = value.scaled_form if isinstance(value, Value) else None
    if form is None or any(term.value.packed is None or not (term.scale > 0).all() for term in form.terms):
        return None
    return _move(walk, call, args)


_Handler: TypeAlias = "Callable[[Rewriter, relax.Call, list[Value | relax.Expr]], Value | list[Value] | None]"
#: What serves each operator, by its name in Relax.
_TABLE: dict[str, _Handler] = {
    "add": _binary,
    "subtract": _binary,
    "multiply": _binary,
    "divide": _binary,
    "astype": cast,
    "nn.relu": _limit,
    "maximum": _limit,
    "minimum": _limit,
    "reshape": _move,
    "flatten": _move,
    "squeeze": _move,
    "expand_dims": _move,
    "permute_dims": _move,
    "split": _split,
    "nn.max_pool2d": _max_pool,
    "nn.avg_pool2d": average_pool,
    "mean": mean,
    "nn.layer_norm": layer_norm,
    "nn.conv2d": conv2d,
    "matmul": matmul,
}
