"""Converters of operators that read images at computed coordinates: GridSample and DeformConv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.converting.operands import (
    dtype_of,
    emit,
    has,
    numbers,
    operand,
    result_of,
    shape_of,
    text,
)
from tilewright.frontend.onnx.importer import Operands, converter

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__: list[str] = []

#: The number of elements that one coordinate reads along an axis, and the offset of the first one from the element
#: before the coordinate, by mode.
_TAPS = {"nearest": (1, 0), "linear": (2, 0), "bilinear": (2, 0), "cubic": (4, -1), "bicubic": (4, -1)}
#: The parameter of Keys' cubic kernel, as in ONNX Runtime.
_CUBIC = -0.75


@converter("GridSample")
def _grid_sample(given: Operands) -> Sequence[relax.Expr]:
    x, grid = operand(given, 0), operand(given, 1)
    shape, dtype = result_of(given)
    sampler = _Sampler(
        shape_of(x)[2:],
        text(given, "mode", "linear"),
        text(given, "padding_mode", "zeros"),
        bool(given.attributes.get("align_corners", 0)),
        "float64" if dtype_of(grid) == "float64" else "float32",
    )
    return [emit(given, lambda x, grid: sampler.sample(x, grid, shape, dtype), [x, grid], "grid_sample")]


@dataclass(frozen=True)
class _Sampler:
    """How images are read at coordinates from -1 to 1.

    Attributes:
        image: the extents of an image.
        mode: ``nearest``, ``linear`` or ``cubic``.
        padding: the values around the image: ``zeros``, ``border`` or ``reflection``.
        aligned: whether -1 and 1 are the centres of the outermost pixels, instead of their edges.
        wide: the dtype of coordinates and sums.
    """

    image: tuple[int, ...]
    mode: str
    padding: str
    aligned: bool
    wide: str

    def sample(self, x: Tensor, grid: Tensor, shape: tuple[int, ...], dtype: str) -> Tensor:
        """The images at the coordinates of the grid.

        Args:
            x: the images.
            grid: the coordinates, those of the last axis first.
            shape: the shape of the result.
            dtype: the dtype of the result.
        """
        from tvm import te

        rank, (taps, _), wide = len(self.image), _TAPS[self.mode], self.wide
        where = (shape[0], *shape[2:], rank)
        places = te.compute(
            where, lambda *i: self._place(grid(*i[:-1], rank - 1 - i[-1]).astype(wide), i[-1]), name="coordinate"
        )
        indices = te.compute((*where, taps), lambda *i: self._index(places(*i[:-1]), i[-2], i[-1]), name="index")
        weights = te.compute((*where, taps), lambda *i: self._weight(places(*i[:-1]), i[-2], i[-1]), name="weight")
        axes = [te.reduce_axis((0, taps), f"t{axis}") for axis in range(rank)]

        def blend(n: Expr, c: Expr, *out: Expr) -> Expr:
            value = x(n, c, *(indices(n, *out, axis, axes[axis]) for axis in range(rank))).astype(wide)
            for axis in range(rank):
                value = value * weights(n, *out, axis, axes[axis])
            return te.sum(value, axis=axes)

        total = te.compute(shape, blend, name="grid_sample")
        return (
            total if dtype == wide else te.compute(shape, lambda *i: total(*i).astype(dtype), name="grid_sample_cast")
        )

    def _number(self, value: float) -> Expr:
        from tvm import tirx

        return tirx.const(value, self.wide)

    def _along(self, axis: Expr, values: Sequence[float]) -> Expr:
        """The value that belongs to an axis."""
        from tvm import tirx

        chosen = self._number(values[-1])
        for number in reversed(range(len(values) - 1)):
            chosen = tirx.Select(axis == number, self._number(values[number]), chosen)
        return chosen

    def _size(self, axis: Expr) -> Expr:
        return self._along(axis, [float(extent) for extent in self.image])

    def _mirror(self, value: Expr, axis: Expr) -> Expr:
        """The value, reflected at both ends of an axis until it lies between them."""
        ends = [(0.0, size - 1.0) if self.aligned else (-0.5, size - 0.5) for size in self.image]
        low, high = self._along(axis, [e[0] for e in ends]), self._along(axis, [e[1] for e in ends])
        return _reflect(value, low, high, self.wide)

    def _place(self, value: Expr, axis: Expr) -> Expr:
        """The coordinate in pixels."""
        from tvm import tirx

        one, half, size, taps = self._number(1.0), self._number(0.5), self._size(axis), _TAPS[self.mode][0]
        value = (value + one) * half * (size - one) if self.aligned else ((value + one) * size - one) * half
        if taps == 1:
            value = tirx.nearbyint(value)
        if self.padding == "border" and taps < 4:
            return tirx.max(tirx.min(value, size - one), self._number(0.0))
        if self.padding == "reflection":
            return value if taps == 4 else self._mirror(value, axis)
        # Farther away, all taps read the same value. The bounds keep coordinates in the range of int32.
        return tirx.max(tirx.min(value, size + self._number(4.0)), self._number(-4.0))

    def _tap(self, place: Expr, tap: Expr) -> Expr:
        from tvm import tirx

        return tirx.floor(place) + (tap + _TAPS[self.mode][1]).astype(self.wide)

    def _index(self, place: Expr, axis: Expr, tap: Expr) -> Expr:
        """The pixel that a tap reads."""
        from tvm import tirx

        value = self._tap(place, tap)
        if self.padding == "reflection":
            value = tirx.floor(self._mirror(value, axis))
        last = self._size(axis) - self._number(1.0)
        return tirx.max(tirx.min(value, last), self._number(0.0)).astype("int32")

    def _weight(self, place: Expr, axis: Expr, tap: Expr) -> Expr:
        """The weight of a tap. Outside of the image, it is 0 if the padding is ``zeros``."""
        from tvm import tirx

        value = _weigh(place - tirx.floor(place), tap, _TAPS[self.mode][0], self.wide)
        if self.padding != "zeros":
            return value
        at = self._tap(place, tap)
        return tirx.Select(tirx.all(at >= self._number(0.0), at < self._size(axis)), value, self._number(0.0))


def _reflect(value: Expr, low: Expr, high: Expr, dtype: str) -> Expr:
    """The value, reflected at both ends until it lies between them."""
    from tvm import tirx

    zero, two = tirx.const(0.0, dtype), tirx.const(2.0, dtype)
    length = tirx.max(high - low, tirx.const(1e-6, dtype))
    beyond = tirx.max(tirx.max(low - value, value - high), zero)
    times = tirx.floor(beyond / length)
    rest = beyond - times * length
    even = times - two * tirx.floor(times / two) == zero
    up, down = low + rest, high - rest
    below, above = tirx.Select(even, up, down), tirx.Select(even, down, up)
    inside = tirx.Select(value > high, above, tirx.Select(value < low, below, value))
    return tirx.max(tirx.min(inside, high), low)


def _weigh(part: Expr, tap: Expr, taps: int, dtype: str) -> Expr:
    """The weight of a tap, where ``part`` is the distance from the element before."""
    from tvm import tirx

    one = tirx.const(1.0, dtype)
    if taps == 1:
        return one
    if taps == 2:
        return tirx.Select(tap == 0, one - part, part)
    a = tirx.const(_CUBIC, dtype)

    def number(value: float) -> Expr:
        return tirx.const(value, dtype)

    def near(d: Expr) -> Expr:
        return ((a + number(2)) * d - (a + number(3))) * d * d + one

    def far(d: Expr) -> Expr:
        return ((a * d - number(5) * a) * d + number(8) * a) * d - number(4) * a

    outer = tirx.Select(tap == 0, far(part + one), far(number(2) - part))
    inner = tirx.Select(tap == 1, near(part), near(one - part))
    return tirx.Select(tirx.any(tap == 0, tap == 3), outer, inner)


@converter("DeformConv")
def _deform_conv(given: Operands) -> Sequence[relax.Expr]:
    shape, dtype = result_of(given)
    x, kernel = shape_of(operand(given, 0)), shape_of(operand(given, 1))
    if len(shape) != 4:
        raise NotImplementedError(f"its images have two dimensions, but these have {len(shape) - 2}")
    groups, offsets = int(given.attributes.get("group", 1)), int(given.attributes.get("offset_group", 1))
    strides, dilations = numbers(given, "strides", [1, 1]), numbers(given, "dilations", [1, 1])
    pads = numbers(given, "pads", [0] * 4)
    rows, columns = kernel[2:]
    taps, channels = rows * columns, x[1]
    biased, masked = has(given, 3), has(given, 4)
    operands = [operand(given, place) for place in range(5) if has(given, place)]

    def compute(x: Tensor, weight: Tensor, offset: Tensor, *more: Tensor) -> Tensor:
        from tvm import te, tirx

        mask = more[-1] if masked else None
        share = channels // offsets

        def sample(n: Expr, c: Expr, k: Expr, i: Expr, j: Expr) -> Expr:
            group = c // share
            y = offset(n, (group * taps + k) * 2, i, j) + (
                i * strides[0] - pads[0] + k // columns * dilations[0]
            ).astype(dtype)
            z = offset(n, (group * taps + k) * 2 + 1, i, j) + (
                j * strides[1] - pads[1] + k % columns * dilations[1]
            ).astype(dtype)
            value = _bilinear(x, (n, c), (y, z), dtype)
            return value if mask is None else value * mask(n, group * taps + k, i, j)

        sampled = te.compute((shape[0], channels, taps, *shape[2:]), sample, name="deformed")
        inner, tap = te.reduce_axis((0, kernel[1]), "c"), te.reduce_axis((0, taps), "k")
        outputs = kernel[0] // groups
        total = te.compute(
            shape,
            lambda n, o, i, j: te.sum(
                sampled(n, o // outputs * kernel[1] + inner, tap, i, j)
                * weight(o, inner, tirx.floordiv(tap, columns), tirx.floormod(tap, columns)),
                axis=[inner, tap],
            ),
            name="deform_conv",
        )
        if not biased:
            return total
        return te.compute(shape, lambda n, o, i, j: total(n, o, i, j) + more[0](o), name="deform_conv_bias")

    return [emit(given, compute, operands, "deform_conv")]


def _bilinear(x: Tensor, image: Sequence[Expr], place: Sequence[Expr], dtype: str) -> Expr:
    """The image between its pixels, with zeros around it."""
    from tvm import tirx

    sizes = shape_of(x)[2:]
    zero, one = tirx.const(0.0, dtype), tirx.const(1.0, dtype)
    bounded = [
        tirx.max(tirx.min(p, tirx.const(size + 1.0, dtype)), tirx.const(-2.0, dtype))
        for p, size in zip(place, sizes, strict=True)
    ]
    low = [tirx.floor(p) for p in bounded]
    total = zero
    for corner in range(1 << len(sizes)):
        weight, index, inside = one, [], []
        for axis, size in enumerate(sizes):
            step = corner >> axis & 1
            part = bounded[axis] - low[axis]
            weight = weight * (part if step else one - part)
            at = low[axis].astype("int32") + step
            inside += [at >= 0, at < size]
            index.append(tirx.max(tirx.min(at, size - 1), 0))
        total = total + tirx.Select(tirx.all(*inside), weight * x(*image, *index), zero)
    return total
