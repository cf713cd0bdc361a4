"""Operators on the rows of tensors of tokens: dense layers, softmax, and layer norm.

A row is a vector along the last dimension. If the rows of a tensor lie in another order in memory, these operators
compute them in that order. The result is a view again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tilewright.executable.narrow import is_bfloat16
from tilewright.graph import bf16_products
from tilewright.graph.channels import padded_order
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View
from tilewright.graph.weights import Recipe
from tilewright.ops import contraction, pixel_sums, rows

if TYPE_CHECKING:
    from tvm import relax, tirx

    from tilewright.graph.rewriter import Rewriter

__all__ = [
    "FEWEST_TOKENS",
    "MOST_ROWS_OF_HALVES",
    "NARROWEST",
    "choose_block",
    "dense",
    "find_rows",
    "layer_norm",
    "masked_softmax",
    "softmax",
    "sum_tokens",
    "view_rows",
]

#: The least share of a vector register that a block of many columns fills without a padded block at the end. With 10 of
#: 16 lanes a product of 2048x256 and 256x1000 ran at half of the machine's speed. A product with a single row waits for
#: its weights, whatever the share: there the padded block made 1280x1000 and 2048x1000 slower by 9 %.
_LEAST_FILLED, _LEAST_FILLED_BY_ONE = 0.75, 0.5
#: The most rows of a product whose weights are read as bfloat16 numbers. (Measured on two cores of an
#: Emerald Rapids: 4096x4096 weights take 0.59 of the time with one row, and 0.57 with 8. With many more, a product
#: waits for its arithmetic.)
MOST_ROWS_OF_HALVES = 8
#: The fewest columns of a matrix that the templates of contractions and rows serve: a vector has 2 elements or more.
NARROWEST = 2
#: A sum over fewer tokens than this is computed as any other.
FEWEST_TOKENS = 32


def dense(walk: Rewriter, call: relax.Call, left: Value, recipe: Recipe) -> Value | None:
    """The product with a matrix of weights, which is packed when the network is built.

    Columns that fill up the last block are zeros.
    """
    depth, n = recipe.shape
    if n < NARROWEST:
        return None
    view, shape = find_rows(walk, left)
    if bf16_products.can_serve(walk, recipe, depth):
        result = bf16_products.dense(walk, walk.reshape(left.base, shape), recipe)
        return Value(shape_of(call), base=result, view=view_rows(view, depth, n), fresh=True)
    x = choose_block(walk.lanes, n, shape[0])
    source = walk.reshape(left.base, shape)
    columns = recipe if n % x == 0 else recipe.take(1, padded_order(n, x))
    packed = columns.reshape((depth, -(-n // x), x)).transpose((1, 0, 2))
    halves = shape[0] <= MOST_ROWS_OF_HALVES and _are_bf16(walk, recipe)
    packed = packed.halves() if halves else packed
    function = contraction.dense(shape[0], packed.shape, n, halves)
    result = walk.call(function, [source, walk.add_weight(packed)], (shape[0], n), "dense")
    return Value(shape_of(call), base=result, view=view_rows(view, depth, n), fresh=True)


def _are_bf16(walk: Rewriter, recipe: Recipe) -> bool:
    """Whether a weight that comes from memory has bfloat16 numbers only, so that it can be read as half the bytes.

    Such are the weights of networks that were trained in bfloat16, or rounded to it.
    """
    moved = all(kind != "winograd" for kind, _ in recipe.steps)
    if 4 * recipe.size <= walk.cached or not moved or recipe.dtype != "float32" or recipe.source in walk.varying:
        return False
    source = walk.arrays.get(recipe.source)
    return source is not None and is_bfloat16(source)


def choose_block(lanes: int, n: int, rows: int) -> int:
    """The lanes of a block of ``n`` columns of a product with ``rows`` rows.

    Up to a vector register, a block holds all columns. Of more columns it holds their largest divisor that fills at
    least three quarters of a register, or half of one for a single row. Without such a divisor it holds a whole
    register, and the last block is padded, or begins with columns that the block before has, too.

    Args:
        lanes: the float32 numbers in a vector register.
        n: columns.
        rows: of the product.
    """
    x = max(d for d in range(1, lanes + 1) if n % d == 0)
    whole = -(-n // lanes) * lanes
    least = _LEAST_FILLED if rows > 1 else _LEAST_FILLED_BY_ONE
    wasteful = x < least * lanes and n / whole > x / lanes
    return lanes if wasteful and n > lanes else x


def softmax(
    walk: Rewriter, call: relax.Call, args: list[Value], safe: bool = False, finite: bool = False
) -> Value | None:
    """The softmax along the last dimension.

    Args:
        walk: emits the new graph.
        call: of the softmax.
        args: its operand.
        safe: zeros where a whole row is minus infinity.
        finite: zeros for any row whose softmax is nan.
    """
    if int(call.attrs.axis) not in (-1, len(args[0].shape) - 1):
        return None
    result = _emit_rows(walk, args[0], "softmax", lambda shape: rows.softmax(shape, walk.lanes, safe, finite), [])
    if result is not None:
        walk.softmaxes[walk.function_of(result.base)] = rows.Guard(safe, finite)
    return result


def layer_norm(
    walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr], step: Recipe | None = None
) -> Value | None:
    """The layer norm along the last dimension, with weights as scale and shift.

    Args:
        walk: emits the new graph.
        call: of the layer norm.
        args: its operands.
        step: the scale of the data ``(1,)``, if they are bytes; None: they are float32.
    """
    attrs, count = call.attrs, len(args[0].shape)
    if [int(a) % count for a in attrs.axes] != [count - 1] or not (attrs.center and attrs.scale):
        return None
    recipes = [a.recipe if isinstance(a, Value) else None for a in args[1:]]
    if any(recipe is None for recipe in recipes):
        return None
    weights = [walk.add_weight(recipe) for recipe in (step, *recipes) if recipe is not None]
    epsilon = float(attrs.epsilon)
    if step is not None:
        make = partial(rows.byte_layer_norm, epsilon=epsilon)
        short = args[0].shape[-1] <= rows.LONGEST_BYTE_ROW
        return _emit_rows(walk, args[0], "layer_norm", make, weights, "uint8") if short else None
    return _emit_rows(walk, args[0], "layer_norm", lambda s: rows.layer_norm(s, walk.lanes, epsilon), weights)


def sum_tokens(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The sums over all tokens, such as the gradient of a dense layer's bias.

    None if the sums are not of whole rows as they lie in memory, or if vectors do not divide these.
    """
    value: Value = args[0]
    if value.dtype != "float32" or (value.packed is not None and value.view is None):
        return None
    axes = {int(a) % len(value.shape) for a in call.attrs.axis or ()}
    view = walk.make_view(value)
    kept = [a for d, dim in enumerate(view.dims) if d not in axes for a in dim if a.extent > 1]
    columns = math.prod(a.extent for a in kept)
    tokens, x = math.prod(value.shape) // columns, walk.channel_block(columns)
    if not kept or tokens < FEWEST_TOKENS or x < walk.lanes // 2:
        return None
    if [a for a in view.atoms if a.extent > 1][-len(kept) :] != kept or view.fixed or value.pending:
        if axes != set(range(len(axes))):
            return None
        walk.materialise(value)
    source = walk.reshape(value.base, (tokens, columns))
    result = walk.call(pixel_sums.token_sum(tokens, columns, x), [source], (columns,), pixel_sums.TOKEN_SUM)
    return Value.plain(shape_of(call), walk.reshape(result, shape_of(call)))


def masked_softmax(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The softmax of PyTorch's attention, which gives zeros for some rows.

    An exported program has ``where(row is minus infinity, 0, softmax(row))``, an ONNX file ``where(s is nan, 0, s)`` of
    the softmax s.
    """
    from tvm import ir, relax

    def find_call(expr: relax.Expr, name: str) -> relax.Call | None:
        bound = walk.bindings.get(expr) if isinstance(expr, relax.Var) else None
        fits = isinstance(bound, relax.Call) and getattr(bound.op, "name", "") == f"relax.{name}"
        return bound if fits else None

    def is_constant(expr: relax.Expr, value: float) -> bool:
        if isinstance(expr, relax.Var):
            return walk.scalars.get(expr) == value
        return isinstance(expr, ir.GenericConst) and bool((expr.value.numpy() == value).all())

    soft = find_call(call.args[2], "nn.softmax")
    test = find_call(call.args[0], "isnan")
    if soft is not None and test is not None:
        source = walk.values[soft.args[0]]
        known = test.args[0].same_as(call.args[2]) and is_constant(call.args[1], 0.0)
        return softmax(walk, soft, [source], finite=True) if known and isinstance(source, Value) else None
    zeros = find_call(call.args[1], "full_like")
    if soft is None or zeros is None or not is_constant(zeros.args[1], 0.0):
        return None
    step = call.args[0]
    for name in ("logical_not", "astype", "max", "astype", "logical_not", "equal"):
        bound = find_call(step, name)
        if bound is None:
            return None
        if name == "equal":
            if not bound.args[0].same_as(soft.args[0]) or not is_constant(bound.args[1], -math.inf):
                return None
        elif name == "max" and [int(a) for a in bound.attrs.axis] not in ([-1], [len(shape_of(soft)) - 1]):
            return None
        step = bound.args[0]
    source = walk.values[soft.args[0]]
    return softmax(walk, soft, [source], safe=True) if isinstance(source, Value) else None


def find_rows(walk: Rewriter, value: Value) -> tuple[View, tuple[int, int]]:
    """The view of a tensor whose rows are rows of its base, and the base's shape as (rows, columns).

    A tensor whose rows do not lie so is materialised.
    """
    view = walk.make_whole_view(value)
    last = [a for a in view.dims[-1] if a.extent > 1]
    count = len(last)
    if not count or view.atoms[-count:] != last:
        walk.materialise(value)
        view = walk.make_view(value)
    n = value.shape[-1]
    return view, (math.prod(view.base_shape) // n, n)


def view_rows(view: View, n: int, out: int) -> View:
    """The view of a result that has ``out`` numbers for each row of ``n``, and a matrix as its base."""
    inner = [a for a in view.dims[-1] if a.extent > 1]
    outer = tuple(a for a in view.atoms if a not in inner)
    last = (Atom(out),)
    return View((outer, last), (*view.dims[:-1], last))


def _emit_rows(
    walk: Rewriter,
    value: Value,
    name: str,
    make: Callable[[tuple[int, int]], tirx.PrimFunc],
    more: list[relax.Expr],
    dtype: str = "float32",
) -> Value | None:
    """Emit the call of a function on rows of ``dtype``, which ``make`` makes of the shape (rows, columns)."""
    n = value.shape[-1]
    if value.dtype != dtype or n < NARROWEST:
        return None
    view, shape = find_rows(walk, value)
    result = walk.call(make(shape), [walk.reshape(value.base, shape), *more], shape, name)
    return Value(value.shape, base=result, view=view_rows(view, n, n), fresh=True)
