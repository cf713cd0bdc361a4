"""Images that are read at coordinates that are computed: GridSample and DeformConv."""

from __future__ import annotations

from collections.abc import Sequence
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

#: The elements that one coordinate reads along an axis, by mode; and the first of them, from the one before it.
_TAPS = {"nearest": (1, 0), "linear": (2, 0), "bilinear": (2, 0), "cubic": (4, -1), "bicubic": (4, -1)}
#: The factor of Keys' function.
_CUBIC = -0.75


@converter("GridSample")
def _grid_sample(given: Operands) -> Sequence[relax.Expr]:
    x, grid = operand(given, 0), operand(given, 1)
    shape, dtype = result_of(given)
    image, rank = shape_of(x)[2:], len(shape) - 2
    mode, padding = text(given, "mode", "linear"), text(given, "padding_mode", "zeros")
    aligned = bool(given.attributes.get("align_corners", 0))
    taps, first = _TAPS[mode]
    nearest = taps == 1
    own = dtype_of(grid)
    wide = "float64" if own == "float64" else "float32"
    where = (shape[0], *shape[2:], rank)

    def compute(x: Tensor, grid: Tensor) -> Tensor:
        from tvm import te, tirx

        ends = [(0.0, size - 1.0) if aligned else (-0.5, size - 0.5) for size in image]

        def along(axis: Expr, values: Sequence[float]) -> Expr:
            """The value that belongs to an axis."""
            chosen = tirx.const(values[-1], wide)
            for number in reversed(range(rank - 1)):
                chosen = tirx.Select(axis == number, tirx.const(values[number], wide), chosen)
            return chosen

        def coordinate(*i: Expr) -> Expr:
            axis, one = i[-1], tirx.const(1.0, wide)
            value = grid(*i[:-1], rank - 1 - axis).astype(wide)
            size = along(axis, [float(extent) for extent in image])
            value = (
                (value + one) * tirx.const(0.5, wide) * (size - one)
                if aligned
                else ((value + one) * size - one) * tirx.const(0.5, wide)
            )
            if nearest:
                value = tirx.nearbyint(value)
            low, high = along(axis, [e[0] for e in ends]), along(axis, [e[1] for e in ends])
            if padding == "border" and taps < 4:
                return tirx.max(tirx.min(value, size - one), tirx.const(0.0, wide))
            if padding == "reflection":
                return value if taps == 4 else _reflect(value, low, high, wide)
            # Farther away all taps read the same; the bounds keep numbers in the range of int32.
            return tirx.max(tirx.min(value, size + tirx.const(4.0, wide)), tirx.const(-4.0, wide))

        places = te.compute(where, coordinate, name="coordinate")

        def tap(i: Sequence[Expr]) -> Expr:
            return tirx.floor(places(*i[:-1])) + (i[-1] + first).astype(wide)

        def index(*i: Expr) -> Expr:
            axis, value = i[-2], tap(i)
            size = along(axis, [float(extent) for extent in image])
            if padding == "reflection":
                low, high = along(axis, [e[0] for e in ends]), along(axis, [e[1] for e in ends])
                value = tirx.floor(_reflect(value, low, high, wide))
            last = size - tirx.const(1.0, wide)
            return tirx.max(tirx.min(value, last), tirx.const(0.0, wide)).astype("int32")

        def weight(*i: Expr) -> Expr:
            part = places(*i[:-1]) - tirx.floor(places(*i[:-1]))
            value = _weigh(part, i[-1], taps, wide)
            if padding != "zeros":
                return value
            at, size = tap(i), along(i[-2], [float(extent) for extent in image])
            inside = tirx.all(at >= tirx.const(0.0, wide), at < size)
            return tirx.Select(inside, value, tirx.const(0.0, wide))

        indices = te.compute((*where, taps), index, name="index")
        weights = te.compute((*where, taps), weight, name="weight")
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

    return [emit(given, compute, [x, grid], "grid_sample")]


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
