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

__all__ = ["THRESHOLD_GRADIENT", "apply_formula", "threshold_gradient"]

#: The kind of the mark of :func:`threshold_gradient` as importers emit it. Its detail is the threshold.
THRESHOLD_GRADIENT = "threshold_gradient"


@lru_cache(KEPT)
def apply_formula(formula: Callable[[Expr], Expr], shape: tuple[int, ...], name: str) -> PrimFunc:
    """``formula`` of each element. Gives a PrimFunc (data, output).

    The expression has no mark: TVM fuses its own element-wise operators into it, and it into them.
    """
    from tvm import te

    x = te.placeholder(shape, name="data")
    y = te.compute(shape, lambda *i: formula(x(*i)), name=name)
    return make_function([x, y], ELEMENTWISE)


@lru_cache(KEPT)
def threshold_gradient(shape: tuple[int, ...], threshold: float, marked: bool) -> PrimFunc:
    """The gradient of a ReLU: zero where the data are not above a threshold. Gives a PrimFunc (gradient, data, output).

    Args:
        shape: of all three.
        threshold: of the data; 0 for a ReLU.
        marked: whether it has a mark, so that its layout is chosen later.
    """
    from tvm import te, tirx

    dy, x = te.placeholder(shape, name="gradient"), te.placeholder(shape, name="data")
    limit, zero = tirx.const(threshold, "float32"), tirx.const(0.0, "float32")
    marks = Mark(THRESHOLD_GRADIENT, repr(threshold)).annotations if marked else {}
    y = te.compute(shape, lambda *i: tirx.Select(x(*i) <= limit, zero, dy(*i)), name=THRESHOLD_GRADIENT, attrs=marks)
    return make_function([dy, x, y], ELEMENTWISE)
