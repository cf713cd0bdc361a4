"""Tensor expressions over rows that training needs: the gradient of a layer norm, and what attention saves of scores.

An importer does not know how long vectors are. It emits a function with ``lanes`` of 0, which sums plainly and whose
mark tells what it computes. A network that is rewritten for a machine calls the function with that machine's lanes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.elementary import exp, log
from tilewright.ops.function import FUSABLE, KEPT, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.rows.expression import KIND, PREFIX, reduce_rows

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc

__all__ = ["LAYER_NORM_GRADIENT", "LOG_SUM_EXP", "layer_norm_gradient", "log_sum_exp"]

#: The kinds of the marks of functions as importers emit them.
LAYER_NORM_GRADIENT, LOG_SUM_EXP = "layer_norm_gradient", "log_sum_exp"


def _mark(kind: str, lanes: int) -> dict[str, str]:
    return Mark(KIND if lanes else kind).annotations


@lru_cache(KEPT)
def layer_norm_gradient(shape: tuple[int, int], lanes: int) -> PrimFunc:
    """The gradient of a layer norm's data. Gives a PrimFunc (gradient, data, mean, inverse, scale, result).

    dx = inverse * (s - mean(s) - normal * mean(s * normal)), where s = gradient * scale, and
    normal = (data - mean) * inverse.

    Args:
        shape: ``(rows, n)`` of gradient, data and result. The mean and the inverse deviation of each row are
            ``(rows,)``, and the scale is ``(n,)``.
        lanes: elements of a vector register; 0: for an importer.
    """
    from tvm import te, tirx

    rows, n = shape
    dy, x = te.placeholder(shape, name="gradient"), te.placeholder(shape, name="data")
    mean, inverse = te.placeholder((rows,), name="mean"), te.placeholder((rows,), name="inverse")
    scale = te.placeholder((n,), name="scale")
    share = tirx.const(1.0 / n, "float32")

    def scaled(i: Expr, j: Expr) -> Expr:
        return dy[i, j] * scale[j]

    def normal(i: Expr, j: Expr) -> Expr:
        return (x[i, j] - mean[i]) * inverse[i]

    def add(a: Expr, b: Expr) -> Expr:
        return a + b

    first = reduce_rows(scaled, (rows,), n, lanes, te.sum, add, "sum")
    second = reduce_rows(lambda i, j: scaled(i, j) * normal(i, j), (rows,), n, lanes, te.sum, add, "products")
    offset = te.compute((rows,), lambda i: first[i] * share, name=f"{PREFIX}offset")
    slope = te.compute((rows,), lambda i: second[i] * share, name=f"{PREFIX}slope")
    result = te.compute(
        shape,
        lambda i, j: (scaled(i, j) - offset[i] - normal(i, j) * slope[i]) * inverse[i],
        name=LAYER_NORM_GRADIENT,
        attrs=_mark(LAYER_NORM_GRADIENT, lanes),
    )
    return make_function([dy, x, mean, inverse, scale, result], FUSABLE)


@lru_cache(KEPT)
def log_sum_exp(shape: tuple[int, int], lanes: int) -> PrimFunc:
    """The logarithm of the sum of the exponentials of each row. Gives a PrimFunc (data, result ``(rows, 1)``).

    Args:
        shape: ``(rows, n)`` of the data.
        lanes: elements of a vector register; 0: for an importer.
    """
    from tvm import te, tirx

    rows, n = shape
    x = te.placeholder(shape, name="data")
    top = reduce_rows(lambda i, j: x[i, j], (rows,), n, lanes, te.max, tirx.max, "max")
    total = reduce_rows(lambda i, j: exp(x[i, j] - top[i]), (rows,), n, lanes, te.sum, lambda a, b: a + b, "sum")
    result = te.compute(
        (rows, 1),
        lambda i, j: log(total[i]) + top[i],
        name=LOG_SUM_EXP,
        attrs=_mark(LOG_SUM_EXP, lanes),
    )
    return make_function([x, result], FUSABLE)
