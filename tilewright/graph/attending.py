"""Attention in training: the functions that an importer leaves read their operands where they lie.

attention(q, k, v)  -->  attention of views of one projection, and the result with all heads of a token side by side

The gradients of queries, keys and values that are views of one projection are written as one tensor in the order of the
projection. Others have all heads of a token side by side.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tilewright.graph.marked import read_marked
from tilewright.graph.value import Value, shape_of
from tilewright.graph.view import Atom, View
from tilewright.ops.attention import Attention, Dims, Place, attention
from tilewright.ops.attention.form import KIND
from tilewright.ops.attention_gradient import AttentionGradient, attention_gradient
from tilewright.ops.attention_gradient.form import KIND as GRADIENT

if TYPE_CHECKING:
    from tvm import relax, tirx

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]


def serve(walk: Rewriter, call: relax.Call) -> list[Value] | None:
    """The results of an attention or of its gradient; None for another call.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
    """
    found = read_marked(walk, call, KIND)
    if found is not None:
        return _serve_attention(walk, *found)
    found = read_marked(walk, call, GRADIENT)
    return None if found is None else _serve_gradient(walk, *found)


def _serve_attention(walk: Rewriter, detail: str, operands: list[Value]) -> list[Value] | None:
    """The result, and the logarithms of sums. Heads lie side by side for each token, as PyTorch gives them."""
    plain = Attention.parse(detail)
    if not plain.sums or plain.masks:
        return None
    sources, dims = _lay_all(walk, operands, [plain.q, plain.k, plain.v])
    form = dataclasses.replace(plain, q=dims[0], k=dims[1], v=dims[2], out=_tokens_first("query", "width"))
    out, sums = _call(walk, attention(form), KIND, sources, [form.shapes[name] for name in ("out", "sums")])
    return [_heads_first(out), Value.plain(form.shapes["sums"], sums)]


def _serve_gradient(walk: Rewriter, detail: str, operands: list[Value]) -> list[Value]:
    """The gradients of queries, keys and values, which lie as PyTorch gives them."""
    plain = AttentionGradient.parse(detail)
    form = plain.attention
    *laid, sums = operands
    result = form.extents(form.out)
    walk.make_whole_view(laid[4])  # a form knows no fixed places of the result
    sources, dims = _lay_all(walk, laid, [plain.gradient, form.q, form.k, form.v, result])
    out = tuple(place for _, place in dims[4])
    form = dataclasses.replace(form, q=dims[1], k=dims[2], v=dims[3], out=out)
    sources.append(walk.make_plain(sums))
    joined = laid[1].base.same_as(laid[2].base) and laid[1].base.same_as(laid[3].base)
    dy, q, k, v = dims[:4]
    gradient = AttentionGradient(form, dy, q, k, v, joined)
    if not joined or not gradient.complete:
        queries, keys = (form.extents(_tokens_first(row, "depth")) for row in ("query", "key"))
        gradient = AttentionGradient(form, dy, queries, keys, form.extents(_tokens_first("key", "width")))
    shapes = [gradient.shapes[name] for name in gradient.results]
    tensors = _call(walk, attention_gradient(gradient), GRADIENT, sources, shapes)
    if gradient.joined:
        return [_see_part(tensors[0], dims) for dims in (gradient.dq, gradient.dk, gradient.dv)]
    return [_heads_first(tensor) for tensor in tensors]


def _see_part(tensor: relax.Expr, dims: Dims) -> Value:
    """The heads of queries, keys or values within a tensor, as a value ``(n, heads, tokens, columns)``."""
    atoms = {place: Atom(extent) for extent, place in dims}
    wanted = ((("batch", 0),), (("batch", 1),), (("query", 0), ("key", 0)), (("depth", 0), ("width", 0)))
    seen = tuple(tuple(atoms[place] for place in places if place in atoms) for places in wanted)
    fixed = tuple((atom, place[1]) for place, atom in atoms.items() if place[0] == "fixed")
    view = View(tuple((atom,) for atom in atoms.values()), seen, fixed)
    return Value(view.shape, base=tensor, view=view)


def _tokens_first(rows: str, columns: str) -> tuple[Place, ...]:
    """The places of ``(n, tokens, heads, columns)``."""
    return ("batch", 0), (rows, 0), ("batch", 1), (columns, 0)


def _heads_first(tensor: relax.Expr) -> Value:
    """A tensor ``(n, tokens, heads, columns)`` as a value ``(n, heads, tokens, columns)``."""
    view = View.of(shape_of(tensor)).permute([0, 2, 1, 3])
    return Value(view.shape, base=tensor, view=view)


def _call(
    walk: Rewriter, function: tirx.PrimFunc, name: str, operands: list[relax.Expr], shapes: list[tuple[int, ...]]
) -> list[relax.Expr]:
    """The results of a call of a function."""
    from tvm import relax

    kinds = [relax.TensorType(shape, "float32") for shape in shapes]
    results = walk.emit(relax.call_tir(walk.builder.add_func(function, name), operands, kinds))
    if len(shapes) == 1:
        return [results]
    return [walk.emit(relax.TupleGetItem(results, place)) for place in range(len(shapes))]


def _lay_all(walk: Rewriter, operands: list[Value], plain: list[Dims]) -> tuple[list[relax.Expr], list[Dims]]:
    """The bases of operands, and how the operands lie there. ``plain``: how they would lie in plain order."""
    laid = [_lay(walk, value, dims) for value, dims in zip(operands, plain, strict=True)]
    shapes = [tuple(extent for extent, _ in lying) for lying in laid]
    return [walk.reshape(value.base, shape) for value, shape in zip(operands, shapes, strict=True)], laid


def _lay(walk: Rewriter, value: Value, dims: Dims) -> Dims:
    """How an operand lies in its base. It is made a base of its own if one of its dimensions lies in pieces.

    Args:
        walk: emits the new graph.
        value: the operand.
        dims: how it would lie in plain order.
    """
    if value.pending:
        walk.materialise(value)
    view = walk.make_view(value).merge()
    lies = all(len(dim) <= 1 for dim in view.dims) and view.atoms[-1:] == list(view.dims[-1])
    if not lies:
        walk.materialise(value)
        view = walk.make_view(value).merge()
    places = {atom: place for dim, (_, place) in zip(view.dims, dims, strict=True) for atom in dim}
    fixed = dict(view.fixed)
    return tuple((a.extent, places[a] if a in places else ("fixed", fixed[a])) for a in view.atoms)
