"""Converters of operators that move elements: views, slices, concatenations, padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.frontend.torch.converters.operands import Operands, converter
from tilewright.frontend.torch.graph import shape_of

if TYPE_CHECKING:
    from tvm import relax

__all__: list[str] = []


@converter("view.default", "_unsafe_view.default", "reshape.default", "flatten.using_ints", "unflatten.int")
@converter("squeeze.default", "squeeze.dim", "squeeze.dims", "unsqueeze.default", "_reshape_alias.default")
def _view(o: Operands) -> relax.Expr:
    return o.reshape(o.expr(0), o.out_shape)


@converter("permute.default", "transpose.int", "t.default")
def _permute(o: Operands) -> relax.Expr:
    from tvm import relax

    rank = len(o.out_shape)
    order = list(range(rank))
    if "permute" in o.node.target.__name__:
        order = [axis % rank for axis in o.integers("dims")]
    elif rank > 1:
        first, second = (
            (o.axis("dim0", rank), o.axis("dim1", rank)) if "transpose" in o.node.target.__name__ else (0, 1)
        )
        order[first], order[second] = second, first
    return o.emit(relax.op.permute_dims(o.expr(0), order))


@converter("expand.default", "broadcast_to.default", "expand_as.default")
def _expand(o: Operands) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.broadcast_to(o.expr(0), o.out_shape))


@converter("cat.default", "concat.default")
def _concatenate(o: Operands) -> relax.Expr:
    from tvm import relax

    # PyTorch skips empty vectors whatever the other shapes are.
    rank = len(o.out_shape)
    nodes = [node for node in o.nodes(0) if node is not None and len(shape_of(node)) == rank]
    found = {id(node): expr for node, expr in zip(o.nodes(0), o.exprs(0), strict=True)}
    parts = [o.cast(found[id(node)], o.out_dtype) for node in nodes]
    return parts[0] if len(parts) == 1 else o.emit(relax.op.concat(parts, o.axis("dim", rank)))


@converter("split.Tensor", "split_with_sizes.default", "chunk.default", "unsafe_split.Tensor")
def _split(o: Operands) -> list[relax.Expr | None]:
    from tvm import relax

    shape = o.shape(0)
    axis = o.axis("dim", len(shape))
    sizes = [int(value.shape[axis]) for value in o.node.meta["val"]]
    if len(sizes) == 1:
        return [o.expr(0)]
    if len(set(sizes)) == 1:
        parts = o.emit(relax.op.split(o.expr(0), len(sizes), axis))
    else:
        parts = o.emit(relax.op.split(o.expr(0), [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)], axis))
    return [o.emit(relax.TupleGetItem(parts, i)) for i in range(len(sizes))]


@converter("unbind.int")
def _unbind(o: Operands) -> list[relax.Expr | None]:
    axis = o.axis("dim", len(o.shape(0)))
    return [_take_one(o, axis, i) for i in range(o.shape(0)[axis])]


@converter("select.int")
def _select(o: Operands) -> relax.Expr:
    """One index of a dimension. TVM's converter reads outside of the tensor if the index is negative."""
    axis = o.axis("dim", len(o.shape(0)))
    return _take_one(o, axis, o.integer("index") % o.shape(0)[axis])


def _take_one(o: Operands, axis: int, index: int) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.take(o.expr(0), relax.const(index, "int64"), axis))


@converter("slice.Tensor")
def _slice(o: Operands) -> relax.Expr:
    shape = o.shape(0)
    axis = o.axis("dim", len(shape))
    start, end = _bounds(o, shape[axis])
    if end - start == 1:  # graph rewriting knows one index as a view
        return o.reshape(_take_one(o, axis, start), o.out_shape)
    return _cut(o, o.expr(0), axis, start, end, o.integer("step"))


def _bounds(o: Operands, extent: int) -> tuple[int, int]:
    """The first place of a slice, and the one after its last, from 0 up."""
    start, end = (o.given(name) for name in ("start", "end"))
    first, last = slice(0 if start is None else o.integer("start"), None if end is None else o.integer("end")).indices(
        extent
    )[:2]
    return first, max(first, last)


def _cut(o: Operands, x: relax.Expr, axis: int, start: int, end: int, step: int = 1) -> relax.Expr:
    from tvm import relax

    return o.emit(relax.op.strided_slice(x, [axis], [start], [end], [step], assume_inbound=True))


@converter("slice_scatter.default", "select_scatter.default")
def _overwrite_part(o: Operands) -> relax.Expr:
    """A tensor with a part of a dimension replaced --> a concatenation, or a choice by place."""
    import numpy as np
    from tvm import relax

    shape = o.shape(0)
    axis = o.axis("dim", len(shape))
    x, source = o.expr(0), o.operand("src", o.out_dtype)
    if "select" in o.node.target.__name__:
        start = o.integer("index") % shape[axis]
        end, step = start + 1, 1
        source = o.reshape(source, [*shape[:axis], 1, *shape[axis + 1 :]])
    else:
        start, end = _bounds(o, shape[axis])
        step = o.integer("step")
    if step == 1:
        parts = [_cut(o, x, axis, 0, start)] if start else []
        parts += [source] if end > start else []
        parts += [_cut(o, x, axis, end, shape[axis])] if end < shape[axis] else []
        return parts[0] if len(parts) == 1 else o.emit(relax.op.concat(parts, axis))
    places = np.arange(shape[axis])
    inside = (places >= start) & (places < end) & ((places - start) % step == 0)
    where = relax.const(inside.reshape([-1 if i == axis else 1 for i in range(len(shape))]), "bool")
    nearest = relax.const(np.clip((places - start) // step, 0, max(0, int(inside.sum()) - 1)))
    return o.emit(relax.op.where(where, o.emit(relax.op.take(source, nearest, axis)), x))


@converter("select_backward.default", "slice_backward.default")
def _widen(o: Operands) -> relax.Expr:
    """A part of a tensor in its place, among zeros."""
    from tvm import relax

    shape = o.out_shape
    axis = o.axis("dim", len(shape))
    source = o.expr("grad_output")
    if "select" in o.node.target.__name__:
        start = o.integer("index") % shape[axis]
        end = start + 1
        source = o.reshape(source, [*shape[:axis], 1, *shape[axis + 1 :]])
    else:
        start, end = _bounds(o, shape[axis])
        if o.integer("step") != 1:
            raise ValueError("the gradient of a slice is compiled for steps of 1")
    around = [width for i in range(len(shape)) for width in ((start, shape[axis] - end) if i == axis else (0, 0))]
    return o.emit(relax.op.nn.pad(source, around, "constant", 0.0)) if any(around) else source


@converter("repeat.default", "tile.default")
def _repeat(o: Operands) -> relax.Expr:
    from tvm import relax

    repeats, shape = o.integers(1), o.shape(0)
    rank = len(o.out_shape)
    x = o.reshape(o.expr(0), [1] * (rank - len(shape)) + list(shape))
    return o.emit(relax.op.tile(x, [1] * (rank - len(repeats)) + repeats))


@converter("flip.default")
def _flip(o: Operands) -> relax.Expr:
    from tvm import relax

    result = o.expr(0)
    for axis in o.integers("dims"):
        result = o.emit(relax.op.flip(result, axis % len(o.out_shape)))
    return result


@converter("roll.default")
def _roll(o: Operands) -> relax.Expr:
    """roll(x) --> a concatenation of two slices, for each dimension."""
    from tvm import relax

    shape, dims, shifts = o.out_shape, o.integers("dims"), o.integers("shifts")
    result = o.expr(0)
    if not dims:
        dims, shape = [0], (int(_product(shape)),)
        result = o.reshape(result, shape)
    for dim, shift in zip(dims, shifts, strict=True):
        axis = dim % len(shape)
        if shape[axis] and shift % shape[axis]:
            edge = shape[axis] - shift % shape[axis]
            parts = [_cut(o, result, axis, edge, shape[axis]), _cut(o, result, axis, 0, edge)]
            result = o.emit(relax.op.concat(parts, axis))
    return o.reshape(result, o.out_shape)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product


@converter("constant_pad_nd.default", "pad.default")
def _pad(o: Operands) -> relax.Expr:
    """Padding; a negative width cuts."""
    from tvm import relax

    x, shape, widths = o.expr(0), list(o.shape(0)), o.integers("pad")
    mode = str(o.given("mode")) if o.node.target.__name__ == "pad.default" else "constant"
    value = o.given("value")
    around = [(0, 0)] * len(shape)
    for i in range(len(widths) // 2):
        around[-1 - i] = (widths[2 * i], widths[2 * i + 1])
    for axis, (before, after) in enumerate(around):
        if before < 0 or after < 0:
            x = _cut(o, x, axis, max(0, -before), shape[axis] - max(0, -after))
    flat = [max(0, width) for pair in around for width in pair]
    if not any(flat):
        return x
    if mode == "constant":
        number = float(value) if isinstance(value, bool | int | float) else 0.0
        if "float" not in o.out_dtype:
            number = int(number)
        return o.emit(relax.op.nn.pad(x, flat, "constant", number))
    return o.emit(relax.op.nn.pad(x, flat, mode))


@converter("as_strided.default")
def _as_strided(o: Operands) -> relax.Expr:
    """A view of a contiguous tensor by strides --> an index of its elements, if it is no view in another shape."""
    import numpy as np
    from tvm import relax

    shape, strides, offset = o.integers("size"), o.integers("stride"), o.given("storage_offset")
    index = np.full(tuple(shape), offset or 0, dtype=np.int64)
    for axis, stride in enumerate(strides):
        index += (np.arange(shape[axis]) * stride).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    count = _product(o.shape(0))
    if np.array_equal(index.reshape(-1), np.arange(count)):
        return o.reshape(o.expr(0), shape)
    flat = o.reshape(o.expr(0), [count])
    return o.reshape(o.emit(relax.op.take(flat, relax.const(index.reshape(-1)), axis=0)), shape)


@converter("unfold.default")
def _unfold(o: Operands) -> relax.Expr:
    """Windows of a dimension, whose elements become the last dimension --> a look-up."""
    import numpy as np
    from tvm import relax

    shape = o.shape(0)
    if not shape:
        return o.reshape(o.expr(0), o.out_shape)
    axis, size, step = o.axis("dimension", len(shape)), o.integer("size"), o.integer("step")
    count = o.out_shape[axis]
    places = np.arange(count)[:, None] * step + np.arange(size)[None, :]
    taken = o.emit(relax.op.take(o.expr(0), relax.const(places), axis))
    order = [*(a for a in range(len(shape) + 1) if a != axis + 1), axis + 1]
    return o.emit(relax.op.permute_dims(taken, order))
