"""Gradients of convolutions: they are computed on blocked tensors.

An importer leaves a call of a function that is marked as the gradient of weights, on plain tensors. It becomes a
contraction of the blocked data and the blocked gradient of the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.graph.value import Value
from tilewright.ops.pixel_sums import WEIGHT_GRADIENT, WeightGradient, weight_gradient
from tilewright.ops.mark import take_mark

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]


def serve(walk: Rewriter, call: relax.Call) -> Value | None:
    """The result of a call of a gradient of weights; None if the call is another one, or has no blocked form.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
    """
    from tvm import relax

    mark = take_mark(walk.builder.get()[call.args[0]])[1]
    operands = [walk.values.get(argument) for argument in call.args[1].fields]
    if mark.kind != WEIGHT_GRADIENT or len(operands) != 2:
        return None
    data, gradient = operands
    if not isinstance(data, Value) or not isinstance(gradient, Value):
        return None
    form = WeightGradient.parse(mark.detail)
    if form.groups != 1:
        return None
    out, channels, kh, kw = form.weight
    cb, x = _block(walk, data), _block(walk, gradient)
    function = weight_gradient(form, cb, x)
    arguments = [walk.pack(data, cb), walk.pack(gradient, x)]
    packed = walk.call(function, arguments, (channels // cb, kh, out // x, kw, cb, x), WEIGHT_GRADIENT)
    result = walk.emit(relax.op.permute_dims(packed, [2, 5, 0, 4, 1, 3]))
    return Value.plain(form.weight, walk.reshape(result, form.weight))


def _block(walk: Rewriter, value: Value) -> int:
    """The channels in a block: those that the tensor has already, if that is at most a vector."""
    known = value.packed is not None and value.order is None and value.block <= walk.lanes
    return value.block if known else walk.channel_block(value.channels)
