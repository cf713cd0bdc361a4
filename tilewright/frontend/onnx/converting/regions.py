"""Converters of operators on computed regions of images: RoiAlign and MaxRoiPool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.converting.operands import bound, emit, operand, result_of, shape_of, text
from tilewright.frontend.onnx.importer import Operands, converter

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__: list[str] = []

#: The most steps of a MaxRoiPool, which reads every row and column for every region: a choice.
_MOST_STEPS = 1 << 28


@converter("RoiAlign")
def _roi_align(given: Operands) -> Sequence[relax.Expr]:
    shape, dtype = result_of(given)
    ratio = int(given.attributes.get("sampling_ratio", 0))
    if ratio <= 0:
        raise NotImplementedError("the number of its samples depends on the regions, since sampling_ratio is 0")
    half = text(given, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
    highest = text(given, "mode", "avg") == "max"
    scale = float(given.attributes.get("spatial_scale", 1.0))
    images = shape_of(operand(given, 0))[0]

    def compute(x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
        from tvm import te, tirx

        rows, columns = te.reduce_axis((0, ratio), "rows"), te.reduce_axis((0, ratio), "columns")
        sizes = shape_of(x)[2:]

        def number(value: float) -> Expr:
            return tirx.const(value, dtype)

        def place(r: Expr, axis: int, cell: Expr, sample: Expr) -> Expr:
            """The coordinate of a sample of a cell along an axis: 0 for rows, 1 for columns."""
            begin, end = (
                rois(r, corner) * number(scale) - number(0.5 if half else 0.0) for corner in (1 - axis, 3 - axis)
            )
            length = end - begin if half else tirx.max(end - begin, number(1.0))
            cell_size = length / number(float(shape[2 + axis]))
            step = (sample.astype(dtype) + number(0.5)) * cell_size / number(float(ratio))
            return begin + cell.astype(dtype) * cell_size + step

        def corners(r: Expr, c: Expr, i: Expr, j: Expr) -> list[Expr]:
            """The four pixels around a sample, each multiplied by its weight."""
            picture = bound(batch(r), images)
            ends, inside = [], tirx.const(True, "bool")
            for axis, (cell, sample) in enumerate(((i, rows.var), (j, columns.var))):
                at, size = place(r, axis, cell, sample), float(sizes[axis])
                inside = tirx.all(inside, at >= number(-1.0), at <= number(size))
                at = tirx.max(tirx.min(at, number(size - 1.0)), number(0.0))
                low = tirx.floor(at)
                first = low.astype("int32")
                second = tirx.min(first + 1, sizes[axis] - 1)
                ends.append(((first, number(1.0) - (at - low)), (second, at - low)))
            return [
                tirx.Select(inside, x(picture, c, y, z) * (v * w), number(0.0)) for y, v in ends[0] for z, w in ends[1]
            ]

        def sampled(*i: Expr) -> Expr:
            parts = corners(*i)
            if highest:
                best = parts[0]
                for part in parts[1:]:
                    best = tirx.max(best, part)
                return te.max(best, axis=[rows, columns])
            return te.sum(parts[0] + parts[1] + parts[2] + parts[3], axis=[rows, columns])

        total = te.compute(shape, sampled, name="roi_align")
        if highest:
            return total
        return te.compute(shape, lambda *i: total(*i) / number(float(ratio * ratio)), name="roi_align_mean")

    return [emit(given, compute, [operand(given, place) for place in range(3)], "roi_align")]


@converter("MaxRoiPool")
def _max_roi_pool(given: Operands) -> Sequence[relax.Expr]:
    shape, dtype = result_of(given)
    images, channels, *sizes = shape_of(operand(given, 0))
    scale, count = float(given.attributes.get("spatial_scale", 1.0)), shape[0]
    if count * channels * math.prod(sizes) * shape[3] > _MOST_STEPS:
        raise NotImplementedError(
            "its regions have no fixed sizes, and its images are too large to read all pixels for each region"
        )

    def compute(x: Tensor, rois: Tensor) -> Tensor:
        from tvm import te, tirx

        lowest = te.min_value(dtype)

        def number(value: float) -> Expr:
            return tirx.const(value, dtype)

        def inside(r: Expr, axis: int, cell: Expr, pixel: Expr) -> Expr:
            """Whether a row or column belongs to a cell of a region."""
            begin, end = (_round(rois(r, corner) * number(scale), dtype) for corner in (2 - axis, 4 - axis))
            size = tirx.max(end - begin + number(1.0), number(1.0)) / number(float(shape[2 + axis]))
            first = tirx.floor(cell.astype(dtype) * size) + begin
            last = tirx.ceil((cell.astype(dtype) + number(1.0)) * size) + begin
            at = pixel.astype(dtype)
            return tirx.all(at >= first, at < last)

        row, column = te.reduce_axis((0, sizes[0]), "row"), te.reduce_axis((0, sizes[1]), "column")
        across = te.compute(
            (count, channels, sizes[0], shape[3]),
            lambda r, c, y, j: te.max(
                tirx.Select(
                    inside(r, 1, j, column.var), x(bound(rois(r, 0).astype("int32"), images), c, y, column), lowest
                ),
                axis=[column],
            ),
            name="roi_pool_columns",
        )
        down = te.compute(
            shape,
            lambda r, c, i, j: te.max(tirx.Select(inside(r, 0, i, row.var), across(r, c, row, j), lowest), axis=[row]),
            name="roi_pool_rows",
        )
        return te.compute(shape, lambda *i: tirx.Select(down(*i) == lowest, number(0.0), down(*i)), name="roi_pool")

    return [emit(given, compute, [operand(given, 0), operand(given, 1)], "roi_pool")]


def _round(value: Expr, dtype: str) -> Expr:
    """The nearest integer; halves are rounded away from zero."""
    from tvm import tirx

    half = tirx.const(0.5, dtype)
    return tirx.Select(value >= tirx.const(0.0, dtype), tirx.floor(value + half), tirx.ceil(value - half))
