"""Tensors of tokens: operators over views, so that reshapes, transpositions and slices copy nothing.

Operators that only move elements are remembered as views (:mod:`tilewright.graph.view`). Element-wise operators are
computed here, operators on rows in :mod:`tilewright.graph.token_rows`, and matrix products in
:mod:`tilewright.graph.token_products`. All of them read their operands in the order in which these lie in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tilewright.graph.idioms import SOFTPLUS_THRESHOLD, Formula, Idiom
from tilewright.graph.parts import whole_slice
from tilewright.graph.token_products import matmul
from tilewright.graph.token_rows import layer_norm, masked_softmax, softmax, sum_tokens
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View, join_views, refine
from tilewright.ops import elementwise
from tilewright.ops.elementwise.elementary import ELEMENTARY

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["BINARY", "UNARY", "emit_elementary", "find_formula", "serve"]

UNARY = {"nn.relu", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "abs", "negative", "clip", "nn.gelu", "nn.silu"}
UNARY |= {"nn.leakyrelu", "square"} | set(ELEMENTARY)
BINARY = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "power"}


def serve(walk: Rewriter, name: str, call: relax.Call | Idiom, args: list[Value | relax.Expr]) -> Value | None:
    """The operator's value; None if only plain tensors can serve the operator.

    Args:
        walk: emits the new graph.
        name: of Relax's operator, without ``relax.``.
        call: the call.
        args: the arguments; those that are tensors of the graph as a ``Value``.
    """
    if not args or not isinstance(args[0], Value):
        return binary(walk, call, args) if name in BINARY else None
    if args[0].recipe is not None and name not in BINARY:
        return None
    if name in BINARY:
        return binary(walk, call, args)
    handler = _TABLE.get(name) or (unary if name in UNARY or isinstance(call, Idiom) else None)
    return None if handler is None else handler(walk, call, args)


# Operators that only move elements


def reshape(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """A view in another shape."""
    value: Value = args[0]
    view = walk.make_view(value).reshape(shape_of(call))
    if view is None:
        return None
    seen = value.seen(view)
    if 0 < view.block <= walk.lanes and not value.pending and value.dtype == "float32":
        # An image that is handed over in blocks: operators on pixels read it where it lies.
        n, channels, h, w = view.shape
        seen.block = view.block
        seen.packed = walk.reshape(value.base, (n, channels // seen.block, h, w, seen.block))
        seen.copies[seen.block, None] = seen.packed
    return seen


def broadcast(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The tensor itself, if it has the wanted shape already."""
    return args[0] if args[0].shape == shape_of(call) else None


def permute(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """A view with the dimensions in another order."""
    axes = call.attrs.axes
    count = len(args[0].shape)
    order = [int(a) % count for a in axes] if axes is not None else list(reversed(range(count)))
    value: Value = args[0]
    return value.seen(walk.make_view(value).permute(order))


def take(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """A view at one constant index."""
    from tvm import ir

    axis = call.attrs.axis
    if len(args) < 2 or not isinstance(args[1], ir.GenericConst) or axis is None:
        return None
    position = args[1].value.numpy()
    axis = int(axis) % len(args[0].shape)
    if position.ndim or not 0 <= int(position) < args[0].shape[axis]:
        return None
    value: Value = args[0]
    return value.seen(walk.make_view(value).index(axis, int(position)))


def join(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """The tensor that all operands of a concatenation are the parts of."""
    parts = [part for part in args if isinstance(part, Value) and part.recipe is None]
    if len(parts) < len(args):
        return None
    views = [walk.make_view(part) for part in parts]
    base = parts[0].base
    if any(part.pending or not part.base.same_as(base) for part in parts):
        return None
    axis = call.attrs.axis
    view = join_views(views, int(axis.value if hasattr(axis, "value") else axis) % len(parts[0].shape))
    return None if view is None else Value(view.shape, base=base, view=view, dtype=parts[0].dtype)


# Element-wise operators


def unary(walk: Rewriter, call: relax.Call | Idiom, args: list[Value | relax.Expr]) -> Value | None:
    """An operator of one operand, computed on the operand's base."""
    from tvm import relax

    value, name = args[0], call.op.name.removeprefix("relax.")
    if str(call.ty.dtype) != "float32":
        return None
    view = walk.make_whole_view(value)
    function = find_formula(call)
    if function is not None:
        result = emit_elementary(walk, name, function, value.base, view.base_shape)
    else:
        result = walk.emit(relax.Call(call.op, [value.base, *call.args[1:]], call.attrs))
    return Value(value.shape, base=result, view=view, fresh=value.fresh)


def find_formula(call: relax.Call | Idiom) -> Formula | None:
    """The formula of :mod:`tilewright.ops.elementwise` that the call applies to each element; None if there is none."""
    if isinstance(call, Idiom):
        return call.function
    name = call.op.name.removeprefix("relax.")
    if name == "nn.softplus" and (float(call.attrs.beta) != 1.0 or float(call.attrs.threshold) < SOFTPLUS_THRESHOLD):
        return None
    return ELEMENTARY.get(name)


def emit_elementary(
    walk: Rewriter, name: str, function: Formula, data: relax.Expr, shape: tuple[int, ...]
) -> relax.Expr:
    """Emit an elementary function of each element, such as an exponential, as code that LLVM vectorises."""
    word = name.removeprefix("nn.")
    return walk.call(elementwise.apply_formula(function, shape, word), [data], shape, word)


def binary(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """An operator of two operands, computed in the order in which one of them lies in memory."""
    from tvm import relax

    shape = shape_of(call)
    if str(call.ty.dtype) != "float32" or any(isinstance(a, Value) and a.dtype != "float32" for a in args):
        return None
    name = call.op.name.removeprefix("relax.")
    scalar = _scalar(walk, args[1])
    if scalar is not None and isinstance(args[0], Value) and name in ("multiply", "divide") and not args[0].recipe:
        walk.make_view(args[0])
        if args[0].view is not None and args[0].view.fixed:
            # Most such parts of a tensor are operands of a batched product, which scales its result instead.
            return args[0].scaled(call.op, scalar)
    wholes = [a for a in args if isinstance(a, Value) and a.recipe is None and a.shape == shape]
    for a in wholes:
        walk.make_whole_view(a)
    # A fresh tensor comes first, because this operator is then fused into the function that computes it.
    for mould in sorted(wholes, key=lambda a: not a.fresh):
        aligned = [mould.base if a is mould else _align(walk, a, mould) for a in args]
        if all(a is not None for a in aligned):
            result = walk.emit(relax.Call(call.op, aligned, call.attrs))
            return Value(shape, base=result, view=mould.view, fresh=any(a.fresh for a in wholes))
    return None


def _scalar(walk: Rewriter, arg: Value | relax.Expr) -> relax.Expr | None:
    """A weight or constant of one element as an expression; None for anything else."""
    from tvm import ir

    if isinstance(arg, Value):
        return (
            walk.add_weight(arg.recipe.reshape((1,))) if arg.recipe is not None and math.prod(arg.shape) == 1 else None
        )
    return arg if isinstance(arg, ir.GenericConst) and arg.value.numpy().size == 1 else None


def _align(walk: Rewriter, arg: Value | relax.Expr, mould: Value) -> relax.Expr | None:
    """``arg`` in the order in which ``mould`` lies, so that it broadcasts.

    None if no view of ``arg`` lies in that order.
    """
    if not isinstance(arg, Value):
        scalar = _scalar(walk, arg)
        return scalar if scalar is None or not arg.value.numpy().ndim else walk.reshape(scalar, (1,))
    target = mould.view
    assert target is not None
    count = len(mould.shape)
    view = View.of(arg.shape) if arg.recipe is not None else walk.make_whole_view(arg)
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
        return walk.add_weight(recipe.reshape(_trimmed(shape)))
    if places != sorted(places):
        return None
    return walk.reshape(arg.base, tuple(shape))


def _trimmed(shape: list[int]) -> tuple[int, ...]:
    """The shape without leading ones. Layers that differ only in the rank of their bias then stay one task."""
    first = next((i for i, d in enumerate(shape) if d > 1), len(shape) - 1)
    return tuple(shape[first:])


_Handler: TypeAlias = "Callable[[Rewriter, relax.Call, list[Value | relax.Expr]], Value | None]"
#: What serves each operator, by its name in Relax.
_TABLE: dict[str, _Handler] = {
    "reshape": reshape,
    "expand_dims": reshape,
    "squeeze": reshape,
    "flatten": reshape,
    "broadcast_to": broadcast,
    "permute_dims": permute,
    "take": take,
    "concat": join,
    "strided_slice": whole_slice,
    "matmul": matmul,
    "nn.softmax": softmax,
    "nn.layer_norm": layer_norm,
    "where": masked_softmax,
    "sum": sum_tokens,
}
