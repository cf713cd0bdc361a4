"""The places of the largest pixels of windows, and the gradient that goes back to them, on blocked tensors.

An importer leaves calls of functions on plain tensors, which are marked. They become the same functions on blocked
tensors, where a vector holds channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tilewright.graph.value import Value
from tilewright.ops.mark import take_mark
from tilewright.ops.window.places import (
    GRADIENT,
    PLACES,
    RECOMPUTING,
    MaxPool,
    max_pool_gradient,
    max_pool_places,
    recomputing_gradient,
)

if TYPE_CHECKING:
    from tvm import relax, tirx

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]

#: The functions by the kinds of their marks, and the dtypes of their results.
_FUNCTIONS: dict[str, tuple[Callable[[MaxPool, int], tirx.PrimFunc], str]] = {
    PLACES: (max_pool_places, "int64"),
    GRADIENT: (max_pool_gradient, "float32"),
    RECOMPUTING: (recomputing_gradient, "float32"),
}


def serve(walk: Rewriter, call: relax.Call) -> Value | None:
    """The result of a call of a marked function; None if the call is another one.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
    """
    from tvm import relax

    mark = take_mark(walk.builder.get()[call.args[0]])[1]
    operands = [walk.values.get(argument) for argument in call.args[1].fields]
    first = operands[0]
    if mark.kind not in _FUNCTIONS or not isinstance(first, Value):
        return None
    pool = MaxPool.parse(mark.detail)
    blocked = first.packed is not None and first.order is None and first.block <= walk.lanes
    block = first.block if blocked else walk.channel_block(first.channels)
    function, dtype = _FUNCTIONS[mark.kind]
    packed = [walk.pack(operand, block) for operand in operands if isinstance(operand, Value)]
    places = mark.kind == PLACES
    shape = pool.shapes(block)[places]
    made = walk.builder.add_func(function(pool, block), mark.kind)
    result = walk.emit(relax.call_tir(made, packed, relax.TensorType(shape, dtype)))
    pixels = pool.output if places else pool.data[2:]
    return Value((*pool.data[:2], *pixels), packed=result, block=block, dtype=dtype)
