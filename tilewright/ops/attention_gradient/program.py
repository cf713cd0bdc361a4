"""Writes the program of an attention's gradient: a block of queries after the other, whose scores stay in the cache.

for matrix of the batch, in parallel:
  dK = dV = 0, in the core's cache
  for block of queries:
    Q^T, dO^T = the block's queries, scaled, and gradients, transposed: a vector holds one column of several queries
    D = rows(dO * O)
    for tile of keys:                        registers: S^T[key, queries] = K[key, d] * Q^T[d, queries]
        P^T = exp(S^T - L)
                                             registers: dP^T[key, queries] = V[key, d] * dO^T[d, queries]
        dS^T = P^T * (dP^T - D)
    for tile of keys and columns:            registers: dV[key, columns] += P^T[key, query] * dO[query, columns]
                                             registers: dK[key, columns] += dS^T[key, query] * Q[query, columns]
    for tile of queries and columns:         registers: dQ[query, columns] = dS^T[key, query] * K[key, columns]
  dK and dV to memory

The forward pass has saved L, the logarithms of the sums of exponentials, so the probabilities P need no pass over the
scores. Neither scores nor probabilities are in memory (Dao 2023, "FlashAttention-2", arXiv 2307.08691, which also
splits the keys into blocks; here a block has all keys). A vector of scores holds queries, as in the forward pass.
Queries and keys that fill the last vector or tile are copies of the last one. Sums leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.ops.attention.elements import Tensors
from tilewright.ops.attention_gradient.block import Block, Scratch
from tilewright.ops.attention_gradient.form import AttentionGradient
from tilewright.ops.attention_gradient.nest import Nest
from tilewright.ops.elementwise.float32 import number
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["write_gradient"]


def write_gradient(form: AttentionGradient, params: Sequence[Var], nest: Nest) -> tuple[Stmt, list[Var]]:
    """The statements of an attention's gradient, and the buffers that they need.

    Args:
        form: the operator.
        params: one buffer for each of ``form.shapes``.
        nest: how the loops are arranged.
    """
    tensors = Tensors(form.attention.batch, dict(zip(form.shapes, params, strict=True)), nest.written_out)
    return _write_matrices(form, tensors, nest), tensors.buffers


def _write_matrices(form: AttentionGradient, tensors: Tensors, nest: Nest) -> Stmt:
    """The loop over the matrices of the batch."""
    from tvm import tirx

    attention = form.attention
    scratch = Scratch(form, tensors, nest)
    each = nest.vectors * nest.lanes
    whole, rest = divmod(attention.queries, each)
    item, number_of_block = make_counter("item"), make_counter("block")
    steps = [_clear(scratch)]
    if whole:
        block = Block(form, tensors, nest, scratch, item, number_of_block * each, each)
        steps.append(make_loop(number_of_block, whole, block.write()))
    if rest:
        steps.append(Block(form, tensors, nest, scratch, item, make_index(whole * each), rest).write())
    body = make_sequence([*steps, *_write_sums(form, tensors, scratch, item)])
    parallel = nest.parallel and attention.items > 1
    return make_loop(item, attention.items, body, tirx.ForKind.PARALLEL if parallel else None)


def _clear(scratch: Scratch) -> Stmt:
    """Set the sums of keys and values to 0."""
    loops = []
    for sums, columns in ((scratch.dk, scratch.depth), (scratch.dv, scratch.width)):
        row, vector, lane = make_counter("row"), make_counter("vector"), make_counter("lane")
        body = store(sums, number(0.0), [row, columns.kept(vector) + lane])
        loops.append(make_loop(row, scratch.keys, columns.over_vectors(vector, lane, body)))
    return make_sequence(loops)


def _write_sums(form: AttentionGradient, tensors: Tensors, scratch: Scratch, item: Expr) -> list[Stmt]:
    """Write the gradients of keys and values to memory."""
    attention = form.attention
    loops = []
    for name, sums, columns, axis in (
        ("dk", scratch.dk, scratch.depth, "depth"),
        ("dv", scratch.dv, scratch.width, "width"),
    ):
        key, vector, lane = make_counter("key"), make_counter("vector"), make_counter("lane")
        value = load(sums, [key, columns.kept(vector) + lane])
        if name == "dk" and attention.scale != 1.0:
            value = value * number(attention.scale)
        axes = {"key": key, axis: columns.first(vector) + lane}
        indices = tensors.indices([place for _, place in getattr(form, name)], item, **axes)
        body = store(tensors.params[form.result_of(name)], value, indices)
        loops.append(make_loop(key, attention.keys, columns.over_vectors(vector, lane, body)))
    return loops
