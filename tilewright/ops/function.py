"""From the tensors of an expression to the function that a network calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = ["BROADCAST", "ELEMENTWISE", "FUSABLE", "INJECTIVE", "KEPT", "OPAQUE", "REDUCTION", "make_function"]

#: TVM's OpPatternKind, the attribute ``op_pattern`` that fusion goes by: an element-wise function; one that repeats
#: operands along axes; one that moves elements; a sum, into which element-wise functions before it are fused; one that
#: element-wise consumers are fused into (kOutEWiseFusable); a function that nothing is fused with.
ELEMENTWISE, BROADCAST, INJECTIVE, REDUCTION, FUSABLE, OPAQUE = 0, 1, 2, 3, 4, 8
#: Functions that each expression keeps. A network of 1,000 equal operators makes theirs once, which takes 3 to 10 ms.
KEPT = 512


def make_function(tensors: list[Tensor], pattern: int) -> PrimFunc:
    """The function of an expression.

    Args:
        tensors: placeholders in the order of the parameters, then the result.
        pattern: what fusion may do with it: one of the patterns above.
    """
    from tvm import te

    function = te.create_prim_func(tensors, index_dtype_override="int64")  # as Relax counts
    return function.without_attr("global_symbol").with_attr({"op_pattern": pattern, "tirx.noalias": True})
