"""Converter of Resize with computed scales, or a computed region of interest, if the shape of the result is known.

The kernel computes the indices and weights that are constants in :mod:`resizing`, one axis after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.converting.operands import emit, has, operand, result_of, shape_of, text
from tilewright.frontend.onnx.importer import Operands

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__ = ["resize_computed"]

#: The number of elements that are added, and the offset of the first one from the element before the coordinate, by
#: mode.
_TAPS = {"nearest": (1, 0), "linear": (2, 0), "cubic": (4, -1)}


@dataclass(frozen=True)
class _Axis:
    """An axis that is resized.

    Attributes:
        axis: its number.
        place: its number among the axes that the node resizes.
        size: its extent before.
        out: its extent after.
    """

    axis: int
    place: int
    size: int
    out: int


def resize_computed(given: Operands) -> relax.Expr:
    """The result of a Resize.

    Raises:
        NotImplementedError: the size of its filter depends on the scales.
    """
    x = operand(given, 0)
    before, (after, dtype) = shape_of(x), result_of(given)
    rank, mode = len(before), text(given, "mode", "nearest")
    if given.attributes.get("antialias", 0):
        raise NotImplementedError("input 2 is not a constant, and the filter's size depends on it")
    axes = [int(axis) % rank for axis in given.attributes.get("axes", range(rank))]
    scales = _find_scales(given, before, after, axes)
    roi = [operand(given, 1)] if has(given, 1) else []
    crops = text(given, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    wide = dtype if dtype in ("float32", "float64") or mode == "nearest" else "float32"
    now = list(before)
    for place, axis in enumerate(axes):
        own = _Axis(axis, place, before[axis], after[axis])
        now[axis] = after[axis]
        operands = [x, scales, *(roi if crops else [])]
        x = emit(given, _Pass(given, own, len(axes), (wide, wide)).over(tuple(now)), operands, "resize")
    if wide != dtype:
        x = emit(given, lambda x: _cast(x, after, dtype), [x], "resize_cast")
    return x


def _cast(x: Tensor, shape: Sequence[int], dtype: str) -> Tensor:
    from tvm import te

    return te.compute(shape, lambda *i: x(*i).astype(dtype), name="resize_cast")


def _find_scales(given: Operands, before: Sequence[int], after: Sequence[int], axes: Sequence[int]) -> relax.Expr:
    """The scale of each axis, as float32."""
    if has(given, 2) and shape_of(operand(given, 2)) == (len(axes),):
        return operand(given, 2)
    policy = text(given, "keep_aspect_ratio_policy", "stretch")

    def compute(sizes: Tensor) -> Tensor:
        from tvm import te, tirx

        def ratio(place: int) -> Expr:
            return sizes(place).astype("float32") / tirx.const(float(before[axes[place]]), "float32")

        def at(i: Expr) -> Expr:
            chosen = ratio(0)
            for place in range(1, len(axes)):
                other = ratio(place)
                if policy == "stretch":
                    chosen = tirx.Select(i == place, other, chosen)
                else:
                    chosen = (tirx.min if policy == "not_larger" else tirx.max)(chosen, other)
            return chosen

        return te.compute((len(axes),), at, name="scales")

    return emit(given, compute, [operand(given, 3)], "resize_scales")


class _Pass:
    """Resizes one axis.

    Args:
        given: the node.
        own: the axis.
        count: the number of axes that the node resizes.
        dtypes: the dtypes of the sums and of the result.
    """

    def __init__(self, given: Operands, own: _Axis, count: int, dtypes: tuple[str, str]) -> None:
        self.own, self.count, self.dtypes = own, count, dtypes
        self.transform = text(given, "coordinate_transformation_mode", "half_pixel")
        self.mode, self.rounding = text(given, "mode", "nearest"), text(given, "nearest_mode", "round_prefer_floor")
        self.factor = float(given.attributes.get("cubic_coeff_a", -0.75))
        self.excluded = bool(given.attributes.get("exclude_outside", 0))
        self.beyond = float(given.attributes.get("extrapolation_value", 0.0))

    def over(self, shape: tuple[int, ...]) -> Callable[..., Tensor]:
        """The function that makes a result of ``shape`` from the data, the scales and the region of interest."""

        def compute(x: Tensor, scales: Tensor, *roi: Tensor) -> Tensor:
            from tvm import te, tirx

            own, (wide, dtype) = self.own, self.dtypes
            places = te.compute(
                (own.out,),
                lambda o: tirx.Select(
                    scales(own.place) == tirx.const(1.0, "float32"),
                    o.astype("float32"),
                    self._place(o, scales(own.place), roi[0] if roi else None),
                ),
                name="places",
            )
            taps, first = _TAPS[self.mode]

            def tap(o: Expr, t: Expr) -> Expr:
                return tirx.floor(places(o)) + tirx.const(float(first), "float32") + t.astype("float32")

            def index(o: Expr, t: Expr) -> Expr:
                at = self._round(places(o)) if taps == 1 else tap(o, t)
                last = tirx.const(float(own.size - 1), "float32")
                return tirx.max(tirx.min(at, last), tirx.const(0.0, "float32")).astype("int32")

            indices = te.compute((own.out, taps), index, name="indices")
            weights = te.compute((own.out, taps), lambda o, t: self._weigh(places(o), tap(o, t), t), name="weights")

            def at(*i: Expr) -> Expr:
                o, total = i[own.axis], None
                sums = None
                for t in range(taps):
                    value = x(*i[: own.axis], indices(o, t), *i[own.axis + 1 :])
                    if taps == 1:
                        return self._fill(value, places(o), dtype)
                    part = value.astype(wide) * weights(o, t).astype(wide)
                    total = part if total is None else total + part
                    sums = weights(o, t) if sums is None else sums + weights(o, t)
                if self.excluded and total is not None and sums is not None:
                    total = total / sums.astype(wide)
                assert total is not None
                return self._fill(total.astype(dtype), places(o), dtype)

            return te.compute(shape, at, name="resize")

        return compute

    def _place(self, o: Expr, scale: Expr, roi: Tensor | None) -> Expr:
        """The coordinate in the data; see ``resizing._find_places``."""
        from tvm import tirx

        def number(value: float) -> Expr:
            return tirx.const(value, "float32")

        own, index, half = self.own, o.astype("float32"), number(0.5)
        size, out = number(float(own.size)), number(float(own.out))
        if self.transform == "asymmetric":
            return index / scale
        if self.transform == "align_corners":
            return index * (size - number(1.0)) / (out - number(1.0)) if own.out > 1 else number(0.0)
        if self.transform == "pytorch_half_pixel" and own.out <= 1:
            return number(0.0)
        if self.transform == "half_pixel_symmetric":
            return size / number(2.0) * (number(1.0) - out / (scale * size)) + (index + half) / scale - half
        if self.transform == "tf_crop_and_resize":
            begin, end = number(0.0), number(1.0)
            if roi is not None:
                begin, end = roi(own.place).astype("float32"), roi(self.count + own.place).astype("float32")
            if own.out <= 1:
                return half * (begin + end) * (size - number(1.0))
            return begin * (size - number(1.0)) + index * (end - begin) * (size - number(1.0)) / (out - number(1.0))
        return (index + half) / scale - half

    def _round(self, place: Expr) -> Expr:
        from tvm import tirx

        half = tirx.const(0.5, "float32")
        if self.rounding == "floor":
            return tirx.floor(place)
        if self.rounding == "ceil":
            return tirx.ceil(place)
        return tirx.ceil(place - half) if self.rounding == "round_prefer_floor" else tirx.floor(place + half)

    def _weigh(self, place: Expr, tap: Expr, t: Expr) -> Expr:
        """The weight of a tap; see ``resizing.make_table``."""
        from tvm import tirx

        def number(value: float) -> Expr:
            return tirx.const(value, "float32")

        if self.mode == "nearest":
            return number(1.0)
        if self.mode == "linear":
            # Outside of the data, both taps read the same element.
            return tirx.max(number(0.0), number(1.0) - tirx.abs(place - tap))
        d, a = tirx.abs(place - tap), number(self.factor)
        near = ((a + number(2.0)) * d - (a + number(3.0))) * d * d + number(1.0)
        far = ((a * d - number(5.0) * a) * d + number(8.0) * a) * d - number(4.0) * a
        weight = tirx.Select(d <= number(1.0), near, tirx.Select(d < number(2.0), far, number(0.0)))
        if not self.excluded:
            return weight
        inside = tirx.all(tap >= number(0.0), tap < number(float(self.own.size)))
        return tirx.Select(inside, weight, number(0.0))

    def _fill(self, value: Expr, place: Expr, dtype: str) -> Expr:
        """The value, or the extrapolation value if the place is outside of the data."""
        from tvm import tirx

        if self.transform != "tf_crop_and_resize":
            return value
        last = tirx.const(float(self.own.size - 1), "float32")
        outside = tirx.any(place < tirx.const(0.0, "float32"), place > last)
        return tirx.Select(outside, tirx.const(self.beyond, dtype), value)
