"""Matrix products of tensors of tokens: dense layers, and batched products that read their operands in place."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from tilewright.graph.packing import see
from tilewright.graph.token_rows import FEWEST_TOKENS, NARROWEST, choose_block, dense
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View, refine
from tilewright.graph.weights import Recipe
from tilewright.ops import contraction
from tilewright.ops.contraction.expression import Place, Product
from tilewright.ops.token_product import KIND, TokenProduct, token_product

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["matmul"]


def matmul(walk: Rewriter, call: relax.Call, args: list[Value | relax.Expr]) -> Value | None:
    """A dense layer where the right operand is a weight, and otherwise the product of two batches of matrices."""
    left, right = args
    if not isinstance(right, Value) or str(call.ty.dtype) != "float32":
        return None
    recipe = right.recipe or _find_repeated(walk, call.args[1], right.shape)
    if recipe is not None:
        if len(recipe.shape) != 2 or len(left.shape) < 2:
            return None
        return _read_weight(walk, call, left, recipe) or dense(walk, call, left, recipe)
    if len(left.shape) < 2 or left.shape[:-2] != right.shape[:-2] or right.shape[-1] < NARROWEST:
        return None
    if len(left.shape) > 2:
        return _emit_batch(walk, shape_of(call), left, right)
    summed = _sum_over_tokens(walk, left, right)
    if summed is not None:
        return summed
    return _multiply_alone(walk, call, left, right)


def _multiply_alone(walk: Rewriter, call: relax.Call, left: Value, right: Value) -> Value | None:
    """The product of two matrices as a batch of one. Both are read where they lie, transposed ones too."""
    alone = [_reshape(walk, value, (1, *value.shape)) for value in (left, right)]
    product = _emit_batch(walk, (1, *shape_of(call)), *alone)
    return None if product is None else _reshape(walk, product, shape_of(call))


def _read_weight(walk: Rewriter, call: relax.Call, left: Value, recipe: Recipe) -> Value | None:
    """The product with a weight that changes from call to call, which the kernel packs itself.

    None if blocks that have no gaps fill vector registers: then packing is a call of its own, which other kernels may
    share.
    """
    n = recipe.shape[-1]
    if recipe.source not in walk.varying or len(left.shape) > 2 or n % choose_block(walk.lanes, n, left.shape[-2]) == 0:
        return None
    weight = see(walk, recipe)
    return None if weight is None else _multiply_alone(walk, call, left, weight)


def _sum_over_tokens(walk: Rewriter, left: Value, right: Value) -> Value | None:
    """The product of a transposed matrix and a matrix that both have a row for each token, each read where it lies.

    Rows of both that lie in the same order are summed in that order. Otherwise they are brought into order first.

    None if the left matrix is not transposed, or if vectors do not divide the columns of the right one.
    """
    (m, tokens), n = left.shape, right.shape[1]
    x = walk.channel_block(n)
    view = walk.make_view(left)
    columns = [a for a in view.dims[0] if a.extent > 1]
    turned = bool(columns) and view.atoms[-len(columns) :] == columns and not view.fixed
    if not turned or x < walk.lanes // 2 or tokens < FEWEST_TOKENS or left.pending:
        return None
    rows = left.seen(view.permute((1, 0)))
    order = _find_row_order(view.permute((1, 0)))
    if order is not None and not right.pending and order == _find_row_order(walk.make_view(right)):
        sources = [walk.reshape(left.base, (tokens, m)), walk.reshape(right.base, (tokens, n))]
    else:
        sources = [walk.make_plain(rows), walk.make_plain(right)]
    result = walk.call(token_product(TokenProduct(tokens, m, n)), sources, (m, n), KIND)
    return Value.plain((m, n), result)


def _find_row_order(view: View) -> list[tuple[int, int]] | None:
    """The place and the extent of each part of a matrix's rows in its base; None if the columns are not last there."""
    merged = view.merge()
    atoms, columns = merged.atoms, [a for a in merged.dims[1] if a.extent > 1]
    if merged.fixed or not columns or atoms[-len(columns) :] != columns:
        return None
    return [(atoms.index(a), a.extent) for a in merged.dims[0] if a.extent > 1]


def _reshape(walk: Rewriter, value: Value, shape: tuple[int, ...]) -> Value:
    """The value with a dimension of extent 1 more or less."""
    view = walk.make_view(value).reshape(shape)
    assert view is not None
    return dataclasses.replace(value.seen(view), pending=value.pending)


def _emit_batch(walk: Rewriter, shape: tuple[int, ...], left: Value, right: Value) -> Value | None:
    """The product of two batches of matrices, each read where it lies.

    Args:
        walk: emits the new graph.
        shape: of the product.
        left: the left batch.
        right: the right batch.
    """
    from tvm import relax

    n = right.shape[-1]
    # Scales that are pending on an operand are applied to the result.
    pending = [*left.pending, *right.pending]
    left, right = (dataclasses.replace(v, pending=()) for v in (left, right))
    views = []
    for value in (left, right):
        view = walk.make_view(value).merge()
        matrix = view.dims[-1] + view.dims[-2]
        if max(len(view.dims[-1]), len(view.dims[-2])) > 1 or not {*view.atoms[-1:]} <= {*matrix}:
            walk.materialise(value)
            view = walk.make_view(value).merge()
        views.append(view)
    batch = list(range(len(left.shape) - 2))
    cut = refine(views[0], views[1], [(d, d) for d in batch])
    if cut is None:
        return None
    product, result_view = _describe_product(cut[0], cut[1], (left.shape[-2], left.shape[-1], n))
    operands = [
        walk.reshape(v.base, tuple(e for e, _ in dims)) for v, dims in ((left, product.left), (right, product.right))
    ]
    function = contraction.batch_matmul(product, choose_block(walk.lanes, n, left.shape[-2]))
    result = walk.call(function, operands, product.out_shape, "batch_matmul")
    walk.products[walk.function_of(result)] = product
    for op, scalar in pending:
        result = walk.emit(relax.Call(op, [result, scalar], None))
    return Value(shape, base=result, view=result_view, fresh=True)


def _find_repeated(walk: Rewriter, expr: relax.Expr, shape: tuple[int, ...]) -> Recipe | None:
    """The matrix of weights that a batch repeats; None if the batch is no such repetition.

    PyTorch exports a dense layer on several sequences in this way.
    """
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


def _describe_product(left: View, right: View, mkn: tuple[int, int, int]) -> tuple[Product, View]:
    """How a product reads its operands, and the view of its result.

    Args:
        left: of the left operand, merged.
        right: of the right operand, merged, with the same atoms in the dimensions of the batch.
        mkn: the extents of the matrices: ``(m, k)`` times ``(k, n)``.
    """
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
        # A batch of one matrix has an index of its own, which is always 0.
        out = [("batch", 0), *out]
        view = View(((Atom(1),), *view.base), view.dims)
    return Product(extents, m, k, n, places(left, parts, "m", "k"), rights, tuple(out)), view
