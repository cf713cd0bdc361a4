"""Tensor expressions of softmax and layer norm.

Sums and maxima over a row go by lanes. LLVM does not reorder additions, so it would leave a plain sum scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from tilewright.ops.elementwise.exponential import exp_below_zero
from tilewright.ops.function import FUSABLE, KEPT, make_function
from tilewright.ops.mark import Mark
from tilewright.ops.vectors import fit_vector

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = [
    "KIND",
    "LONGEST_BYTE_ROW",
    "PREFIX",
    "ROW_MOMENTS",
    "Guard",
    "byte_layer_norm",
    "layer_norm",
    "reduce_rows",
    "row_moments",
    "softmax",
]

#: The kind of the tasks.
KIND = "rows"
#: How the names of the blocks begin that compute what a row shares, by which the template finds them.
PREFIX = "row_"
#: The kind of the mark of :func:`row_moments` as importers emit it. Its detail is epsilon.
ROW_MOMENTS = "moments_of_rows"
_MARK = Mark(KIND).annotations
#: Elements of the shortest row that is reduced by vectors: registers of SSE and NEON hold 4.
_SHORTEST_VECTOR = 4
#: The most bytes of a row whose squares have an int32 sum.
LONGEST_BYTE_ROW = (2**31 - 1) // 255**2


class Guard(NamedTuple):
    """Which rows of a softmax give zeros instead of nan.

    Attributes:
        safe: those of minus infinity alone.
        finite: all whose softmax is nan: also those with a number that is nan or infinite.
    """

    safe: bool
    finite: bool


@lru_cache(KEPT)
def softmax(shape: tuple[int, ...], lanes: int, safe: bool, finite: bool = False) -> PrimFunc:
    """Softmax along the last dimension. Gives a PrimFunc (data, output).

    Args:
        shape: of the data.
        lanes: elements of a vector register. Shorter rows are reduced by a part of a register.
        safe: whether a row of minus infinity alone gives zeros, as in PyTorch's attention, instead of nan.
        finite: whether any row whose softmax is nan gives zeros, as in ONNX files of PyTorch's attention.
    """
    from tvm import te, tirx

    x = te.placeholder(shape, name="data")
    rows, n = shape[:-1], shape[-1]
    top = reduce_rows(lambda *i: x(*i), rows, n, lanes, te.max, tirx.max, "max")
    e = te.compute(shape, lambda *i: exp_below_zero(x(*i) - top(*i[:-1])), name=f"{PREFIX}exp")
    total = reduce_rows(lambda *i: e(*i), rows, n, lanes, te.sum, lambda a, b: a + b, "sum")
    # There is one division for each row. In a row of minus infinity alone, the maximum is the finite start of te.max,
    # and all e are 0.
    zero, smallest = tirx.const(0.0, "float32"), tirx.const(1e-30, "float32")

    def inverse_of(*i: Expr) -> Expr:
        divided = tirx.const(1.0, "float32") / (tirx.max(total(*i), smallest) if safe else total(*i))
        return tirx.Select(total(*i) > zero, divided, zero) if finite else divided  # a nan is not above 0

    inverse = te.compute(rows, inverse_of, name=f"{PREFIX}inverse")

    def weight(*i: Expr) -> Expr:
        product = e(*i) * inverse(*i[:-1])
        return tirx.Select(e(*i) >= zero, product, zero) if finite else product

    y = te.compute(shape, weight, name="softmax", attrs=_MARK)
    return make_function([x, y], FUSABLE)


@lru_cache(KEPT)
def layer_norm(shape: tuple[int, ...], lanes: int, epsilon: float) -> PrimFunc:
    """Layer norm over the last dimension. Gives a PrimFunc (data, scale, shift, output).

    Args:
        shape: of the data.
        lanes: elements of a vector register. Shorter rows are reduced by a part of a register.
        epsilon: is added to the variance.
    """
    from tvm import te

    x = te.placeholder(shape, name="data")
    mean, scale = _moments(x, lanes, epsilon)
    gamma, beta = te.placeholder((shape[-1],), name="scale"), te.placeholder((shape[-1],), name="shift")
    y = te.compute(
        shape,
        lambda *i: (x(*i) - mean(*i[:-1])) * scale(*i[:-1]) * gamma[i[-1]] + beta[i[-1]],
        name="layer_norm",
        attrs=_MARK,
    )
    return make_function([x, gamma, beta, y], FUSABLE)


@lru_cache(KEPT)
def byte_layer_norm(shape: tuple[int, ...], epsilon: float) -> PrimFunc:
    """Layer norm of bytes over the last dimension. Gives a PrimFunc (uint8 data, step, scale, shift, output).

    Sums of bytes and of their squares are exact integers, which LLVM adds in any order. Rows have at most
    ``LONGEST_BYTE_ROW`` elements.

    Args:
        shape: of the data. The step ``(1,)`` is the scale of the bytes. Their zero point changes nothing.
        epsilon: is added to the variance.
    """
    from tvm import te, tirx

    x, step = te.placeholder(shape, "uint8", name="data"), te.placeholder((1,), name="step")
    rows, n = shape[:-1], shape[-1]

    def add(a: Expr, b: Expr) -> Expr:
        return a + b

    def square(*i: Expr) -> Expr:
        return x(*i).astype("int32") * x(*i).astype("int32")

    total = reduce_rows(lambda *i: x(*i).astype("int32"), rows, n, 0, te.sum, add, "sum")
    squares = reduce_rows(square, rows, n, 0, te.sum, add, "squares")
    share = tirx.const(1.0 / n, "float32")
    mean = te.compute(rows, lambda *i: total(*i).astype("float32") * share, name=f"{PREFIX}mean")

    def inverse(*i: Expr) -> Expr:
        sums, count = total(*i).astype("int64"), tirx.const(n, "int64")
        spread = (squares(*i).astype("int64") * count - sums * sums).astype("float32") * share * share
        return step[0] / te.sqrt(spread * step[0] * step[0] + tirx.const(epsilon, "float32"))

    scale = te.compute(rows, inverse, name=f"{PREFIX}scale")
    gamma, beta = te.placeholder((n,), name="scale"), te.placeholder((n,), name="shift")

    def element(*i: Expr) -> Expr:
        level = x(*i).astype("int32").astype("float32")
        return (level - mean(*i[:-1])) * scale(*i[:-1]) * gamma[i[-1]] + beta[i[-1]]

    y = te.compute(shape, element, name="layer_norm", attrs=_MARK)
    return make_function([x, step, gamma, beta, y], FUSABLE)


@lru_cache(KEPT)
def row_moments(shape: tuple[int, int], lanes: int, epsilon: float) -> PrimFunc:
    """The mean of each row, and the inverse of its deviation. Gives a PrimFunc (data, result ``(rows, 2)``).

    Args:
        shape: ``(rows, n)`` of the data.
        lanes: elements of a vector register; 0: for an importer, which does not know them.
        epsilon: is added to the variance.
    """
    from tvm import te, tirx

    x = te.placeholder(shape, name="data")
    mean, scale = _moments(x, lanes, epsilon)
    mark = Mark(KIND) if lanes else Mark(ROW_MOMENTS, repr(epsilon))
    result = te.compute(
        (shape[0], 2),
        lambda i, t: tirx.if_then_else(t == 0, mean[i], scale[i]),
        name=ROW_MOMENTS,
        attrs=mark.annotations,
    )
    return make_function([x, result], FUSABLE)


def _moments(x: Tensor, lanes: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """The mean of each row, and the inverse of its deviation."""
    from tvm import te, tirx

    rows, n = tuple(int(extent) for extent in x.shape[:-1]), int(x.shape[-1])

    def add(a: Expr, b: Expr) -> Expr:
        return a + b

    share = tirx.const(1.0 / n, "float32")
    total = reduce_rows(lambda *i: x(*i), rows, n, lanes, te.sum, add, "sum")
    mean = te.compute(rows, lambda *i: total(*i) * share, name=f"{PREFIX}mean")

    def square(*i: Expr) -> Expr:
        centred = x(*i) - mean(*i[:-1])
        return centred * centred

    squares = reduce_rows(square, rows, n, lanes, te.sum, add, "squares")
    scale = te.compute(
        rows,
        lambda *i: tirx.const(1.0, "float32") / te.sqrt(squares(*i) * share + tirx.const(epsilon, "float32")),
        name=f"{PREFIX}scale",
    )
    return mean, scale


def reduce_rows(
    element: Callable[..., Expr],
    rows: tuple[int, ...],
    n: int,
    lanes: int,
    reducer: Callable[..., Expr],
    combine: Callable[[Expr, Expr], Expr],
    name: str,
) -> Tensor:
    """Each row reduced: first to up to four vectors side by side, these to one vector, and its lanes to a number.

    The remainder of the row is reduced one by one. As many vectors are side by side as leave the least remainder. A row
    shorter than a vector register has vectors of the largest power of two that fits: 8 lanes of 16 for a row of 12. A
    row of fewer than 4 elements has no vectors.

    Args:
        element: the element at given indices.
        rows: shape of the rows.
        n: elements of a row.
        lanes: elements of a vector register; 0: rows are reduced one by one.
        reducer: of TVM, such as ``te.sum``.
        combine: the same operation for two values.
        name: of the result's block, after ``PREFIX``.
    """
    from tvm import te

    if n < _SHORTEST_VECTOR or not lanes:
        e = te.reduce_axis((0, n), "e")
        return te.compute(rows, lambda *i: reducer(element(*i, e), axis=[e]), name=f"{PREFIX}{name}")
    lanes = fit_vector(n, lanes)
    vectors = max((v for v in (1, 2, 4) if v * lanes <= n), key=lambda v: (-(n % (v * lanes)), v))
    width = vectors * lanes
    k = te.reduce_axis((0, n // width), "k")
    part = te.compute(
        (*rows, width), lambda *i: reducer(element(*i[:-1], k * width + i[-1]), axis=[k]), name=f"{PREFIX}{name}_part"
    )
    if vectors > 1:
        v = te.reduce_axis((0, vectors), "v")
        wide = part
        part = te.compute(
            (*rows, lanes), lambda *i: reducer(wide(*i[:-1], v * lanes + i[-1]), axis=[v]), name=f"{PREFIX}{name}_fold"
        )
    j = te.reduce_axis((0, lanes), "j")
    total = te.compute(rows, lambda *i: reducer(part(*i, j), axis=[j]), name=f"{PREFIX}{name}")
    rest = n % width
    if rest:
        t = te.reduce_axis((0, rest), "t")
        tail = te.compute(rows, lambda *i: reducer(element(*i, n - rest + t), axis=[t]), name=f"{PREFIX}{name}_tail")
        whole = total
        total = te.compute(rows, lambda *i: combine(whole(*i), tail(*i)), name=f"{PREFIX}{name}_whole")
    return total
