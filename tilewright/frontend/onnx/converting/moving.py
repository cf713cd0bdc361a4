"""Operators that move elements: Pad, ReverseSequence, GatherElements and GatherND."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.onnx.converting.operands import (
    bound,
    emit,
    has,
    known,
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


@converter("Pad")
def _pad(given: Operands) -> Sequence[relax.Expr]:
    x = operand(given, 0)
    before, (after, dtype) = shape_of(x), result_of(given)
    rank, mode = len(before), text(given, "mode", "constant")
    pads, picked = known(given, 1), known(given, 3)
    filled = mode == "constant" and has(given, 2)
    operands = [x, *([operand(given, 2)] if filled else [])]
    if pads is None or (has(given, 3) and picked is None):
        padding = _Padding(before, mode, dtype, filled, None)
        operands += [operand(given, 1), *([operand(given, 3)] if has(given, 3) else [])]
        return [emit(given, lambda *tensors: padding.compute(after, *tensors), operands, "pad")]
    axes = range(rank) if picked is None else [int(axis) % rank for axis in picked.reshape(-1)]
    begins = [0] * rank
    for axis, begin in zip(axes, pads.reshape(-1), strict=False):
        begins[axis] = int(begin)
    ends = [total - size - begin for begin, size, total in zip(begins, before, after, strict=True)]
    value = known(given, 2) if filled else np.zeros(1)
    if mode == "constant" and value is not None and min([*begins, *ends], default=0) >= 0:
        from tvm import tirx, topi

        number = value.reshape(-1)[0].item()
        return [emit(given, lambda x: topi.nn.pad(x, begins, ends, tirx.const(number, dtype)), [x], "pad")]
    padding = _Padding(before, mode, dtype, filled, tuple(begins))
    return [emit(given, lambda *tensors: padding.compute(after, *tensors), operands, "pad")]


@dataclass(frozen=True)
class _Padding:
    """How a tensor is padded.

    Attributes:
        before: its shape.
        mode: ``constant``, ``edge``, ``reflect`` or ``wrap``.
        dtype: its dtype.
        filled: whether the value of the padding is an operand.
        begins: the padding at the beginning of each axis, which may be negative. None: an operand has the padding, and
            perhaps another one the axes.
    """

    before: tuple[int, ...]
    mode: str
    dtype: str
    filled: bool
    begins: tuple[int, ...] | None

    def compute(self, after: tuple[int, ...], x: Tensor, *more: Tensor) -> Tensor:
        """The padded tensor, of shape ``after``, of the tensor and the operands that are not constants."""
        from tvm import te, tirx

        rest = more[1:] if self.filled else more

        def at(*i: Expr) -> Expr:
            places = [v.astype("int64") - self._offset(axis, rest) for axis, v in enumerate(i)]
            value = x(*(_fold(place, size, self.mode) for place, size in zip(places, self.before, strict=True)))
            if self.mode != "constant":
                return value
            inside = tirx.all(*(tirx.all(p >= 0, p < size) for p, size in zip(places, self.before, strict=True)))
            padding = more[0](*[0] * len(more[0].shape)) if self.filled else tirx.const(0, self.dtype)
            return tirx.if_then_else(inside, value, padding)

        return te.compute(after, at, name="pad")

    def _offset(self, axis: int, rest: Sequence[Tensor]) -> Expr:
        """The padding at the beginning of an axis."""
        from tvm import tirx

        if self.begins is not None:
            return tirx.const(self.begins[axis], "int64")
        pads, *axes = rest
        if not axes:
            return pads(axis).astype("int64")
        total = tirx.const(0, "int64")
        for place in range(shape_of(axes[0])[0]):
            own = axes[0](place).astype("int64")
            mine = tirx.any(own == axis, own + len(self.before) == axis)
            total = total + tirx.Select(mine, pads(place).astype("int64"), tirx.const(0, "int64"))
        return total


def _fold(place: Expr, size: int, mode: str) -> Expr:
    """The index of the element at a place, which may lie outside of the axis."""
    from tvm import tirx

    if mode == "reflect" and size > 1:
        period = tirx.const(2 * (size - 1), "int64")
        rest = tirx.floormod(place, period)
        return tirx.min(rest, period - rest)
    if mode == "wrap":
        return tirx.floormod(place, tirx.const(size, "int64"))
    return bound(place, size)


@converter("ReverseSequence")
def _reverse_sequence(given: Operands) -> Sequence[relax.Expr]:
    shape, _ = result_of(given)
    rank = len(shape)
    batch = int(given.attributes.get("batch_axis", 1)) % rank
    time = int(given.attributes.get("time_axis", 0)) % rank

    def compute(x: Tensor, lengths: Tensor) -> Tensor:
        from tvm import te, tirx

        def at(*i: Expr) -> Expr:
            step = i[time].astype("int64")
            length = lengths(i[batch]).astype("int64")
            place = bound(tirx.Select(step < length, length - 1 - step, step), shape[time])
            return x(*i[:time], place, *i[time + 1 :])

        return te.compute(shape, at, name="reverse_sequence")

    return [emit(given, compute, [operand(given, 0), operand(given, 1)], "reverse_sequence")]


@converter("GatherElements")
def _gather_elements(given: Operands) -> Sequence[relax.Expr]:
    shape, _ = result_of(given)
    axis = int(given.attributes.get("axis", 0)) % len(shape)
    size = shape_of(operand(given, 0))[axis]

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        from tvm import te

        return te.compute(
            shape,
            lambda *i: x(*i[:axis], _wrapped(indices(*i), size), *i[axis + 1 :]),
            name="gather_elements",
        )

    return [emit(given, compute, [operand(given, 0), operand(given, 1)], "gather_elements")]


@converter("GatherND")
def _gather_nd(given: Operands) -> Sequence[relax.Expr]:
    shape, _ = result_of(given)
    data, picked = shape_of(operand(given, 0)), shape_of(operand(given, 1))
    batch, depth, outer = int(given.attributes.get("batch_dims", 0)), picked[-1], len(picked) - 1

    def compute(x: Tensor, indices: Tensor) -> Tensor:
        from tvm import te

        def at(*i: Expr) -> Expr:
            index = [_wrapped(indices(*i[:outer], d), data[batch + d]) for d in range(depth)]
            return x(*i[:batch], *index, *i[outer:])

        return te.compute(shape, at, name="gather_nd")

    return [emit(given, compute, [operand(given, 0), operand(given, 1)], "gather_nd")]


def _wrapped(index: Expr, size: int) -> Expr:
    """A non-negative index within the axis. A negative ``index`` counts from the end of the axis."""
    from tvm import tirx

    wide = index.astype("int64")
    return bound(tirx.Select(wide < 0, wide + size, wide), size)


@converter("SpaceToDepth")
def _space_to_depth(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    n, c, h, w = shape_of(operand(given, 0))
    block = int(given.attributes["blocksize"])
    parts = given.emit(relax.op.reshape(operand(given, 0), (n, c, h // block, block, w // block, block)))
    # The axes of a block of pixels come before the old channels, or after them.
    order = [0, 3, 5, 1, 2, 4] if text(given, "mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    return [relax.op.reshape(given.emit(relax.op.permute_dims(parts, order)), result_of(given)[0])]
