"""Functions for converters: they read inputs and attributes of a node, and emit tensor expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.importer import Operands
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__ = [
    "bound",
    "constant",
    "dtype_of",
    "element",
    "embed",
    "emit",
    "has",
    "known",
    "numbers",
    "operand",
    "result_of",
    "shape_of",
    "text",
]


def has(given: Operands, place: int) -> bool:
    """Whether the node has an input at ``place``."""
    return place < len(given.inputs) and given.inputs[place] is not None


def operand(given: Operands, place: int) -> relax.Expr:
    """The input at ``place``.

    Raises:
        ValueError: it is absent.
    """
    if not has(given, place):
        raise ValueError(f"input {place} is absent")
    return given.inputs[place]


def known(given: Operands, place: int) -> Array | None:
    """The values of an input that is a constant; None if it is absent or computed."""
    return given.constants[place] if place < len(given.constants) else None


def constant(given: Operands, place: int) -> Array:
    """The values of an input that must be a constant.

    Raises:
        NotImplementedError: it is absent or computed.
    """
    values = known(given, place)
    if values is None:
        raise NotImplementedError(f"input {place} is not a constant")
    return values


def result_of(given: Operands, place: int = 0) -> tuple[tuple[int, ...], str]:
    """The shape and the dtype of an output.

    Raises:
        NotImplementedError: they are not known.
    """
    found = given.outputs[place] if place < len(given.outputs) else None
    if found is None:
        raise NotImplementedError("the shape of its result is not known")
    return found.shape, found.dtype


def numbers(given: Operands, name: str, default: Sequence[int]) -> list[int]:
    """An attribute that is a list of integers."""
    return [int(value) for value in given.attributes.get(name, default)]


def text(given: Operands, name: str, default: str) -> str:
    """An attribute that is a text."""
    value = given.attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def shape_of(expr: relax.Expr | Tensor) -> tuple[int, ...]:
    """The shape of a tensor of Relax, or of a tensor expression."""
    shape = expr.shape if hasattr(expr, "shape") else expr.ty.shape.values
    return tuple(int(extent) for extent in shape)


def dtype_of(expr: relax.Expr) -> str:
    """The dtype of a tensor of Relax, as NumPy names it."""
    return str(expr.ty.dtype)


def embed(values: Array) -> relax.Expr:
    """A constant of the network."""
    from tvm import relax

    return relax.const(np.ascontiguousarray(values).reshape(values.shape), str(values.dtype))


def emit(
    given: Operands, function: Callable[..., Tensor | Sequence[Tensor]], operands: Sequence[relax.Expr], name: str
) -> relax.Var:
    """Emit a tensor expression.

    Args:
        given: the node.
        function: makes the tensor expression from ``operands`` as tensors of TE.
        operands: tensors of Relax.
        name: the name of the kernel.
    """
    return given.builder.emit_te(function, *operands, primfunc_name_hint=name)


def element(tensor: Tensor, index: Sequence[Expr | int] = ()) -> Expr:
    """The element of a broadcast tensor at ``index``. Along an extent of 1, the index is 0.

    The dimensions of the tensor are the last ones of ``index``. A tensor of one number may have any dimensions.
    """
    shape = shape_of(tensor)
    if math.prod(shape) == 1:
        return tensor(*[0] * len(shape))
    own = list(index)[len(index) - len(shape) :]
    return tensor(*[0 if extent == 1 else place for place, extent in zip(own, shape, strict=True)])


def bound(index: Expr, extent: int) -> Expr:
    """The index, limited to ``[0, extent)``, since a computed index must not read outside of a tensor."""
    from tvm import tirx

    zero, last = tirx.const(0, index.ty.dtype), tirx.const(max(0, extent - 1), index.ty.dtype)
    return tirx.max(tirx.min(index, last), zero)
