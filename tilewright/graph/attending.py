"""Attention in training: the function that an importer leaves reads its operands where they lie.

attention(q, k, v)  -->  attention of views of one projection, and the result with all heads of a token side by side
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tilewright.graph.marked import read_marked
from tilewright.graph.value import Value
from tilewright.graph.view import View
from tilewright.ops.attention import Attention, Dims, attention
from tilewright.ops.attention.form import KIND

if TYPE_CHECKING:
    from tvm import relax

    from tilewright.graph.rewriter import Rewriter

__all__ = ["serve"]


def serve(walk: Rewriter, call: relax.Call) -> list[Value] | None:
    """The results of an attention and of its sums; None for another call.

    Args:
        walk: emits the new graph.
        call: of ``relax.call_tir``.
    """
    from tvm import relax

    found = read_marked(walk, call, KIND)
    if found is None:
        return None
    detail, operands = found
    plain = Attention.parse(detail)
    if not plain.sums or plain.masks:
        return None
    dims = [_lay(walk, v, getattr(plain, name)) for name, v in zip("qkv", operands, strict=True)]
    # Heads lie side by side for each token, as PyTorch's attention gives them.
    out = (("batch", 0), ("query", 0), ("batch", 1), ("width", 0))
    form = dataclasses.replace(plain, q=dims[0], k=dims[1], v=dims[2], out=out)
    sources = [
        walk.reshape(value.base, tuple(extent for extent, _ in lying))
        for value, lying in zip(operands, dims, strict=True)
    ]
    function = walk.builder.add_func(attention(form), KIND)
    kinds = [relax.TensorType(form.shapes[name], "float32") for name in ("out", "sums")]
    results = walk.emit(relax.call_tir(function, sources, kinds))
    tensor, sums = (walk.emit(relax.TupleGetItem(results, place)) for place in range(2))
    view = View.of(form.shapes["out"]).permute([0, 2, 1, 3])
    return [Value(view.shape, base=tensor, view=view), Value.plain(form.shapes["sums"], sums)]


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
