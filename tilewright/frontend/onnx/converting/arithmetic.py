"""Operators that compute each element alone, or along an axis, for which ONNX has no simpler words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.importer import Operands, converter

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []


@converter("Max")
@converter("Min")
def _extreme(given: Operands) -> Sequence[relax.Expr]:
    """Max(a, b). TVM's converter stacks the operands, and reduces them."""
    from tvm import relax

    choose = relax.op.maximum if given.node.op_type == "Max" else relax.op.minimum
    found = given.inputs[0]
    for other in given.inputs[1:]:
        found = given.emit(choose(found, other))
    return [found]


@converter("CumProd")
def _cumulative_product(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    return [_cumulate(given, relax.op.cumprod)]


@converter("CumSum")
def _cumulative_sum(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    return [_cumulate(given, relax.op.cumsum)]


def _cumulate(given: Operands, operator: Callable[..., relax.Expr]) -> relax.Expr:
    from tvm import relax

    data, axis, fixed = given.inputs[0], given.constants[1], given.outputs[0]
    if axis is None or fixed is None:
        raise NotImplementedError("its axis is not a constant")
    place = int(axis.reshape(-1)[0]) % len(fixed.shape)
    backwards = bool(given.attributes.get("reverse", 0))
    if backwards:
        data = given.emit(relax.op.flip(data, axis=place))
    made = given.emit(operator(data, place, fixed.dtype, exclusive=bool(given.attributes.get("exclusive", 0))))
    return given.emit(relax.op.flip(made, axis=place)) if backwards else made
