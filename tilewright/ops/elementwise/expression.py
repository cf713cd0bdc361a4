"""Tensor expressions of element-wise functions, with the formulas of :mod:`tilewright.ops.elementwise.elementary`."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.function import ELEMENTWISE, KEPT, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

__all__ = ["GELU", "GELU_SLOPE", "apply_formula"]

#: The kinds of the marks of a GELU in training, and of its slope, as importers emit them.
GELU, GELU_SLOPE = "gelu_in_training", "gelu_slope"


@lru_cache(KEPT)
def apply_formula(formula: Callable[[Expr], Expr], shape: tuple[int, ...], name: str, marked: bool = False) -> PrimFunc:
    """``formula`` of each element. Gives a PrimFunc (data, output).

    Args:
        formula: of an element.
        shape: of the data.
        name: of the function.
        marked: whether it has a mark of this name, so that its layout is chosen later. Without one, TVM fuses its own
            element-wise operators into it, and it into them.
    """
    from tvm import te

    x = te.placeholder(shape, name="data")
    y = te.compute(shape, lambda *i: formula(x(*i)), name=name, attrs=Mark(name).annotations if marked else {})
    return make_function([x, y], ELEMENTWISE)
