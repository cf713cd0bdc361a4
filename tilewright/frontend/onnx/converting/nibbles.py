"""The converter of products with weights of 4 bits, which stay packed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.converting.operands import constant, dtype_of, has, operand, shape_of
from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.ops.contraction.nibbles import NibbleForm, plain_nibbles

if TYPE_CHECKING:
    from tvm import relax


@converter("MatMulNBits", "com.microsoft")
def _multiply(given: Operands) -> Sequence[relax.Expr]:
    """As one function by itself, for which the graph puts another one."""
    from tvm import relax

    depth, outputs, block = (int(given.attributes[name]) for name in ("K", "N", "block_size"))
    if int(given.attributes.get("bits", 4)) != 4 or has(given, 4):
        raise NotImplementedError("weights have 4 bits, and their inputs lie in order")
    x = operand(given, 0)
    rows, *_ = shape = (math.prod(shape_of(x)[:-1]), depth)
    constant(given, 1)
    constant(given, 2)
    form = NibbleForm(depth, outputs, block, dtype_of(operand(given, 3)) if has(given, 3) else "")
    weights = [operand(given, 1), *(_flat(given, place) for place in (2, 3) if has(given, place))]
    symbol = given.builder.add_func(plain_nibbles(rows, form), "nibbles")
    arguments = [given.emit(relax.op.reshape(x, shape)), *weights]
    product = given.emit(relax.call_tir(symbol, arguments, relax.TensorType((rows, outputs), "float32")))
    result = given.emit(relax.op.reshape(product, (*shape_of(x)[:-1], outputs)))
    return [given.emit(relax.op.add(result, operand(given, 5))) if has(given, 5) else result]


def _flat(given: Operands, place: int) -> relax.Var:
    """Scales or zero points as a vector."""
    from tvm import relax

    x = operand(given, place)
    return given.emit(relax.op.reshape(x, (math.prod(shape_of(x)),)))
