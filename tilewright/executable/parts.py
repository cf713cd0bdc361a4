"""Functions that only copy a part of a tensor. They need not run where the part lies in one piece."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm import tirx

__all__ = ["find_part"]


def find_part(function: tirx.PrimFunc) -> int | None:
    """The place in its operand, in elements, where the result of a function begins that only copies a part.

    copy[0, i, j] = data[0, i + 4, j]  -->  4 * columns

    Returns:
        the place; None if the function computes anything, or if the part does not lie in one piece.
    """
    from tvm import tirx
    from tvm.ir import TensorLoad
    from tvm.s_tir import SBlock
    from tvm.sym import detect_linear_equation
    from tvm_ffi import structural_walk

    blocks: list[SBlock] = []
    structural_walk(function.body, ((SBlock, blocks.append),))
    blocks = [block for block in blocks if block.name_hint != "root"]
    if len(function.params) != 2 or len(blocks) != 1 or not isinstance(blocks[0].body, tirx.BufferStore):
        return None
    store = blocks[0].body
    value, variables = store.value, [v.var for v in blocks[0].iter_vars]
    data, result = function.params
    if not isinstance(value, TensorLoad) or not value.source.same_as(data) or not store.buffer.same_as(result):
        return None
    whole, extents = ([int(d) for d in buffer.ty.shape] for buffer in (data, result))
    ordered = all(i.same_as(v) for i, v in zip(store.indices, variables, strict=False))
    if len(whole) != len(extents) or len(variables) != len(extents) or not ordered or data.ty.dtype != result.ty.dtype:
        return None
    begins = []
    for axis, index in enumerate(value.indices):
        linear = [int(c) for c in detect_linear_equation(index, variables) if isinstance(c, tirx.IntImm | int)]
        if linear[:-1] != [int(other == axis) for other in range(len(extents))]:
            return None
        begins.append(linear[-1])
    cut = next((axis for axis, extent in enumerate(extents) if extent > 1), 0)
    if extents[cut + 1 :] != whole[cut + 1 :]:
        return None
    steps = [math.prod(whole[axis + 1 :]) for axis in range(len(whole))]
    return sum(begin * step for begin, step in zip(begins, steps, strict=True))
