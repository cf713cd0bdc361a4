"""The function of an attention of bytes as plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tilewright.ops.attention.byte_elements import LOWEST, SMALLEST, ByteElements
from tilewright.ops.attention.byte_form import BYTE_KIND, ByteAttention
from tilewright.ops.elementwise.exponential import exp_below_zero
from tilewright.ops.elementwise.float32 import number
from tilewright.ops.function import KEPT
from tilewright.ops.mark import Mark
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store
from tilewright.ops.written import declare, make_written_function

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import PrimFunc, Stmt

__all__ = ["byte_attention"]


@lru_cache(KEPT)
def byte_attention(form: ByteAttention) -> PrimFunc:
    """Attention of bytes. Gives a PrimFunc whose parameters are those of ``form.kinds``."""
    params = [declare(name, shape, dtype) for name, (shape, dtype) in form.kinds.items()]
    writer = _Plain(form, params)
    body = writer.write()
    return make_written_function(params, 1, body, writer.elements.buffers, Mark(BYTE_KIND, form.detail))


class _Plain:
    """Writes the statements of each query, one after the other."""

    def __init__(self, form: ByteAttention, params: Sequence[Var]) -> None:
        self.form, self.elements = form, ByteElements(form, params)
        allocate = self.elements.allocate
        self.scores, self.probabilities = (allocate("scores", (form.keys,)), allocate("bytes", (form.keys,), "int32"))
        self.top, self.sum = allocate("top", (1,)), allocate("sum", (1,))
        self.total = allocate("total", (1,), "int32")

    def write(self) -> Stmt:
        """All statements."""
        form = self.form
        item, query = make_counter("item"), make_counter("query")
        first = make_index(0)
        clear = [store(self.top, number(LOWEST), [first]), store(self.sum, number(0.0), [first])]
        body = [*clear, self._score(item, query), *self._weigh(), self._multiply(item, query)]
        return make_loop(item, form.items, make_loop(query, form.queries, make_sequence(body)))

    def _level(self, name: str, byte: Expr) -> Expr:
        """A byte minus its zero point, as int32, after it was looked up."""
        table = self.elements.params.get(f"{name}_table")
        if table is not None:
            byte = load(table, [byte.astype("int64")])
        return byte.astype("int32") - self.elements.zero(name)

    def _sum(self, counter: Var, extent: int, product: Expr) -> list[Stmt]:
        """Statements after which ``total`` is the sum of products."""
        from tvm import tirx

        first = make_index(0)
        add = store(self.total, load(self.total, [first]) + product, [first])
        return [store(self.total, tirx.const(0, "int32"), [first]), make_loop(counter, extent, add)]

    def _score(self, item: Expr, query: Expr) -> Stmt:
        from tvm import tirx

        key, depth, first = make_counter("key"), make_counter("d"), make_index(0)
        left = self._level("q", self.elements.load("q", item, query=query, depth=depth))
        right = self._level("k", self.elements.load("k", item, key=key, depth=depth))
        parts = self._sum(depth, self.form.depth, left * right)
        value = self.elements.score(
            load(self.total, [first]), lambda i: self.elements.load(f"mask{i}", item, query=query, key=key)
        )
        best = tirx.max(load(self.top, [first]), load(self.scores, [key]))
        parts += [store(self.scores, value, [key]), store(self.top, best, [first])]
        return make_loop(key, self.form.keys, make_sequence(parts))

    def _weigh(self) -> list[Stmt]:
        """The exponentials, their sum, and the bytes of the probabilities."""
        from tvm import tirx

        key, again, first = make_counter("key"), make_counter("key"), make_index(0)
        value = exp_below_zero(load(self.scores, [key]) - load(self.top, [first]))
        total = load(self.sum, [first]) + load(self.scores, [key])
        exponentials = make_sequence([store(self.scores, value, [key]), store(self.sum, total, [first])])
        factor = self.elements.scale(self.form.ends[0]) / tirx.max(load(self.sum, [first]), number(SMALLEST))
        byte = self.elements.probability(load(self.scores, [again]), load(self.sum, [first]))
        return [
            make_loop(key, self.form.keys, exponentials),
            store(self.sum, factor, [first]),
            make_loop(again, self.form.keys, store(self.probabilities, byte, [again])),
        ]

    def _multiply(self, item: Expr, query: Expr) -> Stmt:
        width, key = make_counter("w"), make_counter("key")
        value = self._level("v", self.elements.load("v", item, key=key, width=width))
        parts = self._sum(key, self.form.keys, load(self.probabilities, [key]) * value)
        out = self.elements.indices(self.form.out, item, query=query, width=width)
        result = self.elements.result(load(self.total, [make_index(0)]))
        parts.append(store(self.elements.params["out"], result, out))
        return make_loop(width, self.form.width, make_sequence(parts))
