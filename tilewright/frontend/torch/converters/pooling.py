"""Converters of pooling."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilewright.frontend.torch.converters.operands import Operands, Results, converter
from tilewright.ops.window.places import MaxPool, max_pool_gradient, max_pool_places, recomputing_gradient

if TYPE_CHECKING:
    from torch import fx
    from tvm import relax

__all__: list[str] = []

#: The layouts of images by the number of spatial dimensions.
_LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def _emit_pool(
    o: Operands,
    kind: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int] | None = None,
    **more: object,
) -> relax.Expr:
    """A pool over windows that begin at ``-before``, in as many places as PyTorch says.

    With ``ceil_mode`` the last window may end outside of the padded image. So the padding at the end is computed from
    the number of places, and TVM need not know of that mode.
    """
    from tvm import relax

    rank = len(sizes)
    extents, outputs = o.shape(0)[-rank:], _out_extents(o, rank)
    steps = dilation or [1] * rank
    after = [
        max(pad, (count - 1) * stride + step * (size - 1) + 1 - extent - pad)
        for count, stride, step, size, extent, pad in zip(outputs, strides, steps, sizes, extents, before, strict=True)
    ]
    x = o.expr(0)
    batched = len(o.shape(0)) == rank + 2
    if not batched:
        x = o.reshape(x, [1, *o.shape(0)])
    function = getattr(relax.op.nn, f"{kind}_pool{rank}d")
    result = o.emit(
        function(x, list(sizes), list(strides), [*before, *after], list(steps), layout=_LAYOUTS[rank], **more)
    )
    return result if batched else o.reshape(result, [int(d) for d in result.ty.shape.values][1:])


def _out_extents(o: Operands, rank: int) -> tuple[int, ...]:
    value = o.node.meta["val"]
    first = value[0] if isinstance(value, tuple | list) else value
    return tuple(int(d) for d in first.shape[-rank:])


def _windows(o: Operands, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Sizes, strides and paddings. Without strides, windows lie side by side."""
    sizes = o.integers("kernel_size", rank)
    return sizes, o.integers("stride", rank) or sizes, o.integers("padding", rank)


def _register_max_pool(rank: int) -> None:
    @converter(f"max_pool{rank}d.default")
    def convert(o: Operands) -> relax.Expr:
        return _emit_pool(o, "max", *_windows(o, rank), o.integers("dilation", rank))

    @converter(f"max_pool{rank}d_with_indices.default")
    def convert_with_places(o: Operands) -> Results:
        largest = _emit_pool(o, "max", *_windows(o, rank), o.integers("dilation", rank))
        return [largest, _find_places(o, largest) if o.reads(1) else None]


def _describe_max_pool(o: Operands, output: Sequence[int]) -> MaxPool:
    """The windows of a pool of images.

    Raises:
        ValueError: there is no batch of images.
    """
    shape = o.shape("self")
    if len(shape) != 4:
        raise ValueError("places of largest elements are computed for batches of images")
    numbers = [*_windows(o, 2), o.integers("dilation", 2)]
    kernel, stride, padding, dilation = ((pair[0], pair[1]) for pair in numbers)
    return MaxPool(shape, (output[0], output[1]), kernel, stride, padding, dilation)


def _find_pool(node: fx.Node) -> fx.Node | None:
    """The pool whose indices a node reads, if the node is the gradient of this pool; None otherwise."""
    if getattr(node.target, "_opname", "") != "max_pool2d_with_indices_backward":
        return None
    _, data, *windows, places = node.args
    pool = places.args[0] if places.target is operator.getitem else None
    if pool is None or getattr(pool.target, "_opname", "") != "max_pool2d_with_indices" or pool.args[0] is not data:
        return None
    given = [*pool.args[1:], *[[], [0, 0], [1, 1], False][len(pool.args) - 2 :]]
    return pool if list(map(str, given)) == list(map(str, windows)) else None


def _find_places(o: Operands, largest: relax.Expr) -> relax.Expr:
    from tvm import relax

    pool = _describe_max_pool(o, _out_extents(o, 2))
    function = o.builder.add_func(max_pool_places(pool), "max_pool_places")
    kind = relax.TensorType(pool.shapes(0)[1], "int64")
    return o.emit(relax.call_tir(function, [o.expr(0), largest], kind))


@converter("max_pool2d_with_indices_backward.default")
def _max_pool_gradient(o: Operands) -> relax.Expr:
    from tvm import relax

    pool = _describe_max_pool(o, o.shape("grad_output")[-2:])
    if pool.dilation != (1, 1):
        raise ValueError("gradients of the largest elements of dilated windows are not compiled")
    kind = relax.TensorType(pool.data, "float32")
    if _find_pool(o.node) is not None:
        function = o.builder.add_func(recomputing_gradient(pool), "max_pool_gradient")
        return o.emit(relax.call_tir(function, [o.expr("grad_output"), o.expr("self")], kind))
    function = o.builder.add_func(max_pool_gradient(pool), "max_pool_gradient")
    return o.emit(relax.call_tir(function, [o.expr("grad_output"), o.expr("indices")], kind))


def _register_avg_pool(rank: int) -> None:
    @converter(f"avg_pool{rank}d.default")
    def convert(o: Operands) -> relax.Expr:
        """The mean of each window; divided by what PyTorch counts, if that is not what TVM counts."""
        from tvm import relax

        sizes, strides, pads = _windows(o, rank)
        names = [argument.name for argument in o.node.target._schema.arguments]
        divisor = o.given("divisor_override") if "divisor_override" in names else None
        inside = bool(o.given("count_include_pad"))
        counts = _counts(o.shape(0)[-rank:], _out_extents(o, rank), (sizes, strides, pads), inside)
        size = math.prod(sizes)
        if divisor is not None:
            counts = np.full_like(counts, o.integer("divisor_override"))
        elif not inside:
            return _emit_pool(o, "avg", sizes, strides, pads, count_include_pad=False)
        result = _emit_pool(o, "avg", sizes, strides, pads, count_include_pad=True)
        if (counts == size).all():
            return result
        factor = (size / counts).astype(o.out_dtype)
        return o.emit(relax.op.multiply(result, relax.const(factor if np.ptp(factor) else factor.reshape(-1)[0])))


def _counts(
    extents: Sequence[int], outputs: Sequence[int], windows: tuple[list[int], list[int], list[int]], inside: bool
) -> np.ndarray:
    """The elements that PyTorch counts in each window: those in the padded image, or in the image itself."""
    counts = np.ones([1] * len(extents))
    for axis, (extent, output, size, stride, pad) in enumerate(zip(extents, outputs, *windows, strict=True)):
        start = np.arange(output) * stride - pad
        low, high = (-pad, extent + pad) if inside else (0, extent)
        each = np.minimum(start + size, high) - np.maximum(start, low)
        counts = counts * each.reshape([-1 if i == axis else 1 for i in range(len(extents))])
    return counts


def _register_adaptive(rank: int) -> None:
    @converter(f"_adaptive_avg_pool{rank}d.default", f"adaptive_avg_pool{rank}d.default")
    def convert(o: Operands) -> relax.Expr:
        """Means of windows that share the image among them: plain windows, if they can be equal."""
        from tvm import relax

        windows = _equal_windows(o, rank)
        if windows is not None:
            return _emit_pool(o, "avg", windows, windows, [0] * rank, count_include_pad=False)
        x = o.expr(0)
        if len(o.shape(0)) == rank + 1:
            x = o.reshape(x, [1, *o.shape(0)])
        size = _out_extents(o, rank)
        function = getattr(relax.op.nn, f"adaptive_avg_pool{rank}d")
        return o.reshape(o.emit(function(x, size if rank > 1 else size[0], layout=_LAYOUTS[rank])), o.out_shape)

    @converter(f"adaptive_max_pool{rank}d.default")
    def convert_max(o: Operands) -> Results:
        windows = _equal_windows(o, rank)
        if windows is not None:
            return [_emit_pool(o, "max", windows, windows, [0] * rank), None]
        return [_adaptive_max(o, rank), None]


def _equal_windows(o: Operands, rank: int) -> list[int] | None:
    """The sizes of windows that lie side by side and fill the image; None if such windows would differ."""
    pairs = list(zip(o.shape(0)[-rank:], _out_extents(o, rank), strict=True))
    return [extent // count for extent, count in pairs] if all(extent % count == 0 for extent, count in pairs) else None


def _adaptive_max(o: Operands, rank: int) -> relax.Expr:
    """The largest elements of windows of different sizes, dimension by dimension."""
    from tvm import relax

    x, shape = o.expr(0), list(o.shape(0))
    for axis, count in zip(range(len(shape) - rank, len(shape)), _out_extents(o, rank), strict=True):
        extent = shape[axis]
        parts = []
        for i in range(count):
            start, end = i * extent // count, -(-(i + 1) * extent // count)
            window = o.emit(relax.op.strided_slice(x, [axis], [start], [end], assume_inbound=True))
            parts.append(o.emit(relax.op.max(window, [axis], keepdims=True)))
        x = parts[0] if len(parts) == 1 else o.emit(relax.op.concat(parts, axis))
        shape[axis] = count
    return x


for _rank in (1, 2, 3):
    _register_max_pool(_rank)
    _register_avg_pool(_rank)
    _register_adaptive(_rank)
