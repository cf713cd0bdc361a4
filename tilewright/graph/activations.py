"""Joins a GELU in training with the product that gives its data.

    y = dense_add(x, w, bias); z = gelu_in_training(y)
    -->
    y, z = dense_add_gelu(x, w, bias)

Both results are saved for the backward pass, which reads ``y`` for the slope of the GELU. That is why TVM has not fused
the two functions. The joined function computes ``z`` without reading ``y`` from memory again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tilewright.graph.pairs import Pair, find_pairs, join_calls
from tilewright.ops.contraction.form import KIND as CONTRACTION
from tilewright.ops.elementwise.expression import GELU
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["join_activations"]


def join_activations(module: IRModule, marks: Mapping[str, Mark], lanes: int) -> tuple[IRModule, Mapping[str, Mark]]:
    """The fused network with one function for each product and the GELU of its result, and all marks.

    Args:
        module: the fused network.
        marks: of its functions, by name.
        lanes: the float32 numbers in a vector register. They divide the columns of products that are joined.
    """

    def fits(pair: Pair) -> bool:
        first, second = pair.names
        if second.rstrip("0123456789") != GELU or len(pair.second_reads) != 1 or marks[first].kind != CONTRACTION:
            return False
        shape = [int(extent) for extent in pair.first.ty_args[0].shape]
        alike = len(shape) == len(pair.second.ty_args[0].shape) == 2
        return alike and shape[1] % lanes == 0 and len(pair.first_reads) > 1

    def describe(pair: Pair) -> tuple[str, Mark]:
        return pair.make_name("gelu"), marks[pair.names[0]]

    return join_calls(module, marks, find_pairs(module, 0, fits), describe)
