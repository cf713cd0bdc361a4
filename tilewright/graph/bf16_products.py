"""Convolutions and products with matrices of weights whose operands are rounded to bfloat16.

A network has these if its model asks for them (``Network.multiplies_bf16``). Weights are rounded when the network is
built, and data by a kernel. Blocks of outputs are whole vectors, or halves of one, the lengths that instructions have.
All other products stay in float32: products of matrices with an odd number of inputs, depthwise and grouped
convolutions, and products of two tensors of data. So do small convolutions of one pixel, since squeeze and excitation
is one kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.graph import pixel_convolutions
from tilewright.graph.channels import padded_order
from tilewright.graph.value import Value, shape_of
from tilewright.graph.weights import Recipe
from tilewright.ops.contraction.bf16 import bf16_conv2d, bf16_dense
from tilewright.ops.contraction.dot_products import PAIR

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["can_serve", "conv2d", "dense"]

#: The shortest vector that an instruction has, in float32 numbers.
_SHORTEST = 4


def can_serve(walk: Rewriter, recipe: Recipe, depth: int) -> bool:
    """Whether a contraction of weights over ``depth`` inputs multiplies bfloat16 numbers."""
    known = recipe.source not in walk.varying and recipe.dtype == "float32"
    return walk.multiplies_bf16 and known and depth % PAIR == 0


def dense(walk: Rewriter, data: relax.Expr, recipe: Recipe) -> relax.Expr:
    """The product ``(rows, depth) x (depth, n)`` of data and weights: a tensor ``(rows, n)``."""
    rows, depth = shape_of(data)
    n = recipe.shape[1]
    x = _choose_block(walk, n)
    columns = recipe if n % x == 0 else recipe.take(1, padded_order(n, x))
    packed = columns.reshape((depth // PAIR, PAIR, -(-n // x), x)).transpose((2, 0, 3, 1)).rounded()
    function = bf16_dense(rows, packed.shape, n)
    return walk.call(function, [data, walk.add_weight(packed)], (rows, n), "bf16_dense")


def conv2d(walk: Rewriter, call: relax.Call, args: list[Value]) -> Value | None:
    """A convolution with weights: of bfloat16 numbers if it can be, otherwise of float32."""
    data, weight = args
    kernel, layouts = weight.recipe, [str(getattr(call.attrs, f"{name}_layout")) for name in ("data", "kernel", "out")]
    fits = kernel is not None and layouts == ["NCHW", "OIHW", "NCHW"] and int(call.attrs.groups) == 1
    small = shape_of(call)[2:] == (1, 1) and kernel is not None and 4 * kernel.size <= walk.cached
    if kernel is None or small or not fits or not can_serve(walk, kernel, 0):
        return pixel_convolutions.conv2d(walk, call, args)
    out, channels, kh, kw = kernel.shape
    x, order = _choose_block(walk, out), None
    last = call in walk.last and out % x == 0
    if out % x:
        order = padded_order(out, x)
        kernel = kernel.take(0, order)
    block, places = data.block, data.order
    if data.packed is None and (call.args[0] in walk.last or data.based_last) and channels % PAIR == 0:
        block, places = channels, None
    elif data.packed is None or block % PAIR:
        block = max((d for d in range(PAIR, walk.lanes + 1, PAIR) if channels % d == 0), default=0)
        places = None
        if not block:
            block = channels + 1 if channels < walk.lanes else walk.lanes
            places = padded_order(channels, block)
    source = walk.pack(data, block, places)
    if places is not None:
        kernel = kernel.take(1, places)
    out, channels = kernel.shape[:2]
    recipe = kernel.reshape((out // x, x, channels // block, block // PAIR, PAIR, kh, kw))
    recipe = recipe.transpose((0, 2, 5, 6, 3, 1, 4)).rounded()
    stride, padding, dilation = pixel_convolutions.read_window(call.attrs)
    if kh == kw == 1 and stride != (1, 1) and not any(padding):
        source, stride = pixel_convolutions.sample_pixels(walk, source, stride), (1, 1)
    function = bf16_conv2d(shape_of(source), recipe.shape, stride, padding, dilation, last)
    arguments = [source, walk.add_weight(recipe)]
    form = (out, None, 1) if last else (x, order, out // x)
    return pixel_convolutions.emit_convolution(walk, call, function, arguments, *form, "bf16_conv2d")


def _choose_block(walk: Rewriter, outputs: int) -> int:
    """The outputs of a block: as many as a vector has lanes, or half of them if only these divide the outputs."""
    half = walk.lanes // 2
    return half if outputs % walk.lanes and outputs % half == 0 and half >= _SHORTEST else walk.lanes
