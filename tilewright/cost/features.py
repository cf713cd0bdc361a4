"""Programs as rows of features, for cost models on tables: AutoTVM's itervar and curve features, in closed form."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import KnobTable, Programs
from tilewright.space.loop_nest import Annotation, LoopNest

__all__ = ["FEATURE_VERSION", "View", "curve_features", "features", "itervar_features"]

#: The version of the columns. Every change of their meaning raises it, so that models of other columns are refused.
FEATURE_VERSION = 1
#: The programs that are handled at a time, so that intermediate arrays stay in the cache.
_CHUNK = 2048
_KINDS = len(Annotation)
_ONE_HOT = np.eye(_KINDS, dtype=np.float32)
#: The points of a curve, and log2 of the bytes of the first.
_POINTS, _SMALLEST = 20, 5
#: A view of a program in closed form: features of each loop, of each size of the working set (with the template's own
#: numbers), or both.
View: TypeAlias = Literal["itervar", "curve", "both"]
#: The columns of arithmetic: additions, multiplications, other operations.
_ARITHMETIC = 3


def itervar_features(nest: LoopNest) -> NDArray[np.float32]:
    """AutoTVM's itervar view (arXiv 1805.08166, appendix A.2): ``(n, F)`` float32, F = 8 L + 3 B L + 3 + E.

    The columns are:

    - for each loop: log2 of its length, of the product of lengths from outside down to it, and of the product from it
      inwards; the axis that it iterates; and its annotation, one-hot
    - for each buffer and loop: log2(1 + x) of the bytes touched, of the stride (with its sign), and of the reuse
    - log2(1 + x) of the additions, multiplications and other operations of an innermost iteration
    - the template's own numbers, unchanged

    Different from AutoTVM: loops keep their position in the template and are not sorted by length, and the axis is a
    column.
    """
    count, loops = nest.extents.shape
    per_buffer = nest.touched.shape[1] * loops
    extra = nest.extra.shape[1]
    table = np.empty((count, (4 + _KINDS) * loops + 3 * per_buffer + _ARITHMETIC + extra), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        _fill(table[start : start + _CHUNK], nest, slice(start, start + _CHUNK), loops, per_buffer)
    return table


def _fill(out: NDArray[np.float32], nest: LoopNest, rows: slice, loops: int, per_buffer: int) -> None:
    ends = np.cumsum([*[loops] * 4, _KINDS * loops, *[per_buffer] * 3, _ARITHMETIC]).tolist()
    length, topdown, bottomup, axis, kinds, touched, stride, reuse, arithmetic, extra = np.split(out, ends, axis=1)
    count = len(out)
    np.log2(np.maximum(nest.extents[rows], 1.0), out=length)
    # The logarithm of a product of lengths is the sum of their logarithms.
    np.cumsum(length, axis=1, out=topdown)
    np.cumsum(length[:, ::-1], axis=1, out=bottomup[:, ::-1])
    axis[:] = nest.axis[rows]
    kinds[:] = _ONE_HOT[nest.annotations[rows]].reshape(count, -1)
    _log(nest.touched[rows].reshape(count, -1), touched)
    strides = nest.strides[rows].reshape(count, -1)
    _log(np.abs(strides), stride)
    np.copysign(stride, strides, out=stride)
    _log(nest.reuse[rows].reshape(count, -1), reuse)
    _log(nest.arithmetic[rows], arithmetic)
    extra[:] = nest.extra[rows]


def _log(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    np.add(values, 1.0, out=out)
    np.log2(out, out=out)


def curve_features(nest: LoopNest) -> NDArray[np.float32]:
    """AutoTVM's curve view (arXiv 1805.08166, appendix A.2): ``(n, 40 B)`` float32, two curves of 20 points a buffer.

    Point k = 5 to 24 looks at the loops at which the working set of the buffer has at most 2^k bytes. The first curve
    is log2(1 + x) of the largest reuse at such a loop. The second is log2 of the largest number of times that such a
    loop is entered. Without such a loop both are 0. Different from AutoTVM: sizes are in bytes, like those of caches,
    and all buffers count.
    """
    count, buffers, loops = nest.touched.shape
    entered = np.ones((count, loops), dtype=np.float32)
    np.cumprod(np.maximum(nest.extents[:, :-1], 1.0), axis=1, out=entered[:, 1:])
    values = np.stack([np.log2(1.0 + nest.reuse), np.broadcast_to(np.log2(entered)[:, None], nest.reuse.shape)])
    table = np.empty((count, buffers, 2, _POINTS), dtype=np.float32)
    for point in range(_POINTS):
        fits = nest.touched <= np.float32(2.0 ** (_SMALLEST + point))
        table[:, :, :, point] = np.where(fits, values, np.float32(0.0)).max(axis=3).transpose(1, 2, 0)
    return table.reshape(count, -1)


def features(programs: Programs, view: View = "itervar") -> NDArray[np.float32]:
    """The features of programs for a model on tables: ``(n, F)`` float32.

    Args:
        programs: in closed form, or known only by their knobs, whose values are then the features.
        view: of programs in closed form.
    """
    if isinstance(programs, KnobTable):
        return np.asarray(programs.values, dtype=np.float32)
    if view == "curve":
        return np.concatenate([curve_features(programs), programs.extra], axis=1)
    if view == "both":
        return np.concatenate([itervar_features(programs), curve_features(programs)], axis=1)
    return itervar_features(programs)
