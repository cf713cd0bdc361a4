"""Resizing, one axis after the other, each by a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_resize import Resize as SlowResize

__all__ = ["RESIZING"]


class Resize(OpRun):
    """By scales or sizes; antialiasing and cropping are left to ONNX's own."""

    op_domain = ""

    def _run(
        self,
        x: NDArray[Any],
        roi: NDArray[Any] | None = None,
        scales: NDArray[Any] | None = None,
        sizes: NDArray[Any] | None = None,
        antialias: int = 0,
        axes: Sequence[int] | None = None,
        coordinate_transformation_mode: str = "half_pixel",
        cubic_coeff_a: float = -0.75,
        exclude_outside: int = 0,
        extrapolation_value: float = 0.0,
        keep_aspect_ratio_policy: str = "stretch",
        mode: str = "nearest",
        nearest_mode: str = "round_prefer_floor",
    ) -> tuple[NDArray[Any]]:
        if self.run_params["opsets"].get("", 1) < 11:  # no region there: the second input is the scales
            scales, roi, coordinate_transformation_mode, nearest_mode = roi, None, "asymmetric", "simple"
        scales = None if scales is None or not scales.size else scales
        if antialias or coordinate_transformation_mode == "tf_crop_and_resize" or keep_aspect_ratio_policy != "stretch":
            slow: Any = SlowResize._run
            return tuple(
                slow(
                    self, x, roi, scales, sizes, antialias, list(axes) if axes is not None else None,
                    coordinate_transformation_mode, cubic_coeff_a, exclude_outside, extrapolation_value,
                    keep_aspect_ratio_policy, mode, nearest_mode,
                )
            )  # fmt: skip
        places = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
        result = x if x.dtype.kind == "f" else x.astype(np.float64)
        for number, axis in enumerate(places):
            extent = x.shape[axis]
            factor = float(scales[number]) if scales is not None else int(_given(sizes)[number]) / extent
            size = int(np.floor(extent * factor)) if scales is not None else int(_given(sizes)[number])
            if size == extent and factor == 1:
                continue
            # Which is nearest of two equally near ones is decided by the rounding of float32, as runtimes have it.
            kind = np.float32 if mode == "nearest" else np.float64
            where = _sources(extent, size, kind(factor), coordinate_transformation_mode)
            if mode == "nearest":
                how = nearest_mode if nearest_mode != "simple" else "floor" if factor >= 1 else "ceil"
                result = np.take(result, _nearest(where, how, extent), axis=axis)
            else:
                matrix = _matrix(where, extent, mode, cubic_coeff_a, bool(exclude_outside))
                moved = np.moveaxis(result, axis, -1)
                result = np.moveaxis(moved @ matrix.T.astype(result.dtype), -1, axis)
        if x.dtype.kind != "f":
            bounds = np.iinfo(x.dtype)
            result = np.clip(np.round(result) if mode == "nearest" else np.trunc(result), bounds.min, bounds.max)
        return (np.ascontiguousarray(result).astype(x.dtype),)


class Upsample(OpRun):
    """Resizing as it was before there was Resize."""

    op_domain = ""

    def _run(
        self, x: NDArray[Any], scale: NDArray[Any] | None = None, mode: str = "nearest", scales: Any = None, **_: Any
    ) -> tuple[NDArray[Any]]:
        factors = np.asarray(scales if scale is None else scale)
        before = self.run_params["opsets"].get("", 1) < 11
        how = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        resize: Any = Resize._run
        result: tuple[NDArray[Any]] = resize(self, x, factors if before else None, factors, **how)
        return result


def _given(sizes: NDArray[Any] | None) -> NDArray[Any]:
    if sizes is None:
        raise ValueError("a resize has scales or sizes")
    return sizes


def _sources(extent: int, size: int, factor: Any, how: str) -> NDArray[Any]:
    """Where in the input each element of the output lies, computed in the type of ``factor``."""
    x = np.arange(size, dtype=factor.dtype)
    if how == "half_pixel" or (how == "pytorch_half_pixel" and size > 1):
        return np.asarray((x + factor.dtype.type(0.5)) / factor - factor.dtype.type(0.5))
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


def _nearest(where: NDArray[Any], how: str, extent: int) -> NDArray[Any]:
    if how == "round_prefer_floor":
        found = np.ceil(where - 0.5)
    elif how == "round_prefer_ceil":
        found = np.floor(where + 0.5)
    else:
        found = np.floor(where) if how == "floor" else np.ceil(where)
    return np.clip(found, 0, extent - 1).astype(np.int64)


def _matrix(where: NDArray[Any], extent: int, mode: str, a: float, inside: bool) -> NDArray[Any]:
    """The weights of the input's elements in each element of the output."""
    floor = np.floor(where)
    ratio = where - floor
    if mode == "linear":
        weights = {0: 1 - ratio, 1: ratio}
    elif mode == "cubic":
        weights = {
            -1: ((a * (ratio + 1) - 5 * a) * (ratio + 1) + 8 * a) * (ratio + 1) - 4 * a,
            0: ((a + 2) * ratio - (a + 3)) * ratio * ratio + 1,
            1: ((a + 2) * (1 - ratio) - (a + 3)) * (1 - ratio) * (1 - ratio) + 1,
            2: ((a * (2 - ratio) - 5 * a) * (2 - ratio) + 8 * a) * (2 - ratio) - 4 * a,
        }
    else:
        raise NotImplementedError(f"resizing by {mode}")
    matrix = np.zeros((where.size, extent))
    rows = np.arange(where.size)
    for shift, values in weights.items():
        place = (floor + shift).astype(np.int64)
        kept = (place >= 0) & (place < extent) if inside else np.ones(where.size, dtype=bool)
        np.add.at(matrix, (rows[kept], np.clip(place, 0, extent - 1)[kept]), values[kept])
    return matrix / matrix.sum(axis=1, keepdims=True) if inside else matrix


RESIZING: tuple[type[OpRun], ...] = (Resize, Upsample)
