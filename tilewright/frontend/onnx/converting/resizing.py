"""Converter of Resize, one axis after the other: each element is a weighted sum of a few elements of the data.

The indices of these elements and their weights are constants. Coordinates are computed in float32, as in ONNX Runtime.
Their rounding decides between two neighbours at the same distance, for example at 8.5 / 1.7 - 0.5 = 4.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.frontend.onnx.converting.operands import (
    constant,
    embed,
    emit,
    has,
    known,
    operand,
    result_of,
    shape_of,
    text,
)
from tilewright.frontend.onnx.converting.resizing_computed import resize_computed
from tilewright.frontend.onnx.importer import Operands, converter

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__ = ["Axis", "Table", "make_table"]

#: The most elements of the data that one expression adds for each element of the result: a choice.
_MOST_AT_ONCE = 16
#: Transformations of coordinates for which TVM's own operator is right, if sizes are integer multiples.
_PLAIN = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        axis: its number.
        size: its extent before.
        out: its extent after.
        scale: the quotient of both, before rounding.
        roi: the part of the axis that is resized, from 0 to 1; for ``tf_crop_and_resize`` only.
    """

    axis: int
    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Table:
    """The elements of the data that are added for each element of the result.

    Attributes:
        indices: the elements of the data, of shape ``(out, taps)``.
        weights: their weights, of the same shape.
        outside: which elements of the result lie outside of the data, of shape ``(out,)``; None: they are no exception.
    """

    indices: NDArray[np.int32]
    weights: NDArray[np.float32]
    outside: NDArray[np.bool_] | None = None

    @property
    def taps(self) -> int:
        """The number of elements that are summed."""
        return int(self.indices.shape[1])


@converter("Resize")
def _resize(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    x = operand(given, 0)
    shape, dtype = result_of(given)
    mode, transform = text(given, "mode", "nearest"), text(given, "coordinate_transformation_mode", "half_pixel")
    if _is_computed(given, transform):
        return [resize_computed(given)]
    axes = _changed_axes(given, shape_of(x), shape, transform)
    if not axes:
        return [x]
    if _is_plain(given, axes, len(shape), dtype, mode, transform):
        return [
            relax.op.image.resize2d(
                x,
                size=relax.ShapeExpr(list(shape[2:])),
                layout="NCHW",
                method="nearest_neighbor" if mode == "nearest" else mode,
                coordinate_transformation_mode=transform,
                rounding_method=text(given, "nearest_mode", "round_prefer_floor"),
            )
        ]
    tables = [make_table(given, axis, mode, transform) for axis in axes]
    groups = [list(range(len(axes)))]
    if math.prod(table.taps for table in tables) > _MOST_AT_ONCE:
        groups = [[number] for number in range(len(axes))]
    result, now = x, list(shape_of(x))
    wide = "float32" if dtype in ("float16", "int8", "uint8", "int32") else dtype
    for number, group in enumerate(groups):
        for member in group:
            now[axes[member].axis] = axes[member].out
        to = dtype if number == len(groups) - 1 or mode == "nearest" else wide
        part = [(axes[member].axis, tables[member]) for member in group]
        result = _gather(given, result, tuple(now), part, (wide, to))
    return [result]


def _is_computed(given: Operands, transform: str) -> bool:
    """Whether an input that decides which elements are read is not constant."""
    scaled = has(given, 2) and shape_of(operand(given, 2)) != (0,)
    policy = text(given, "keep_aspect_ratio_policy", "stretch")
    decides = [2] if scaled else [] if policy == "stretch" else [3]
    if transform == "tf_crop_and_resize" and has(given, 1):
        decides.append(1)
    return any(known(given, place) is None for place in decides)


def _changed_axes(given: Operands, before: Sequence[int], after: Sequence[int], transform: str) -> list[Axis]:
    """The axes that a node resizes. Raises ``NotImplementedError`` if scales or sizes are computed."""
    rank = len(before)
    axes = [int(axis) % rank for axis in given.attributes.get("axes", range(rank))]
    scales = known(given, 2)
    if has(given, 2) and (scales is None or scales.size):
        factors = [float(np.float32(scale)) for scale in constant(given, 2).reshape(-1)]
    else:
        factors = [float(np.float32(after[axis]) / np.float32(before[axis])) for axis in axes]
        policy = text(given, "keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            wanted = [int(size) for size in constant(given, 3).reshape(-1)]
            ratios = [size / before[axis] for size, axis in zip(wanted, axes, strict=True)]
            factors = [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)
    rois = np.tile(np.asarray([[0.0], [1.0]]), (1, len(axes)))
    if transform == "tf_crop_and_resize" and has(given, 1):
        rois = constant(given, 1).astype(np.float64).reshape(2, len(axes))
    found = [
        Axis(axis, before[axis], after[axis], factor, (float(rois[0, place]), float(rois[1, place])))
        for place, (axis, factor) in enumerate(zip(axes, factors, strict=True))
    ]
    # For an axis with a scale of 1, ONNX Runtime ignores the region of interest.
    return [a for a in found if a.size != a.out or a.scale != 1.0]


def _is_plain(given: Operands, axes: Sequence[Axis], rank: int, dtype: str, mode: str, transform: str) -> bool:
    """Whether TVM's own operator, for which there are schedules, gives the same result."""
    whole = all(axis.out == axis.size * axis.scale and axis.scale == int(axis.scale) for axis in axes)
    # With aligned corners, a coordinate may be exactly between two elements.
    plain = mode == "linear" or (mode == "nearest" and transform != "align_corners")
    return (
        rank == 4
        and dtype == "float32"
        and whole
        and plain
        and {axis.axis for axis in axes} <= {2, 3}
        and transform in _PLAIN
        and not given.attributes.get("antialias", 0)
        and not given.attributes.get("exclude_outside", 0)
        and all(axis.out > 1 for axis in axes)
    )


def make_table(given: Operands, axis: Axis, mode: str, transform: str) -> Table:
    """The table of an axis.

    Args:
        given: the node, with the attributes ``nearest_mode``, ``cubic_coeff_a``, ``antialias`` and ``exclude_outside``.
        axis: the axis.
        mode: ``nearest``, ``linear`` or ``cubic``.
        transform: the node's ``coordinate_transformation_mode``.
    """
    places = _find_places(axis, transform)
    outside = None
    if transform == "tf_crop_and_resize":
        outside = (places < 0) | (places > axis.size - 1)
    if mode == "nearest":
        rounding = _ROUNDINGS[text(given, "nearest_mode", "round_prefer_floor")]
        indices = np.clip(rounding(places.astype(np.float64)), 0, axis.size - 1).astype(np.int32)
        return Table(indices[:, None], np.ones((axis.out, 1), dtype=np.float32), outside)
    factor = float(given.attributes.get("cubic_coeff_a", -0.75))
    excluded = bool(given.attributes.get("exclude_outside", 0))
    if given.attributes.get("antialias", 0):
        first, weights = _weigh_smoothly(axis, places, mode, factor)
    elif mode == "linear":
        bounded = np.clip(places.astype(np.float64), 0, axis.size - 1)
        first = np.floor(bounded).astype(np.int64)
        weights = np.stack([1 - (bounded - first), bounded - first], axis=1)
    elif mode == "cubic":
        low = np.floor(places.astype(np.float64))
        first = low.astype(np.int64) - 1
        distances = places.astype(np.float64)[:, None] - (first[:, None] + np.arange(4))
        weights = _cubic(np.abs(distances), factor)
    else:
        raise NotImplementedError(f"no mode of Resize is called {mode!r}")
    indices = first[:, None] + np.arange(weights.shape[1])
    if excluded:
        weights = np.where((indices < 0) | (indices >= axis.size), 0.0, weights)
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return Table(np.clip(indices, 0, axis.size - 1).astype(np.int32), weights.astype(np.float32), outside)


def _find_places(axis: Axis, transform: str) -> NDArray[np.float32]:
    """The coordinate of each element of the result in the data, of shape ``(out,)``."""
    f = np.float32
    index, scale, half = np.arange(axis.out, dtype=f), f(axis.scale), f(0.5)
    size, out = f(axis.size), f(axis.out)
    if transform == "asymmetric":
        return index / scale
    if transform == "align_corners":
        return index * (size - f(1)) / (out - f(1)) if axis.out > 1 else np.zeros(1, dtype=f)
    if transform == "pytorch_half_pixel" and axis.out <= 1:
        return np.zeros(axis.out, dtype=f)
    if transform == "half_pixel_symmetric":
        offset = size / f(2) * (f(1) - out / (scale * size))
        return offset + (index + half) / scale - half
    if transform == "tf_crop_and_resize":
        begin, end = f(axis.roi[0]), f(axis.roi[1])
        if axis.out <= 1:
            return np.full(axis.out, half * (begin + end) * (size - f(1)), dtype=f)
        return begin * (size - f(1)) + index * (end - begin) * (size - f(1)) / (out - f(1))
    if transform in ("half_pixel", "pytorch_half_pixel"):
        return (index + half) / scale - half
    raise NotImplementedError(f"no transformation of coordinates is called {transform!r}")


def _cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys' cubic kernel at a distance. It is 0 for distances of 2 and more."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _weigh_smoothly(
    axis: Axis, places: NDArray[np.float32], mode: str, a: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The first element and the weights for each element of the result, with antialiasing.

    If the axis becomes smaller, the filter is wider.
    """
    stretch = max(1.0, 1.0 / axis.scale)
    support = (1.0 if mode == "linear" else 2.0) * stretch
    centres = places.astype(np.float64) + 0.5
    first = np.floor(centres - support + 0.5).astype(np.int64)
    last = np.floor(centres + support + 0.5).astype(np.int64)
    indices = first[:, None] + np.arange(int((last - first).max()))
    distance = np.abs(indices - centres[:, None] + 0.5) / stretch
    weights = np.maximum(0.0, 1.0 - distance) if mode == "linear" else _cubic(distance, a)
    weights = np.where(indices < last[:, None], weights, 0.0)
    total = weights.sum(axis=1, keepdims=True)
    return first, weights / np.where(total == 0, 1.0, total)


def _gather(
    given: Operands,
    x: relax.Expr,
    shape: tuple[int, ...],
    parts: Sequence[tuple[int, Table]],
    dtypes: tuple[str, str],
) -> relax.Expr:
    """Resize several axes in one expression.

    Args:
        given: the node.
        x: the data.
        shape: the shape of the result.
        parts: the axes, each with its table.
        dtypes: the dtypes of the sums and of the result.
    """
    wide, dtype = dtypes
    beyond = float(given.attributes.get("extrapolation_value", 0.0))
    moved = all(table.taps == 1 for _, table in parts)
    constants: list[relax.Expr] = []
    for _, table in parts:
        constants.append(embed(table.indices))
        constants.append(embed(table.weights.astype(wide if np.dtype(wide).kind == "f" else "float32")))
        constants.append(embed((table.outside if table.outside is not None else np.zeros(1, bool)).astype(np.int8)))

    def compute(x: Tensor, *tables: Tensor) -> Tensor:
        from tvm import te, tirx

        def add(index: list[Expr], number: int, i: Sequence[Expr]) -> Expr:
            """The sum over the taps of the axes from ``number`` on."""
            if number == len(parts):
                value = x(*index)
                return value if moved else value.astype(wide)
            axis, table = parts[number]
            total = None
            for tap in range(table.taps):
                place = tables[3 * number](i[axis], tap)
                value = add([*index[:axis], place, *index[axis + 1 :]], number + 1, i)
                if not moved:
                    value = value * tables[3 * number + 1](i[axis], tap)
                total = value if total is None else total + value
            return total

        def at(*i: Expr) -> Expr:
            value = add(list(i), 0, i)
            for number, (axis, table) in enumerate(parts):
                if table.outside is not None:
                    outside = tables[3 * number + 2](i[axis]) != tirx.const(0, "int8")
                    value = tirx.Select(outside, tirx.const(beyond, value.ty.dtype), value)
            return value.astype(dtype)

        return te.compute(shape, at, name="resize")

    return emit(given, compute, [x, *constants], "resize")


#: The functions that round a coordinate to an index, by ``nearest_mode``.
_ROUNDINGS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
