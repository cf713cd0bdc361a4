"""Converters of operators that write elements to computed places: Scatter, MaxUnpool and TensorScatter.

Each element of the result searches for its updates. So threads can share the work, and no index writes outside of the
tensor. If the search takes too many steps, ScatterElements writes updates one after the other, and ScatterND and
MaxUnpool run in a segment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.converting.operands import (
    dtype_of,
    embed,
    emit,
    has,
    known,
    operand,
    result_of,
    shape_of,
    text,
)
from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.tensor import Array

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__: list[str] = []

#: The most comparisons of places with indices: a choice.
_MOST_STEPS = 1 << 24


@converter("ScatterElements")
def _scatter_elements(given: Operands) -> Sequence[relax.Expr]:
    data, indices, updates = (operand(given, place) for place in range(3))
    shape, dtype = result_of(given)
    picked = shape_of(indices)
    if not math.prod(picked):
        return [data]
    axis = int(given.attributes.get("axis", 0)) % len(shape)
    size, count = shape[axis], picked[axis]
    reduction = text(given, "reduction", "none")
    if math.prod(shape) * count > _MOST_STEPS:
        return [_scatter_one_by_one(given, axis)]

    def covered(i: Sequence[Expr], value: Expr, otherwise: Expr) -> Expr:
        """The value if the indices cover the element. Indices may have smaller extents than the data."""
        from tvm import tirx

        conditions = [i[d] < picked[d] for d in range(len(shape)) if d != axis and picked[d] < shape[d]]
        return tirx.if_then_else(tirx.all(*conditions), value, otherwise) if conditions else value

    def compute(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        from tvm import tirx

        def inside(i: Sequence[Expr]) -> list[Expr]:
            return [v if d == axis else tirx.min(v, picked[d] - 1) for d, v in enumerate(i)]

        def hits(i: Sequence[Expr], k: Expr) -> Expr:
            at = inside(i)
            index = indices(*at[:axis], k, *at[axis + 1 :])
            return tirx.any(index == i[axis].astype(index.ty.dtype), index + size == i[axis].astype(index.ty.dtype))

        def update(i: Sequence[Expr], k: Expr) -> Expr:
            at = inside(i)
            return updates(*at[:axis], k, *at[axis + 1 :])

        return _combine(data, shape, dtype, count, (reduction, hits, update, covered))

    return [emit(given, compute, [data, indices, updates], "scatter_elements")]


def _combine(
    data: Tensor,
    shape: Sequence[int],
    dtype: str,
    count: int,
    how: tuple[
        str,
        Callable[[Sequence[Expr], Expr], Expr],
        Callable[[Sequence[Expr], Expr], Expr],
        Callable[[Sequence[Expr], Expr, Expr], Expr],
    ],
) -> Tensor:
    """The data, with each element combined with its updates.

    Args:
        data: the data.
        shape: the shape of the data.
        dtype: the dtype of the data.
        count: the largest number of updates of an element.
        how: the reduction, and three functions. The first returns whether update ``k`` belongs to the element at an
            index. The second returns its value. The third chooses between two values: whether the element can have
            updates.
    """
    from tvm import te, tirx

    reduction, hits, update, covered = how
    k = te.reduce_axis((0, count), "k")
    if reduction == "none":
        last = te.compute(
            shape,
            lambda *i: te.max(tirx.Select(hits(i, k.var), k.var.astype("int32"), tirx.const(-1, "int32")), axis=[k]),
            name="last_update",
        )
        return te.compute(
            shape,
            lambda *i: covered(
                i,
                tirx.if_then_else(last(*i) >= 0, update(i, tirx.max(last(*i), tirx.const(0, "int32"))), data(*i)),
                data(*i),
            ),
            name="scatter",
        )
    reducer, start, join = _REDUCTIONS[reduction](dtype)
    total = te.compute(
        shape, lambda *i: reducer(tirx.Select(hits(i, k.var), update(i, k.var), start), axis=[k]), name="updates"
    )
    return te.compute(shape, lambda *i: covered(i, join(data(*i), total(*i)), data(*i)), name="scatter")


def _add(dtype: str) -> tuple[Callable[..., Expr], Expr, Callable[[Expr, Expr], Expr]]:
    from tvm import te, tirx

    return te.sum, tirx.const(0, dtype), lambda a, b: a + b


def _multiply(dtype: str) -> tuple[Callable[..., Expr], Expr, Callable[[Expr, Expr], Expr]]:
    from tvm import te, tirx

    product = te.comm_reducer(lambda a, b: a * b, lambda dtype: tirx.const(1, dtype), name="product")
    return product, tirx.const(1, dtype), lambda a, b: a * b


def _maximise(dtype: str) -> tuple[Callable[..., Expr], Expr, Callable[[Expr, Expr], Expr]]:
    from tvm import te, tirx

    return te.max, te.min_value(dtype), tirx.max


def _minimise(dtype: str) -> tuple[Callable[..., Expr], Expr, Callable[[Expr, Expr], Expr]]:
    from tvm import te, tirx

    return te.min, te.max_value(dtype), tirx.min


#: The reducer of updates, its neutral element, and the function that combines updates with the data, by reduction.
_REDUCTIONS = {"add": _add, "mul": _multiply, "max": _maximise, "min": _minimise}


def _scatter_one_by_one(given: Operands, axis: int) -> relax.Expr:
    """ScatterElements by TVM's own operator, which writes updates in their order."""
    from tvm import relax

    data, indices, updates = (operand(given, place) for place in range(3))
    size = relax.const(np.asarray(shape_of(data)[axis], dtype=dtype_of(indices)))
    zero = relax.const(np.asarray(0, dtype=dtype_of(indices)))
    negative = given.emit(relax.op.less(indices, zero))
    moved = given.emit(relax.op.where(negative, given.emit(relax.op.add(indices, size)), indices))
    last = relax.const(np.asarray(shape_of(data)[axis] - 1, dtype=dtype_of(indices)))
    moved = given.emit(relax.op.maximum(given.emit(relax.op.minimum(moved, last)), zero))
    reduction = text(given, "reduction", "none")
    return relax.op.scatter_elements(data, moved, updates, axis, "update" if reduction == "none" else reduction)


@converter("ScatterND")
def _scatter_nd(given: Operands) -> Sequence[relax.Expr]:
    data, indices, updates = (operand(given, place) for place in range(3))
    shape, dtype = result_of(given)
    depth = shape_of(indices)[-1]
    count, slots = math.prod(shape_of(indices)[:-1]), math.prod(shape[:depth])
    rest = math.prod(shape[depth:])
    if not count or not math.prod(shape):
        return [data]
    reduction = text(given, "reduction", "none")
    constant = known(given, 1)
    if constant is not None and reduction == "none":
        return [_scatter_known(given, constant, slots, rest)]
    steps = slots * count * (rest if reduction != "none" else 1)
    if steps > _MOST_STEPS:
        raise NotImplementedError(f"looking for the updates of each element takes {steps:,} steps")
    flat = _flatten_indices(given, indices, shape[:depth], count)

    def compute(data: Tensor, flat: Tensor, updates: Tensor) -> Tensor:
        from tvm import te, tirx

        k = te.reduce_axis((0, count), "k")
        if reduction == "none":
            last = te.compute(
                (slots,),
                lambda p: te.max(
                    tirx.Select(flat(k) == p.astype("int64"), k.var.astype("int32"), tirx.const(-1, "int32")), axis=[k]
                ),
                name="last_update",
            )
            return te.compute(
                (slots, rest),
                lambda p, e: tirx.if_then_else(
                    last(p) >= 0, updates(tirx.max(last(p), tirx.const(0, "int32")), e), data(p, e)
                ),
                name="scatter",
            )
        reducer, start, join = _REDUCTIONS[reduction](dtype)
        total = te.compute(
            (slots, rest),
            lambda p, e: reducer(tirx.Select(flat(k) == p.astype("int64"), updates(k, e), start), axis=[k]),
            name="updates",
        )
        return te.compute((slots, rest), lambda p, e: join(data(p, e), total(p, e)), name="scatter")

    operands = [_reshape(given, data, (slots, rest)), flat, _reshape(given, updates, (count, rest))]
    return [_reshape(given, emit(given, compute, operands, "scatter_nd"), shape)]


def _reshape(given: Operands, x: relax.Expr, shape: Sequence[int]) -> relax.Expr:
    from tvm import relax

    return x if shape_of(x) == tuple(shape) else given.emit(relax.op.reshape(x, list(shape)))


def _flatten_indices(given: Operands, indices: relax.Expr, extents: Sequence[int], count: int) -> relax.Expr:
    """The number of each indexed slot, from rows of indices that may be negative. It has the shape ``(count,)``."""
    depth = len(extents)

    def compute(indices: Tensor) -> Tensor:
        from tvm import te, tirx

        def number(k: Expr) -> Expr:
            place = tirx.const(0, "int64")
            for axis, extent in enumerate(extents):
                index = indices(k, axis).astype("int64")
                place = place * extent + tirx.Select(index < 0, index + extent, index)
            return place

        return te.compute((count,), number, name="slots")

    return emit(given, compute, [_reshape(given, indices, (count, depth))], "slots")


def _scatter_known(given: Operands, indices: Array, slots: int, rest: int) -> relax.Expr:
    """ScatterND with constant indices: each slot reads the data or the last of its updates."""
    data, updates = operand(given, 0), operand(given, 2)
    shape = shape_of(data)
    depth = indices.shape[-1]
    rows = indices.reshape(-1, depth).astype(np.int64)
    extents = np.asarray(shape[:depth], dtype=np.int64)
    rows = np.where(rows < 0, rows + extents, rows)
    numbers = np.zeros(len(rows), dtype=np.int64)
    for axis in range(depth):
        numbers = numbers * extents[axis] + rows[:, axis]
    last = np.full(slots, -1, dtype=np.int32)
    last[numbers] = np.arange(
        len(rows), dtype=np.int32
    )  # if several updates have the same slot, NumPy assigns the last one

    def compute(data: Tensor, updates: Tensor, last: Tensor) -> Tensor:
        from tvm import te, tirx

        return te.compute(
            (slots, rest),
            lambda p, e: tirx.if_then_else(
                last(p) >= 0, updates(tirx.max(last(p), tirx.const(0, "int32")), e), data(p, e)
            ),
            name="scatter",
        )

    operands = [_reshape(given, data, (slots, rest)), _reshape(given, updates, (len(rows), rest)), embed(last)]
    return _reshape(given, emit(given, compute, operands, "scatter_nd"), shape)


@converter("TensorScatter")
def _tensor_scatter(given: Operands) -> Sequence[relax.Expr]:
    shape, _ = result_of(given)
    axis = int(given.attributes.get("axis", -2)) % len(shape)
    circular = text(given, "mode", "linear") == "circular"
    size, count = shape[axis], shape_of(operand(given, 1))[axis]

    def compute(cache: Tensor, update: Tensor, *first: Tensor) -> Tensor:
        from tvm import te, tirx

        def at(*i: Expr) -> Expr:
            place = i[axis].astype("int64")
            if first:
                place = place - first[0](i[0]).astype("int64")
            if circular:
                place = tirx.floormod(place, tirx.const(size, "int64"))
            index = tirx.max(tirx.min(place, tirx.const(count - 1, "int64")), tirx.const(0, "int64"))
            new = update(*i[:axis], index, *i[axis + 1 :])
            return tirx.if_then_else(tirx.all(place >= 0, place < count), new, cache(*i))

        return te.compute(shape, at, name="tensor_scatter")

    operands = [operand(given, place) for place in range(3) if has(given, place)]
    return [emit(given, compute, operands, "tensor_scatter")]


@converter("MaxUnpool")
def _max_unpool(given: Operands) -> Sequence[relax.Expr]:
    """Each element of the result looks for its number among the indices of its own image."""
    x, indices = operand(given, 0), operand(given, 1)
    shape, dtype = result_of(given)
    planes, size, count = math.prod(shape[:2]), math.prod(shape[2:]), math.prod(shape_of(x)[2:])
    numbers = known(given, 1)
    steps = planes * size * planes * count
    if steps > _MOST_STEPS and numbers is None:
        raise NotImplementedError(f"looking for the place of each element takes {steps:,} steps")

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        from tvm import te, tirx

        k = te.reduce_axis((0, planes * count), "k")
        last = te.compute(
            (planes * size,),
            lambda p: te.max(
                tirx.Select(indices(k) == p.astype("int64"), k.var.astype("int32"), tirx.const(-1, "int32")), axis=[k]
            ),
            name="last_update",
        )
        return te.compute(
            (planes * size,),
            lambda p: tirx.if_then_else(
                last(p) >= 0, x(tirx.max(last(p), tirx.const(0, "int32"))), tirx.const(0, dtype)
            ),
            name="max_unpool",
        )

    flat = [_reshape(given, x, (planes * count,)), _reshape(given, indices, (planes * count,))]
    return [_reshape(given, emit(given, compute, flat, "max_unpool"), shape)]
