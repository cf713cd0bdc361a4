"""The rules of :mod:`tilewright.frontend.onnx.independence` for operators that move elements, or compute shapes."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.frontend.onnx.independence_nodes import (
    Extent,
    Node,
    Rule,
    Tensor,
    along,
    broadcast,
    inferred,
    multiply,
    need,
    normal,
    without,
)

__all__ = ["SHAPE_RULES"]


def _shape(node: Node) -> list[Tensor]:
    tensor = node.inputs[0]
    need(tensor is not None and tensor.shape is not None)
    assert tensor is not None
    assert tensor.shape is not None
    begin, end = node.integer("start", 0), node.get("end")
    extents = tensor.shape[begin : end if isinstance(end, int) else None]
    return [Tensor((len(extents),), None, extents)]


def _transpose(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    order = node.get("perm")
    permutation = [int(n) for n in order] if order is not None else list(range(len(shape)))[::-1]  # type: ignore[attr-defined]
    need(sorted(permutation) == list(range(len(shape))))
    return [along([shape[place] for place in permutation], permutation.index(axis))]


def _reshaped(shape: Sequence[Extent], axis: int, wanted: Sequence[Extent]) -> Tensor:
    """A reshaped tensor. The products of the extents before and after the watched axis must stay the same.

    Args:
        shape: its shape.
        axis: its watched axis.
        wanted: the new shape. An extent of -1 is computed from the other ones.
    """
    outer, inner = multiply(shape[:axis]), multiply(shape[axis + 1 :])
    made = list(wanted)
    need(made.count(-1) <= 1 and made.count(None) <= 1)
    if -1 in made:
        place = made.index(-1)
        rest = multiply([extent for extent in made if extent not in (-1, None)])
        if None in made:
            need(rest > 0 and outer * inner % rest == 0)
            made[place] = outer * inner // rest
        else:
            # The -1 is the watched extent if the other extents of both shapes have the same product.
            need(rest == outer * inner)
            made[place] = None
    need(made.count(None) == 1)
    new = made.index(None)
    need(multiply(made[:new]) == outer and multiply(made[new + 1 :]) == inner)
    return along(made, new)


def _reshape(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    wanted = node.integers(1, "shape")
    need(wanted is not None)
    zero = bool(node.integer("allowzero", 0))
    made: list[Extent] = []
    for place, extent in enumerate(wanted or ()):
        need(extent != 0 or (not zero and place < len(shape)))
        made.append(shape[place] if extent == 0 else extent)
    return [_reshaped(shape, axis, made)]


def _flatten(node: Node) -> list[Tensor]:
    """Flatten: on the side of the watched axis, all other extents must be 1."""
    shape, axis = node.watched()
    cut = node.integer("axis", 1)
    cut = cut + len(shape) if cut < 0 else cut
    need(0 <= cut <= len(shape))
    if axis < cut:
        need(multiply([extent for place, extent in enumerate(shape[:cut]) if place != axis]) == 1)
        return [along((None, multiply(shape[cut:])), 0)]
    need(multiply([extent for place, extent in enumerate(shape) if place >= cut and place != axis]) == 1)
    return [along((multiply(shape[:cut]), None), 1)]


def _unsqueeze(node: Node) -> list[Tensor]:
    tensor = node.inputs[0]
    need(tensor is not None)
    assert tensor is not None
    axes = node.fixed_integers(1, "axes")
    if tensor.extents is not None and tensor.shape == () and axes in ((0,), (-1,)):
        return [Tensor((1,), None, tensor.extents)]
    shape, axis = node.watched()
    rank = len(shape) + len(axes or ())
    new = {normal(a, rank) for a in axes or ()}
    old = iter(enumerate(shape))
    made: list[Extent] = []
    place = 0
    for position in range(rank):
        if position in new:
            made.append(1)
            continue
        number, extent = next(old)
        place = position if number == axis else place
        made.append(extent)
    return [along(made, place)]


def _squeeze(node: Node) -> list[Tensor]:
    tensor = node.inputs[0]
    need(tensor is not None)
    assert tensor is not None
    axes = node.fixed_integers(1, "axes")
    need(axes is not None)  # without axes an extent of 1 is squeezed even if it is watched
    if tensor.extents is not None and tensor.shape == (1,) and axes in ((0,), (-1,)):
        return [Tensor((), None, tensor.extents)]
    shape, axis = node.watched()
    need(all(shape[normal(a, len(shape))] == 1 for a in axes or ()))
    return [without(shape, axis, axes or (), keep=False)]


def _concat(node: Node) -> list[Tensor]:
    inputs = [tensor for tensor in node.inputs if tensor is not None]
    values = [tensor.extents for tensor in inputs if tensor.shape is not None and len(tensor.shape) == 1]
    if len(values) == len(inputs) and all(value is not None for value in values):
        joined = tuple(extent for value in values for extent in value or ())
        return [Tensor((len(joined),), None, joined)]
    shape, axis = node.watched()
    where = normal(node.integer("axis", 0), len(shape))
    need(where != axis and all(node.data(place).axis == axis for place in range(len(node.inputs))))
    total = sum(int((tensor.shape or ())[where] or 0) for tensor in inputs)
    return [along([total if place == where else extent for place, extent in enumerate(shape)], axis)]


def _split(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    need(normal(node.integer("axis", 0), len(shape)) != axis)
    node.need_free(1)
    return [inferred(node, axis, output) for output in range(len(node.proto.output))]


def _slice(node: Node) -> list[Tensor]:
    tensor = node.inputs[0]
    need(tensor is not None and tensor.shape is not None)
    assert tensor is not None
    rank = len(tensor.shape or ())
    begins, ends = node.fixed_integers(1, "starts"), node.fixed_integers(2, "ends")
    need(begins is not None and ends is not None)
    assert begins is not None
    assert ends is not None
    axes = node.fixed_integers(3, "axes") or tuple(range(len(begins)))
    steps = node.fixed_integers(4) or (1,) * len(begins)
    if tensor.extents is not None and rank == 1 and axes == (0,):
        extents = tensor.extents[slice(begins[0], ends[0], steps[0])]
        return [Tensor((len(extents),), None, extents)]
    _, axis = node.watched()
    need(all(normal(a, rank) != axis for a in axes))
    return [inferred(node, axis)]


def _gather(node: Node) -> list[Tensor]:
    table, places = node.inputs[0], node.inputs[1]
    need(table is not None and places is not None)
    assert table is not None
    assert places is not None
    where = node.integer("axis", 0)
    if table.extents is not None and places.extents is not None and table.shape is not None and len(table.shape) == 1:
        need(None not in places.extents)
        picked = tuple(table.extents[normal(n or 0, len(table.extents))] for n in places.extents)
        return [Tensor(() if places.shape == () else (len(picked),), None, picked)]
    table, places = node.data(0), node.data(1)
    assert table.shape is not None
    assert places.shape is not None
    where = normal(where, len(table.shape))
    need(table.axis is None or places.axis is None)
    made = (*table.shape[:where], *places.shape, *table.shape[where + 1 :])
    if places.axis is not None:
        return [along(made, where + places.axis)]
    need(table.axis is not None and table.axis != where)
    axis = table.axis or 0
    return [along(made, axis if axis < where else axis + len(places.shape) - 1)]


def _expand(node: Node) -> list[Tensor]:
    tensor, wanted = node.data(0), node.integers(1)
    assert tensor.shape is not None
    need(wanted is not None)
    target = Tensor(tuple(wanted or ()), wanted.index(None) if wanted and None in wanted else None)
    return [broadcast(tensor, target)]


def _fill(node: Node) -> list[Tensor]:
    """ConstantOfShape: all elements are equal."""
    wanted = node.integers(0)
    need(wanted is not None and wanted.count(None) == 1)
    return [along(wanted or (), (wanted or ()).index(None))]


def _tile(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    repeats = node.fixed_integers(1)
    need(repeats is not None and len(repeats) == len(shape) and repeats[axis] == 1)
    return [along([e if e is None else e * r for e, r in zip(shape, repeats or (), strict=True)], axis)]


def _pad(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    pads, axes = node.fixed_integers(1, "pads"), node.fixed_integers(3)
    node.need_free(2)
    need(pads is not None)
    assert pads is not None
    where = [normal(a, len(shape)) for a in axes] if axes is not None else list(range(len(shape)))
    need(len(pads) == 2 * len(where))
    if axis in where:
        need(pads[where.index(axis)] == pads[where.index(axis) + len(where)] == 0)
    return [inferred(node, axis)]


def _top_k(node: Node) -> list[Tensor]:
    shape, axis = node.watched()
    node.need_free(1)
    need(normal(node.integer("axis", -1), len(shape)) != axis)
    return [inferred(node, axis, output) for output in range(len(node.proto.output))]


#: The rules by operator.
SHAPE_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Expand": _expand,
    "ConstantOfShape": _fill,
    "Tile": _tile,
    "Pad": _pad,
    "TopK": _top_k,
}
