"""Sliding windows over images, and the converters of convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.frontend.onnx.converting.operands import (
    dtype_of,
    emit,
    has,
    known,
    numbers,
    operand,
    result_of,
    shape_of,
    text,
)
from tilewright.frontend.onnx.importer import Operands, converter
from tilewright.frontend.onnx.rewriting.pooling import pad_same
from tilewright.frontend.transposed import Axis, emit_transposed

if TYPE_CHECKING:
    from tvm import relax
    from tvm.ir import Expr
    from tvm.te import Tensor

__all__ = ["Sliding", "convolve"]


@dataclass(frozen=True)
class Sliding:
    """How a window slides. All tuples have one entry for each axis of the image.

    Attributes:
        image: the extents of the image.
        kernel: the taps of the window.
        strides: the distance between two windows.
        dilations: the distance between two taps.
        before: the padding before the image. If it is negative, the first windows begin inside the image.
        after: the padding after the image, as the node declares it. A window may reach beyond it.
        out: the number of windows.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, given: Operands, data: Sequence[int], kernel: Sequence[int], result: Sequence[int]) -> Sliding:
        """The windows of a node.

        Args:
            given: the node, with ONNX's attributes of windows.
            data: the shape of the data, ``(n, channels, *image)``.
            kernel: the extents of the window, unless the node has an attribute ``kernel_shape``.
            result: the shape of the result, ``(n, channels, *windows)``.
        """
        image, out = tuple(data[2:]), tuple(result[2:])
        rank = len(image)
        taps = numbers(given, "kernel_shape", kernel)
        strides, dilations = numbers(given, "strides", [1] * rank), numbers(given, "dilations", [1] * rank)
        pads, how = numbers(given, "pads", [0] * 2 * rank), text(given, "auto_pad", "NOTSET")
        if how == "VALID":
            pads = [0] * 2 * rank
        elif how in ("SAME_UPPER", "SAME_LOWER"):
            axes = zip(image, taps, strides, dilations, strict=True)
            spans = [(size, (k - 1) * d + 1, s) for size, k, s, d in axes]
            pads = pad_same(spans, how == "SAME_UPPER", "Conv" in given.node.op_type)
        return cls(image, tuple(taps), tuple(strides), tuple(dilations), tuple(pads[:rank]), tuple(pads[rank:]), out)

    @property
    def reach(self) -> tuple[int, ...]:
        """The padding after the image that the last windows need, and at least the declared padding."""
        return tuple(
            max(after, (o - 1) * s + (k - 1) * d + 1 - size - before)
            for size, k, s, d, before, after, o in zip(
                self.image, self.kernel, self.strides, self.dilations, self.before, self.after, self.out, strict=True
            )
        )

    def place(self, axis: int, window: Expr, tap: Expr) -> Expr:
        """The coordinate of a window's tap along one axis. In the padding, it is negative or at least the extent."""
        return window * self.strides[axis] + tap * self.dilations[axis] - self.before[axis]


@converter("Conv")
def _conv(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    data, weight = operand(given, 0), operand(given, 1)
    shape = shape_of(data)
    sliding = Sliding.of(given, shape, shape_of(weight)[2:], result_of(given)[0])
    result = convolve(given, (data, weight), sliding, dtype_of(data))
    if has(given, 2):
        bias = given.emit(relax.op.reshape(operand(given, 2), (1, -1, *[1] * (len(shape) - 2))))
        result = given.emit(relax.op.add(result, bias))
    return [result]


def convolve(given: Operands, operands: tuple[relax.Expr, relax.Expr], sliding: Sliding, dtype: str) -> relax.Var:
    """A convolution of one, two or three dimensions.

    Args:
        given: the node, with its attribute ``group``.
        operands: the data of shape ``(n, channels, *image)``, and the weight of shape
            ``(outputs, channels / groups, *kernel)``.
        sliding: the windows.
        dtype: the dtype of the sums.

    Raises:
        NotImplementedError: the image has more than three dimensions, or none.
    """
    from tvm import relax

    rank = len(sliding.image)
    if rank not in (1, 2, 3):
        raise NotImplementedError(f"an image has 1 to 3 dimensions, but this one has {rank}")
    function = (relax.op.nn.conv1d, relax.op.nn.conv2d, relax.op.nn.conv3d)[rank - 1]
    axes = "DHW"[3 - rank :]
    data, weight = operands
    if min(sliding.before) < 0:
        begins = [max(0, -pad) for pad in sliding.before]
        data = given.emit(relax.op.strided_slice(data, [2 + a for a in range(rank)], begins, list(sliding.image)))
    return given.emit(
        function(
            data,
            weight,
            strides=list(sliding.strides),
            padding=[max(0, pad) for pad in (*sliding.before, *sliding.after)],
            dilation=list(sliding.dilations),
            groups=int(given.attributes.get("group", 1)),
            data_layout=f"NC{axes}",
            kernel_layout=f"OI{axes}",
            out_dtype=None if dtype == "float32" else dtype,
        )
    )


@converter("Col2Im")
def _col2im(given: Operands) -> Sequence[relax.Expr]:
    """Col2Im: each pixel is the sum of those elements of the columns that belong to it."""
    shape, dtype = result_of(given)
    columns = operand(given, 0)
    sliding = _columns(given, shape)
    rank, taps = len(shape) - 2, math.prod(sliding.kernel)

    def compute(columns: Tensor) -> Tensor:
        from tvm import te, tirx

        axes = [te.reduce_axis((0, k), f"k{axis}") for axis, k in enumerate(sliding.kernel)]

        def at(n: Expr, c: Expr, *pixel: Expr) -> Expr:
            tap, window, inside = tirx.const(0, "int32"), tirx.const(0, "int32"), tirx.const(True, "bool")
            for axis in range(rank):
                stride = sliding.strides[axis]
                offset = pixel[axis] + sliding.before[axis] - axes[axis] * sliding.dilations[axis]
                place = offset // stride
                inside = tirx.all(inside, offset % stride == 0, place >= 0, place < sliding.out[axis])
                tap = tap * sliding.kernel[axis] + axes[axis]
                window = window * sliding.out[axis] + place
            value = columns(n, c * taps + tap, window)
            return te.sum(tirx.if_then_else(inside, value, tirx.const(0, dtype)), axis=axes)

        return te.compute(shape, at, name="col2im")

    return [emit(given, compute, [columns], "col2im")]


def _columns(given: Operands, shape: Sequence[int]) -> Sliding:
    """The windows from which the columns of a Col2Im were taken.

    Raises:
        NotImplementedError: the extents of a window are computed, and the shapes do not determine them.
    """
    rank = len(shape) - 2
    strides, dilations = numbers(given, "strides", [1] * rank), numbers(given, "dilations", [1] * rank)
    pads = numbers(given, "pads", [0] * 2 * rank)

    def windows(kernel: Sequence[int]) -> list[int]:
        return [
            (size + pads[axis] + pads[rank + axis] - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
            for axis, size in enumerate(shape[2:])
        ]

    values = known(given, 2)
    if values is None:
        rows, count = shape_of(operand(given, 0))[1:]
        fitting = [
            k for k in _factors(rows // shape[1], rank) if math.prod(windows(k)) == count and min(windows(k)) > 0
        ]
        if len(fitting) != 1:
            raise NotImplementedError("input 2 is not a constant")
        kernel = fitting[0]
    else:
        kernel = tuple(int(k) for k in values.reshape(-1))
    return Sliding(
        tuple(shape[2:]),
        kernel,
        tuple(strides),
        tuple(dilations),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
        tuple(windows(kernel)),
    )


def _factors(product: int, count: int) -> list[tuple[int, ...]]:
    """All ways to write ``product`` as a product of ``count`` factors."""
    if count == 1:
        return [(product,)]
    return [
        (first, *rest)
        for first in range(1, product + 1)
        if product % first == 0
        for rest in _factors(product // first, count - 1)
    ]


@converter("ConvTranspose")
def _transposed_conv(given: Operands) -> Sequence[relax.Expr]:
    from tvm import relax

    data, weight = operand(given, 0), operand(given, 1)
    shape, _ = result_of(given)
    rank = len(shape) - 2
    if rank not in (1, 2, 3):
        raise NotImplementedError(f"an image has 1 to 3 dimensions, but this one has {rank}")
    whole = _Whole.of(given, shape_of(data)[2:], shape_of(weight)[2:], shape[2:])
    groups = int(given.attributes.get("group", 1))
    if rank < 3 and dtype_of(data) == "float32":
        result = emit_transposed(given, data, weight, whole.axes, groups)
    else:
        result = _scatter(given, data, weight, whole, groups)
    if has(given, 2):
        bias = given.emit(relax.op.reshape(operand(given, 2), (1, -1, *[1] * rank)))
        result = given.emit(relax.op.add(result, bias))
    return [result]


def _scatter(given: Operands, data: relax.Expr, weight: relax.Expr, whole: _Whole, groups: int) -> relax.Expr:
    """The result by TVM's operator, which serves volumes and all dtypes."""
    from tvm import relax

    rank = len(whole.strides)
    functions = {1: relax.op.nn.conv1d_transpose, 2: relax.op.nn.conv2d_transpose, 3: relax.op.nn.conv3d_transpose}
    letters = "DHW"[3 - rank :]
    result = given.emit(
        functions[rank](
            data,
            weight,
            strides=list(whole.strides),
            padding=[*whole.before, *whole.after],
            output_padding=[0] * rank,
            dilation=list(whole.dilations),
            groups=groups,
            data_layout=f"NC{letters}",
            kernel_layout=f"IO{letters}",
        )
    )
    return emit(given, lambda x: _extend(x, whole.missing), [result], "pad") if any(whole.missing) else result


def _extend(x: Tensor, missing: Sequence[int]) -> Tensor:
    from tvm import topi

    return topi.nn.pad(x, [0] * (2 + len(missing)), [0, 0, *missing])


@dataclass(frozen=True)
class _Whole:
    """How a transposed convolution is cut to its result. All tuples have one entry for each axis of the image.

    Attributes:
        axes: of its pixels.
        strides: the distance between the windows of two pixels.
        dilations: the distance between two taps.
        before: the elements that are cut off at the beginning.
        after: the elements that are cut off at the end.
        missing: the zeros that are added at the end, beyond all windows.
    """

    axes: tuple[Axis, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    missing: tuple[int, ...]

    @classmethod
    def of(cls, given: Operands, image: Sequence[int], kernel: Sequence[int], out: Sequence[int]) -> _Whole:
        """The cut of a node.

        Args:
            given: the node.
            image: the extents of its images.
            kernel: the extents of its kernel.
            out: the extents of its result.
        """
        ones = [1] * len(out)
        strides, dilations = numbers(given, "strides", ones), numbers(given, "dilations", ones)
        extra = numbers(given, "output_padding", [0] * len(out))
        pads, how = numbers(given, "pads", [0] * 2 * len(out)), text(given, "auto_pad", "NOTSET")
        whole = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(image, strides, kernel, dilations, strict=True)]
        begins = pads[: len(out)]
        if how in ("SAME_UPPER", "SAME_LOWER") or "output_shape" in given.attributes:
            totals = [max(0, size + e - o) for size, e, o in zip(whole, extra, out, strict=True)]
            begins = [t // 2 if how == "SAME_UPPER" else t - t // 2 for t in totals]
        elif how == "VALID":
            begins = [0] * len(out)
        rest = [size - begin - o for size, begin, o in zip(whole, begins, out, strict=True)]
        axes = map(Axis, out, image, kernel, strides, begins, dilations)
        return cls(
            tuple(axes),
            tuple(strides),
            tuple(dilations),
            tuple(begins),
            tuple(max(0, r) for r in rest),
            tuple(max(0, -r) for r in rest),
        )
