"""Converters of look-ups, scatters, and sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.torch.converters.operands import Operands, Results, converter, to_array
from tilewright.tensor import Array

if TYPE_CHECKING:
    from torch import fx
    from tvm import relax

__all__: list[str] = []


@converter("embedding.default")
def _embedding(o: Operands) -> relax.Expr:
    return _take(o, "weight", "indices", 0)


@converter("index_select.default")
def _index_select(o: Operands) -> relax.Expr:
    axis = o.axis("dim", len(o.shape(0)))
    if not o.shape(0):
        return o.expr(0)
    return o.reshape(_take(o, 0, "index", axis), o.out_shape)


def _take(o: Operands, source: str | int, index: str | int, axis: int) -> relax.Expr:
    from tvm import relax

    known = o.constant(index)
    places = o.expr(index) if known is None else relax.const(known.astype(np.int64))
    return o.emit(relax.op.take(o.expr(source), places, axis))


@converter("gather.default")
def _gather(o: Operands) -> relax.Expr:
    """A look-up along one dimension. Where the index is smaller than the tensor elsewhere, the tensor is cut."""
    from tvm import relax

    if not o.shape(0):
        return o.reshape(o.expr(0), o.out_shape)
    axis = o.axis("dim", len(o.shape(0)))
    x = o.expr(0)
    for i, (have, want) in enumerate(zip(o.shape(0), o.out_shape, strict=True)):
        if i != axis and have > want:
            x = o.emit(relax.op.strided_slice(x, [i], [0], [want], assume_inbound=True))
    return o.emit(relax.op.gather_elements(x, o.expr("index"), axis))


@converter("scatter.src", "scatter.value", "scatter_add.default", "scatter_reduce.two", "scatter.reduce")
def _scatter(o: Operands) -> relax.Expr:
    from tvm import relax

    names = [argument.name for argument in o.node.target._schema.arguments]
    axis, shape = o.axis("dim", len(o.shape(0))), o.shape("index")
    if "src" in names:
        source = o.operand("src", o.out_dtype)
        for i, (have, want) in enumerate(zip(o.shape("src"), shape, strict=True)):
            if have > want:
                source = o.emit(relax.op.strided_slice(source, [i], [0], [want], assume_inbound=True))
    else:
        source = o.emit(relax.op.full(shape, relax.const(o.number("value"), o.out_dtype), o.out_dtype))
    reduction = "add" if "add" in o.node.target.__name__ else "update"
    if "reduce" in names:
        if "include_self" in names and not o.given("include_self"):
            raise ValueError("a scatter that leaves out the elements before it has no counterpart")
        known = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}
        reduction = known[str(o.given("reduce"))]
    return o.emit(relax.op.scatter_elements(o.expr(0), o.expr("index"), source, axis, reduction))


@converter("index.Tensor", "_unsafe_index.Tensor")
def _index(o: Operands) -> relax.Expr:
    """x[a, :, b] --> a look-up along one dimension, or by the places of all dimensions that are indexed."""
    from tvm import relax

    nodes, places = _resolve(o, "indices")
    given = [axis for axis, place in enumerate(places) if place is not None]
    if len(given) == 1 and nodes[given[0]] is not None:
        return o.emit(relax.op.take(o.expr(0), places[given[0]], given[0]))
    full = _spread(o, places, last=given[-1])
    result = o.emit(relax.op.index_tensor(o.expr(0), full))
    return o.reshape(result, o.out_shape)


@converter("index_put.default", "_unsafe_index_put.default")
def _index_put(o: Operands) -> relax.Expr:
    from tvm import relax

    _, places = _resolve(o, "indices")
    rank = len(o.shape(0))
    places = [*places, *[None] * (rank - len(places))]
    full = _spread(o, places, last=rank - 1)
    extents = np.broadcast_shapes(*(tuple(int(d) for d in place.ty.shape.values) for place in full))
    flat = [int(np.prod(extents))]  # TVM's operator takes vectors
    full = [o.reshape(o.emit(relax.op.broadcast_to(place, extents)), flat) for place in full]
    values = o.reshape(o.emit(relax.op.broadcast_to(o.operand("values", o.out_dtype), extents)), flat)
    return o.emit(relax.op.index_put(o.expr(0), full, values, bool(o.given("accumulate"))))


def _resolve(o: Operands, name: str) -> tuple[list[fx.Node | None], list[relax.Expr | None]]:
    """The places that each dimension is indexed by, in int64, from 0 up; None: the whole dimension.

    A constant mask is the places where it holds.

    Raises:
        ValueError: a mask is no constant, so that its values decide a shape.
    """
    from tvm import relax

    shape, nodes = o.shape(0), o.nodes(name)
    resolved: list[fx.Node | None] = []
    places: list[relax.Expr | None] = []
    for node in nodes:
        if node is None:
            places.append(None)
            resolved.append(None)
            continue
        known = to_array(o.weights[node]) if node in o.weights else None
        kind = str(node.meta["val"].dtype)
        if kind in ("torch.bool", "torch.uint8"):
            if known is None:
                raise ValueError("a mask as an index is a constant, since its values decide the shape of the result")
            for found in np.nonzero(known):
                places.append(relax.const(found.astype(np.int64)))
                resolved.append(node)
            continue
        extent = shape[len(places)]
        places.append(_from_zero(o, o.values[node], extent) if known is None else _constant_places(known, extent))
        resolved.append(node)
    return resolved, places


def _constant_places(known: Array, extent: int) -> relax.Expr:
    from tvm import relax

    numbers = known.astype(np.int64)
    return relax.const(np.where(numbers < 0, numbers + extent, numbers))


def _from_zero(o: Operands, index: object, extent: int) -> relax.Expr:
    """The places that an index means, where negative numbers count from the end."""
    from tvm import relax

    places = o.cast(index, "int64")
    negative = o.emit(relax.op.less(places, relax.const(0, "int64")))
    return o.emit(relax.op.where(negative, o.emit(relax.op.add(places, relax.const(extent, "int64"))), places))


def _spread(o: Operands, places: Sequence[relax.Expr | None], last: int) -> list[relax.Expr]:
    """An index for each dimension up to ``last``, so that all of them broadcast to the shape of what is indexed.

    The dimensions that are indexed become those of their common shape, at the place of the first if they lie side by
    side, and in front otherwise. A whole dimension is indexed by all its places.
    """
    from tvm import relax

    shape = o.shape(0)
    given = [axis for axis, place in enumerate(places) if place is not None]
    ranks = [len(places[axis].ty.shape.values) for axis in given]  # type: ignore[union-attr]
    common = max(ranks)
    beside = given == list(range(given[0], given[-1] + 1))
    front = given[0] if beside else 0
    whole = [axis for axis in range(last + 1) if axis >= len(places) or places[axis] is None]
    rank = common + len(whole)
    found: list[relax.Expr] = []
    for axis in range(last + 1):
        if axis in whole:
            number = whole.index(axis)
            position = number if number < front else number + common
            every = np.arange(shape[axis]).reshape([-1 if i == position else 1 for i in range(rank)])
            found.append(relax.const(every))
            continue
        place = places[axis]
        extents = [int(d) for d in place.ty.shape.values]  # type: ignore[union-attr]
        target = [1] * rank
        target[front + common - len(extents) : front + common] = extents
        found.append(o.reshape(place, target))
    return found


@converter("topk.default")
def _topk(o: Operands) -> Results:
    from tvm import relax

    axis = o.axis("dim", len(o.shape(0)))
    largest = bool(o.given("largest"))
    pair = o.emit(relax.op.topk(o.expr(0), o.integer("k"), axis, "both", largest, "int64"))
    return [o.emit(relax.TupleGetItem(pair, i)) for i in range(2)]


@converter("sort.default", "sort.stable", "argsort.default", "argsort.stable")
def _sort(o: Operands) -> Results:
    """Sorting. Elements that are equal keep their order, as PyTorch keeps it if it is asked to."""
    from tvm import relax

    x, axis = o.expr(0), o.axis("dim", max(1, len(o.shape(0))))
    places = o.emit(relax.op.argsort(x, axis, bool(o.given("descending")), "int64"))
    if o.node.target.__name__.startswith("argsort"):
        return places
    return [o.emit(relax.op.gather_elements(x, places, axis)), places]


@converter("take.default")
def _take_flat(o: Operands) -> relax.Expr:
    from tvm import relax

    count = math.prod(o.shape(0))
    places = _from_zero(o, o.expr("index"), count)
    return o.emit(relax.op.take(o.reshape(o.expr(0), [count]), places, 0))


@converter("nonzero.default", "masked_select.default", "unique_dim.default", "_unique2.default", "item.default")
@converter("_local_scalar_dense.default")
def _undecided(o: Operands) -> relax.Expr:
    raise ValueError("the values of a tensor decide the shape of its result")


@converter("diagonal.default")
def _diagonal(o: Operands) -> relax.Expr:
    """The elements on a diagonal of two dimensions, as the last dimension of the result."""
    from tvm import relax

    shape = o.shape(0)
    rank = len(shape)
    first, second, offset = o.axis("dim1", rank), o.axis("dim2", rank), o.integer("offset")
    order = [*(a for a in range(rank) if a not in (first, second)), first, second]
    rows, columns = shape[first], shape[second]
    steps = np.arange(o.out_shape[-1])
    places = (steps + max(0, -offset)) * columns + steps + max(0, offset)
    turned = o.emit(relax.op.permute_dims(o.expr(0), order))
    flat = o.reshape(turned, [*(shape[a] for a in order[:-2]), rows * columns])
    return o.emit(relax.op.take(flat, relax.const(places), rank - 2))
