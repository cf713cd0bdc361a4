"""Tensors of tokens: dense layers, attention, norms and element-wise operators over views, so that nothing is copied.

Reshapes, transpositions and slices are not carried out but remembered (:mod:`tilewright.graph.view`). A dense layer,
a softmax or a norm of a tensor whose rows are in another order is computed in the order in which they lie, and its
result is a view in turn; products of batches read their operands where they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tilewright.graph.channels import padded_order
from tilewright.graph.idioms import SOFTPLUS_THRESHOLD, Idiom
from tilewright.graph.value import Value
from tilewright.graph.view import Atom, View, refine
from tilewright.graph.weights import Recipe
from tilewright.ops import contraction, elementwise, rows
from tilewright.ops.contraction import Place, Product
from tilewright.ops.elementwise.elementary import ELEMENTARY

if TYPE_CHECKING:
    from tilewright.graph.rewrite import Rewriter

__all__ = ["BINARY", "UNARY", "serve"]

UNARY = {"nn.relu", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "abs", "negative", "clip", "nn.gelu", "nn.silu"}
UNARY |= {"nn.leakyrelu", "square"} | set(ELEMENTARY)
BINARY = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "power"}
#: Columns of the narrowest matrix that the templates of contractions and rows serve: a vector has 2 elements or more.
_NARROWEST = 2


def serve(walk: Rewriter, name: str, call: Any, args: list[Value | Any]) -> Value | None:
    """The operator's value; None where it has to be made of whole, plain tensors.

    Args:
        walk: who emits.
        name: of Relax's operator.
        call: the call.
        args: its arguments, a ``Value`` for each that is a tensor of the graph.
    """
    if not args or not isinstance(args[0], Value):
        return binary(walk, call, args) if name in BINARY else None
    if args[0].recipe is not None and name not in BINARY:
        return None
    if name in BINARY:
        return binary(walk, call, args)
    handler = _TABLE.get(name) or (unary if name in UNARY or isinstance(call, Idiom) else None)
    return None if handler is None else handler(walk, call, args)


# What only moves


def reshape(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    value: Value = args[0]
    view = walk.view(value).reshape(shape_of(call))
    return None if view is None else value.seen(view)


def broadcast(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    return args[0] if args[0].shape == shape_of(call) else None


def permute(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    axes = call.attrs.axes
    count = len(args[0].shape)
    order = [int(a) % count for a in axes] if axes is not None else list(reversed(range(count)))
    value: Value = args[0]
    return value.seen(walk.view(value).permute(order))


def take(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    from tvm import ir

    axis = call.attrs.axis
    if len(args) < 2 or not isinstance(args[1], ir.GenericConst) or axis is None:
        return None
    position = args[1].value.numpy()
    axis = int(axis) % len(args[0].shape)
    if position.ndim or not 0 <= int(position) < args[0].shape[axis]:
        return None
    value: Value = args[0]
    return value.seen(walk.view(value).index(axis, int(position)))


def sections(walk: Rewriter, value: Value, axis: int, count: int) -> list[Value] | None:
    """Equal parts of a tensor."""
    shape = value.shape
    axis %= len(shape)
    view = walk.view(value).reshape((*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :]))
    return None if view is None else [value.seen(view.index(axis, i)) for i in range(count)]


# Element by element


def unary(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    from tvm import relax

    value, name = args[0], call.op.name.removeprefix("relax.")
    if str(call.ty.dtype) != "float32":
        return None
    view = walk.whole(value)
    function = formula(call)
    if function is not None:
        result = elementary(walk, name, function, value.base, view.base_shape)
    else:
        result = walk.emit(relax.Call(call.op, [value.base, *call.args[1:]], call.attrs))
    return Value(value.shape, base=result, view=view, fresh=value.fresh)


def formula(call: Any) -> Callable[[Any], Any] | None:
    """What the call computes of an element, where that is a formula of :mod:`tilewright.ops.elementwise.elementary`."""
    if isinstance(call, Idiom):
        return call.function
    name = call.op.name.removeprefix("relax.")
    if name == "nn.softplus" and (float(call.attrs.beta) != 1.0 or float(call.attrs.threshold) < SOFTPLUS_THRESHOLD):
        return None
    return ELEMENTARY.get(name)


def elementary(walk: Rewriter, name: str, function: Callable[[Any], Any], data: Any, shape: tuple[int, ...]) -> Any:
    """An exponential or the like in code that vectorises."""
    word = name.removeprefix("nn.")
    return walk.call(elementwise.apply_formula(function, shape, word), [data], shape, word)


def binary(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    """Both operands in the order in which one of them lies."""
    from tvm import relax

    shape = shape_of(call)
    if str(call.ty.dtype) != "float32" or any(isinstance(a, Value) and a.dtype != "float32" for a in args):
        return None
    name = call.op.name.removeprefix("relax.")
    scalar = _scalar(walk, args[1])
    if scalar is not None and isinstance(args[0], Value) and name in ("multiply", "divide") and not args[0].recipe:
        walk.view(args[0])
        if args[0].view is not None and args[0].view.fixed:
            # Part of a tensor, for a product of batches most likely, which can scale its result instead.
            return args[0].scaled(call.op, scalar)
    wholes = [a for a in args if isinstance(a, Value) and a.recipe is None and a.shape == shape]
    for a in wholes:
        walk.whole(a)
    # A tensor that was just computed in blocks first: what follows is fused into its computation.
    for mould in sorted(wholes, key=lambda a: not a.fresh):
        aligned = [mould.base if a is mould else _align(walk, a, mould) for a in args]
        if all(a is not None for a in aligned):
            result = walk.emit(relax.Call(call.op, aligned, call.attrs))
            return Value(shape, base=result, view=mould.view, fresh=any(a.fresh for a in wholes))
    return None


def _scalar(walk: Rewriter, arg: Any) -> Any | None:
    """One number as an expression without dimensions to speak of."""
    from tvm import ir

    if isinstance(arg, Value):
        return walk.weight(arg.recipe.reshape((1,))) if arg.recipe is not None and math.prod(arg.shape) == 1 else None
    return arg if isinstance(arg, ir.GenericConst) and arg.value.numpy().size == 1 else None


def _align(walk: Rewriter, arg: Any, mould: Value) -> Any | None:
    """``arg``, broadcast or not, in the order in which ``mould`` lies; None where that cannot be or means to copy."""
    if not isinstance(arg, Value):
        scalar = _scalar(walk, arg)
        return scalar if scalar is None or not arg.value.numpy().ndim else walk.reshaped(scalar, (1,))
    target = mould.view
    assert target is not None
    count = len(mould.shape)
    view = View.of(arg.shape) if arg.recipe is not None else walk.whole(arg)
    offset = count - len(view.shape)
    if offset < 0:
        return None
    pairs = [(d + offset, d) for d, extent in enumerate(arg.shape) if extent > 1]
    if any(mould.shape[i] != arg.shape[j] for i, j in pairs):
        return None
    cut = refine(target, view, pairs)
    if cut is None:
        return None
    target, view = cut
    match: dict[Atom, Atom] = {}
    for i, j in pairs:
        match |= dict(
            zip((a for a in target.dims[i] if a.extent > 1), (a for a in view.dims[j] if a.extent > 1), strict=True)
        )
    order: list[Atom] = []
    shape: list[int] = []
    for dim in target.base:
        atoms = [a for a in dim if a.extent > 1]
        found = [match[a] for a in atoms if a in match]
        if found and len(found) != len(atoms):
            return None
        shape.append(math.prod(a.extent for a in found))
        order += found
    places = [view.atoms.index(a) for a in order]
    if arg.recipe is not None:
        recipe = arg.recipe.reshape(tuple(a.extent for a in view.atoms)).transpose(tuple(places))
        return walk.weight(recipe.reshape(_trimmed(shape)))
    if places != sorted(places):
        return None
    return walk.reshaped(arg.base, tuple(shape))


def _trimmed(shape: list[int]) -> tuple[int, ...]:
    """Without leading ones: biases keep the shape under which equal layers are one task."""
    first = next((i for i, d in enumerate(shape) if d > 1), len(shape) - 1)
    return tuple(shape[first:])


# Row by row


def _rows(walk: Rewriter, value: Value) -> tuple[View, tuple[int, ...]]:
    """The tensor's view and its base's shape as rows, where the view's rows are rows of the base."""
    view = walk.whole(value)
    last = [a for a in view.dims[-1] if a.extent > 1]
    count = len(last)
    if not count or view.atoms[-count:] != last:
        walk.materialise(value)
        view = walk.view(value)
    n = value.shape[-1]
    return view, (math.prod(view.base_shape) // n, n)


def _as_rows(view: View, n: int, out: int) -> View:
    """The view of a result with ``out`` numbers for each row of ``n``, whose base is a matrix."""
    inner = [a for a in view.dims[-1] if a.extent > 1]
    outer = tuple(a for a in view.atoms if a not in inner)
    last = (Atom(out),)
    return View((outer, last), (*view.dims[:-1], last))


def dense(walk: Rewriter, call: Any, left: Value, recipe: Recipe) -> Value | None:
    """A matrix of weights, packed when the network is built. Columns that are missing in the last block are zeros."""
    depth, n = recipe.shape
    if n < _NARROWEST:
        return None
    x = _block(walk, n)
    view, shape = _rows(walk, left)
    source = walk.reshaped(left.base, shape)
    columns = recipe if n % x == 0 else recipe.take(1, padded_order(n, x))
    packed = columns.reshape((depth, -(-n // x), x)).transpose((1, 0, 2))
    function = contraction.dense(shape[0], packed.shape, n)
    result = walk.call(function, [source, walk.weight(packed)], (shape[0], n), "dense")
    return Value(shape_of(call), base=result, view=_as_rows(view, depth, n), fresh=True)


def _block(walk: Rewriter, n: int) -> int:
    """The lanes of a block of ``n`` columns: all of them where they fit a vector register.

    Of more columns it is their largest divisor that fills half of a register, or else a whole one, of which the last is
    padded.
    """
    x = walk.channel_block(n)
    return walk.lanes if x < walk.lanes // 2 and n > walk.lanes else x


def softmax(walk: Rewriter, call: Any, args: list[Any], safe: bool = False) -> Value | None:
    if int(call.attrs.axis) not in (-1, len(args[0].shape) - 1):
        return None
    return _row_wise(walk, args[0], "softmax", lambda shape: rows.softmax(shape, walk.lanes, safe), [])


def layer_norm(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    attrs, count = call.attrs, len(args[0].shape)
    if [int(a) % count for a in attrs.axes] != [count - 1] or not (attrs.center and attrs.scale):
        return None
    if any(not isinstance(a, Value) or a.recipe is None for a in args[1:]):
        return None
    scale_shift = [walk.weight(a.recipe) for a in args[1:]]
    epsilon = float(attrs.epsilon)
    return _row_wise(walk, args[0], "layer_norm", lambda s: rows.layer_norm(s, walk.lanes, epsilon), scale_shift)


def _row_wise(
    walk: Rewriter, value: Value, name: str, make: Callable[[tuple[int, ...]], Any], more: list[Any]
) -> Value | None:
    n = value.shape[-1]
    if value.dtype != "float32" or n < _NARROWEST:
        return None
    view, shape = _rows(walk, value)
    result = walk.call(make(shape), [walk.reshaped(value.base, shape), *more], shape, name)
    return Value(value.shape, base=result, view=_as_rows(view, n, n), fresh=True)


# Products of batches


def matmul(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    left, right = args
    if not isinstance(right, Value) or str(call.ty.dtype) != "float32":
        return None
    recipe = right.recipe or _repeated(walk, call.args[1], right.shape)
    if recipe is not None:
        return dense(walk, call, left, recipe) if len(recipe.shape) == 2 and len(left.shape) > 1 else None
    if len(left.shape) < 3 or left.shape[:-2] != right.shape[:-2]:
        return None
    n = right.shape[-1]
    if n < _NARROWEST:
        return None
    x = _block(walk, n)
    pending = [*left.pending, *right.pending]
    left, right = (dataclasses.replace(v, pending=()) for v in (left, right))
    views = []
    for value in (left, right):
        view = walk.view(value).merged()
        matrix = view.dims[-1] + view.dims[-2]
        if max(len(view.dims[-1]), len(view.dims[-2])) > 1 or not {*view.atoms[-1:]} <= {*matrix}:
            walk.materialise(value)
            view = walk.view(value).merged()
        views.append(view)
    batch = list(range(len(left.shape) - 2))
    cut = refine(views[0], views[1], [(d, d) for d in batch])
    if cut is None:
        return None
    product, result_view = _product(cut[0], cut[1], (left.shape[-2], left.shape[-1], n))
    operands = [
        walk.reshaped(v.base, tuple(e for e, _ in dims)) for v, dims in ((left, product.left), (right, product.right))
    ]
    shape = product.out_shape
    result = walk.call(contraction.batch_matmul(product, x), operands, shape, "batch_matmul")
    for op, scalar in pending:
        from tvm import relax

        result = walk.emit(relax.Call(op, [result, scalar], None))
    return Value(shape_of(call), base=result, view=result_view, fresh=True)


def _repeated(walk: Rewriter, expr: Any, shape: tuple[int, ...]) -> Recipe | None:
    """The matrix of weights that all matrices of a batch are, as PyTorch writes a dense layer of several sequences."""
    from tvm import relax

    names = {"relax.broadcast_to", "relax.reshape", "relax.expand_dims"}
    while isinstance(expr, relax.Var):
        value = walk.values.get(expr)
        if isinstance(value, Value) and value.recipe is not None:
            repeated = math.prod(value.shape) == math.prod(shape[-2:])
            return value.recipe.reshape(shape[-2:]) if repeated else None
        bound = walk.bindings.get(expr)
        if not isinstance(bound, relax.Call) or getattr(bound.op, "name", "") not in names:
            return None
        if shape_of(bound)[-2:] != shape[-2:]:
            return None
        expr = bound.args[0]
    return None


def _product(left: View, right: View, mkn: tuple[int, int, int]) -> tuple[Product, View]:
    """How a product reads its operands, and the view of its result."""
    m, k, n = mkn
    parts = [a for dim in left.dims[:-2] for a in dim if a.extent > 1]
    twins = [a for dim in right.dims[:-2] for a in dim if a.extent > 1]

    def places(view: View, batch: list[Atom], first: str, second: str) -> tuple[tuple[int, Place], ...]:
        known: dict[Atom, Place] = {a: ("batch", i) for i, a in enumerate(batch)}
        known |= {a: (first, 0) for a in view.dims[-2]} | {a: (second, 0) for a in view.dims[-1]}
        known |= {a: ("fixed", i) for a, i in view.fixed}
        return tuple((a.extent, known[a]) for a in view.atoms)

    rights = places(right, twins, "k", "n")
    out: list[Place]
    if rights and rights[-1][1] == ("n", 0) and k > 1:
        # Rows of the right operand stay rows of the result: (tokens, heads, depth) gives (tokens, heads, depth).
        out = [("m", 0) if p == ("k", 0) else p for _, p in rights if p[0] != "fixed"]
    else:
        out = [*(("batch", i) for i in range(len(parts))), ("m", 0), ("n", 0)]
    atoms = {p: Atom({"m": m, "n": n}.get(p[0]) or parts[p[1]].extent) for p in out}
    number = {a: i for i, a in enumerate(parts)}
    dims = [tuple(atoms["batch", number[a]] for a in dim if a.extent > 1) for dim in left.dims[:-2]]
    view = View(tuple((atoms[p],) for p in out), (*dims, (atoms["m", 0],), (atoms["n", 0],)))
    extents = tuple(a.extent for a in parts) or (1,)
    if not parts:
        out = [("batch", 0), *out]
        view = View(((Atom(1),), *view.base), view.dims)
        # The one matrix of the batch has an index of its own, which is always 0.
    return Product(extents, m, k, n, places(left, parts, "m", "k"), rights, tuple(out)), view


def where(walk: Rewriter, call: Any, args: list[Any]) -> Value | None:
    """PyTorch's attention: zeros where all of a row is minus infinity, and its softmax elsewhere."""
    from tvm import ir, relax

    def made(expr: Any, name: str) -> Any | None:
        bound = walk.bindings.get(expr) if isinstance(expr, relax.Var) else None
        fits = isinstance(bound, relax.Call) and getattr(bound.op, "name", "") == f"relax.{name}"
        return bound if fits else None

    def constant(expr: Any, value: float) -> bool:
        return isinstance(expr, ir.GenericConst) and bool((expr.value.numpy() == value).all())

    soft = made(call.args[2], "nn.softmax")
    zeros = made(call.args[1], "full_like")
    if soft is None or zeros is None or not constant(zeros.args[1], 0.0):
        return None
    step: Any = call.args[0]
    for name in ("logical_not", "astype", "max", "astype", "logical_not", "equal"):
        bound = made(step, name)
        if bound is None:
            return None
        if name == "equal":
            if not bound.args[0].same_as(soft.args[0]) or not constant(bound.args[1], -math.inf):
                return None
        elif name == "max" and [int(a) for a in bound.attrs.axis] not in ([-1], [len(shape_of(soft)) - 1]):
            return None
        step = bound.args[0]
    source = walk.values[soft.args[0]]
    return softmax(walk, soft, [source], safe=True) if isinstance(source, Value) else None


def shape_of(call: Any) -> tuple[int, ...]:
    """The shape of a call's result."""
    return tuple(int(d) for d in call.ty.shape.values)


_TABLE: dict[str, Callable[[Any, Any, list[Any]], Value | None]] = {
    "reshape": reshape,
    "expand_dims": reshape,
    "squeeze": reshape,
    "flatten": reshape,
    "broadcast_to": broadcast,
    "permute_dims": permute,
    "take": take,
    "matmul": matmul,
    "nn.softmax": softmax,
    "nn.layer_norm": layer_norm,
    "where": where,
}
