"""Resizing of ONNX's reference evaluator: one axis after the other, each by indices or by a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as SlowResize

from tilewright.tensor import Floats, Numbers
from tilewright.verify.attributes import Attributes

__all__ = ["RESIZING"]


@dataclass(frozen=True)
class _Resizing:
    """The attributes of a resizing operator.

    Attributes:
        mode: ``nearest``, ``linear`` or ``cubic``.
        coordinates: where an output element lies in the input, as ``coordinate_transformation_mode`` names it.
        rounding: which input element is the nearest, as ``nearest_mode`` names it; ``simple``: the lower one if the
            input grows, the upper one if it shrinks.
        cubic: the coefficient of the cubic interpolation.
        inside: whether elements outside of the input have no weight.
    """

    mode: str
    coordinates: str
    rounding: str
    cubic: float = -0.75
    inside: bool = False


class Resize(OpRun):
    """Resizes by scales or to sizes. ONNX's evaluator does what is left: antialiasing, cropping, aspect ratios."""

    op_domain = ""

    def _run(
        self,
        x: Numbers,
        roi: Floats | None = None,
        scales: Floats | None = None,
        sizes: NDArray[np.integer] | None = None,
        **given: object,
    ) -> tuple[Numbers]:
        attributes = Attributes(given)
        coordinates = attributes.text("coordinate_transformation_mode", "half_pixel")
        rounding = attributes.text("nearest_mode", "round_prefer_floor")
        if self.run_params["opsets"].get("", 1) < 11:  # there is no region: the second input is the scales
            scales, roi, coordinates, rounding = roi, None, "asymmetric", "simple"
        scales = None if scales is None or not scales.size else scales
        policy = attributes.text("keep_aspect_ratio_policy", "stretch")
        mode, cubic = attributes.text("mode", "nearest"), attributes.number("cubic_coeff_a", -0.75)
        antialias, inside = attributes.integer("antialias", 0), attributes.integer("exclude_outside", 0)
        axes = attributes.integers("axes") or None
        if antialias or coordinates == "tf_crop_and_resize" or policy != "stretch":
            outside = attributes.number("extrapolation_value", 0.0)
            found: tuple[Numbers] = SlowResize._run(
                self,  # type: ignore[arg-type]  # it makes no use of its class
                *(x, roi, scales, sizes, antialias, axes, coordinates, cubic, inside, outside, policy, mode, rounding),
            )
            return found
        how = _Resizing(mode, coordinates, rounding, cubic, bool(inside))
        return (_resize(x, scales, sizes, axes, how),)


class Upsample(OpRun):
    """Resizes by scales: the operator that Resize has replaced."""

    op_domain = ""

    def _run(self, x: Numbers, scale: Floats | None = None, **given: object) -> tuple[Numbers]:
        attributes = Attributes(given)
        factors = np.asarray(attributes.numbers("scales") if scale is None else scale)
        before = self.run_params["opsets"].get("", 1) < 11
        how = _Resizing(attributes.text("mode", "nearest"), "asymmetric", "simple" if before else "floor")
        return (_resize(x, factors if factors.size else None, None, None, how),)


def _resize(
    x: Numbers, scales: Floats | None, sizes: NDArray[np.integer] | None, axes: list[int] | None, how: _Resizing
) -> Numbers:
    """Resize the ``axes`` of ``x`` (None: all) by ``scales`` or to ``sizes``, which have one number for each axis."""
    places = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    result = x if x.dtype.kind == "f" else x.astype(np.float64)
    for number, axis in enumerate(places):
        extent = x.shape[axis]
        if scales is not None:
            factor = float(scales[number])
            size = int(np.floor(extent * factor))
        else:
            size = int(_need(sizes)[number])
            factor = size / extent
        if size == extent and factor == 1:
            continue
        if how.mode == "nearest":
            # Rounding in float32 decides which of two equally near elements is taken, as it does in runtimes.
            where = _sources(extent, size, np.float32(factor), how.coordinates)
            rounding = how.rounding if how.rounding != "simple" else "floor" if factor >= 1 else "ceil"
            result = np.take(result, _nearest(where, rounding, extent), axis=axis)
        else:
            matrix = _matrix(_sources(extent, size, np.float64(factor), how.coordinates), extent, how)
            moved = np.moveaxis(result, axis, -1)
            result = np.moveaxis(np.matmul(moved, matrix.T.astype(result.dtype)), -1, axis)
    if x.dtype.kind != "f":
        bounds = np.iinfo(x.dtype.name)
        whole = result.astype(np.float64, copy=False)
        result = np.clip(np.round(whole) if how.mode == "nearest" else np.trunc(whole), bounds.min, bounds.max)
    return np.ascontiguousarray(result).astype(x.dtype)


def _need(sizes: NDArray[np.integer] | None) -> NDArray[np.integer]:
    if sizes is None:
        raise ValueError("a resize has scales or sizes")
    return sizes


def _sources(extent: int, size: int, factor: np.floating, how: str) -> Floats:
    """Where in the input each of ``size`` elements of the output lies, computed in the precision of ``factor``."""
    x: Floats = np.arange(size).astype(factor.dtype)
    if how == "half_pixel" or (how == "pytorch_half_pixel" and size > 1):
        half = factor.dtype.type(0.5)
        return np.asarray((x + half) / factor - half)
    if how == "half_pixel_symmetric":
        adjustment = size / (factor * extent)
        centre = extent / 2
        return np.asarray(centre * (1 - adjustment) + (x + 0.5) / factor - 0.5)
    if how == "asymmetric":
        return np.asarray(x / factor)
    if how == "align_corners":
        return np.asarray(x * (extent - 1) / (size - 1)) if size > 1 else np.zeros(size)
    if how == "pytorch_half_pixel":
        return np.zeros(size)
    raise NotImplementedError(f"resizing with {how}")


def _nearest(where: Floats, rounding: str, extent: int) -> NDArray[np.int64]:
    """The indices of the input elements that are nearest to the places ``where``."""
    if rounding == "round_prefer_floor":
        found = np.ceil(where - 0.5)
    elif rounding == "round_prefer_ceil":
        found = np.floor(where + 0.5)
    else:
        found = np.floor(where) if rounding == "floor" else np.ceil(where)
    return np.asarray(np.clip(found, 0, extent - 1)).astype(np.int64)


def _matrix(where: Floats, extent: int, how: _Resizing) -> NDArray[np.float64]:
    """The weight of each input element in each output element, of shape (outputs, ``extent``)."""
    floor = np.floor(where)
    ratio = where - floor
    if how.mode == "linear":
        weights = {0: 1 - ratio, 1: ratio}
    elif how.mode == "cubic":
        a = how.cubic
        weights = {
            -1: ((a * (ratio + 1) - 5 * a) * (ratio + 1) + 8 * a) * (ratio + 1) - 4 * a,
            0: ((a + 2) * ratio - (a + 3)) * ratio * ratio + 1,
            1: ((a + 2) * (1 - ratio) - (a + 3)) * (1 - ratio) * (1 - ratio) + 1,
            2: ((a * (2 - ratio) - 5 * a) * (2 - ratio) + 8 * a) * (2 - ratio) - 4 * a,
        }
    else:
        raise NotImplementedError(f"resizing by {how.mode}")
    matrix = np.zeros((where.size, extent))
    rows = np.arange(where.size)
    for shift, values in weights.items():
        place = (floor + shift).astype(np.int64)
        kept = (place >= 0) & (place < extent) if how.inside else np.ones(where.size, dtype=bool)
        np.add.at(matrix, (rows[kept], np.clip(place, 0, extent - 1)[kept]), values[kept])
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True)) if how.inside else matrix


RESIZING: tuple[type[OpRun], ...] = (Resize, Upsample)
