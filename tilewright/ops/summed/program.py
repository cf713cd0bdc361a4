"""Adds the sums of channels to a scheduled program.

parallel for p: ... Y[n, c, h, w, l] = y ...
-->
parallel for piece:
    S[piece] = 0
    for p of the piece: ... Y[n, c, h, w, l] = y; S[piece, 0, c, l] += y; S[piece, 1, c, l] += y * y ...
sums = S[0] + S[1] + ...

A *piece* is a part of the parallel loop. So cores never add to the same sums, and the sums of a piece stay in a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.statements import load, make_sequence, replace_body, store
from tilewright.ops.summed.tiles import SUMMED, Tiles
from tilewright.ops.written import declare

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.s_tir import SBlockRealize
    from tvm.tirx import BufferStore, For, PrimFunc, Stmt

    from tilewright.ops.summed.form import Summed

__all__ = ["add_sums"]

#: Pieces for each core, at most.
_PIECES = (4, 2, 1)


def add_sums(form: Summed, scheduled: PrimFunc, cores: int) -> PrimFunc:
    """The whole function, of the scheduled one without sums.

    Args:
        form: of the function.
        scheduled: the function without sums.
        cores: of the target.

    Raises:
        FormError: the program stores its result in several parallel loops.
    """
    return _Adder(form, scheduled, cores).write()


class _Adder:
    def __init__(self, form: Summed, scheduled: PrimFunc, cores: int) -> None:
        from tvm import tirx

        self._form, self._scheduled, self._cores = form, scheduled, cores
        whole = form.module["main"]
        self._params = list(whole.params)
        for place, param in zip(form.places, scheduled.params, strict=True):
            self._params[place] = param
        given = dict(zip(whole.params, self._params, strict=True))
        self._result = given[form.result]
        self._operands = None if form.operands is None else tuple(given[operand] for operand in form.operands)
        _, blocks, _, _, lanes = (int(extent) for extent in form.result.ty.shape)
        self._blocks, self._lanes = blocks, lanes
        self._dtype = self._index_dtype()
        self._piece = tirx.Var("piece", self._dtype)
        self._pieces = 0

    def write(self) -> PrimFunc:
        """The function."""
        from tvm import tirx
        from tvm.s_tir import SBlock, SBlockRealize
        from tvm.tirx import BufferStore, For
        from tvm_ffi import structural_map

        root = self._scheduled.body.block
        loop = self._find_parallel(root.body)
        extent = 1 if loop is None else int(loop.extent)
        self._pieces = next((n * self._cores for n in _PIECES if extent % (n * self._cores) == 0), 0)
        self._pieces = self._pieces or min(extent, _PIECES[0] * self._cores)
        self._kept = declare("kept_sums", (self._pieces, 2, self._blocks, self._lanes), SUMMED)
        self._tiles = Tiles(self._result, self._piece)
        body = self._tiles.keep(root.body, self._make_sums, self._kept)
        body = structural_map(body, (BufferStore, self._store))
        body = structural_map(body, (SBlockRealize, self._name_piece))
        if loop is None:
            body = make_sequence([self._zero(), body])
            body = tirx.For(self._piece, self._index(0), self._index(1), tirx.ForKind.SERIAL, body)
        else:
            body = structural_map(body, (For, self._cut))
        end = dict(zip(self._form.module["main"].params, self._params, strict=True))
        finish = _replace_buffers(self._form.finish, end)
        body = make_sequence([body, self._total(), finish])
        buffers = [*root.alloc_buffers, *self._tiles.buffers, self._kept, self._form.sums]
        made = SBlock([], [], [], "root", body, None, buffers)
        function = tirx.PrimFunc(
            self._params, SBlockRealize([], tirx.const(True, "bool"), made), self._scheduled.ret_type
        )
        return function.with_attr(dict(self._form.module["main"].attrs.items()))

    def _index_dtype(self) -> str:
        """The dtype of the indices of the program."""
        from tvm.tirx import BufferStore
        from tvm_ffi import structural_walk

        found: list[str] = []

        def see(node: BufferStore) -> None:
            if node.buffer.same_as(self._result):
                found.append(str(node.indices[0].ty.dtype))

        structural_walk(self._scheduled.body, ((BufferStore, see),))
        if not found:
            raise FormError("a program with sums stores its result as an image in blocks")
        return found[0]

    def _find_parallel(self, body: Stmt) -> For | None:
        """The parallel loop that stores the result; None: nothing runs in parallel."""
        from tvm import tirx
        from tvm.tirx import For
        from tvm_ffi import structural_walk

        loops: list[For] = []

        def see(node: For) -> None:
            if node.kind == tirx.ForKind.PARALLEL and self._stores(node.body):
                loops.append(node)

        structural_walk(body, ((For, see),))
        if len(loops) > 1:
            raise FormError("a program with sums stores its result in one parallel loop")
        return loops[0] if loops else None

    def _stores(self, body: Stmt) -> bool:
        """Whether a statement stores the result."""
        from tvm.tirx import BufferStore
        from tvm_ffi import structural_walk

        found: list[BufferStore] = []

        def see(node: BufferStore) -> None:
            if node.buffer.same_as(self._result):
                found.append(node)

        structural_walk(body, ((BufferStore, see),))
        return bool(found)

    def _store(self, node: BufferStore) -> Stmt:
        """A store of the result, and what adds the number to both sums."""
        if not node.buffer.same_as(self._result) or self._tiles.has(node):
            return node
        _, block, _, _, lane = node.indices
        return self._make_sums(node, lambda place: (self._kept, [self._piece, self._index(place), block, lane]))

    def _make_sums(self, node: BufferStore, find: Callable[[int], tuple[Var, list[Expr]]]) -> Stmt:
        """A store, and what adds its number to both sums.

        Args:
            node: stores a number of the result.
            find: gives the buffer of a sum, and the place of the sum in it.
        """
        if self._reads_result(node):
            raise FormError("a program with sums stores each number of its result once")
        indices = list(node.indices)
        _, block, _, _, lane = indices
        kind = str(find(0)[0].ty.dtype)
        number = load(self._result, indices).astype(kind)
        factor = number
        if self._operands is not None:
            image, mean = self._operands
            own = load(mean, [block * self._lanes + lane])
            factor = (load(image, indices) - own).astype(kind)
        statements: list[Stmt] = [node]
        for place, term in ((0, number), (1, number * factor)):
            buffer, at = find(place)
            statements.append(store(buffer, load(buffer, at) + term, at))
        return make_sequence(statements)

    def _reads_result(self, node: BufferStore) -> bool:
        """Whether a store adds to the result, instead of storing a finished number."""
        from tvm.ir import TensorLoad
        from tvm_ffi import structural_walk

        found: list[TensorLoad] = []

        def see(read: TensorLoad) -> None:
            if read.source.same_as(self._result):
                found.append(read)

        structural_walk(node.value, ((TensorLoad, see),))
        return bool(found)

    def _name_piece(self, node: SBlockRealize) -> SBlockRealize:
        """A block that adds to the sums, with an iterator for the piece: a block uses no loops around it."""
        from tvm import ir, tirx
        from tvm.ir import Var as Variable
        from tvm.s_tir import SBlockRealize
        from tvm_ffi import structural_map

        old = node.block
        if not old.iter_vars or not self._stores(old.body) or self._tiles.wraps(old):
            return node
        extent = ir.Range(self._index(0), self._index(self._pieces))
        axis = tirx.IterVar(extent, tirx.Var("v_piece", self._dtype), 0)

        def named(variable: Var) -> Var:
            return axis.var if variable.same_as(self._piece) else variable

        body = structural_map(old.body, (Variable, named))
        return SBlockRealize([*node.iter_values, self._piece], node.predicate, replace_body(old, body, [axis]))

    def _cut(self, node: For) -> Stmt:
        """The parallel loop, cut into pieces.

        Each piece has the iterations from ``piece * extent // pieces`` on.
        """
        from tvm import tirx
        from tvm_ffi import structural_map

        if node.kind != tirx.ForKind.PARALLEL or not self._stores(node.body):
            return node
        extent, pieces = int(node.extent), self._pieces
        each = -(-extent // pieces)
        inner = tirx.Var("piece", self._dtype)
        first, last = self._piece * each, None
        if extent % pieces:
            first = tirx.floordiv(self._piece * extent, self._index(pieces))
            last = tirx.floordiv((self._piece + 1) * extent, self._index(pieces))
        place = first + inner

        def moved(variable: Var) -> Expr:
            return place.astype(str(variable.ty.dtype)) if variable.same_as(node.loop_var) else variable

        from tvm.ir import Var as Variable

        body = structural_map(node.body, (Variable, moved))
        if last is not None:
            body = tirx.IfThenElse(place < last, body, None)
        body = tirx.For(inner, self._index(0), self._index(each), tirx.ForKind.SERIAL, body)
        body = make_sequence([self._zero(), body])
        return tirx.For(self._piece, self._index(0), self._index(pieces), tirx.ForKind.PARALLEL, body)

    def _zero(self) -> Stmt:
        """Begin the sums of a piece."""
        from tvm import tirx

        def clear(place: Expr, block: Expr, lane: Expr) -> Stmt:
            return store(self._kept, tirx.const(0.0, SUMMED), [self._piece, place, block, lane])

        return self._each(clear)

    def _total(self) -> Stmt:
        """Add up the sums of all pieces."""

        def add(place: Expr, block: Expr, lane: Expr) -> Stmt:
            total: Expr = load(self._kept, [self._index(0), place, block, lane])
            for piece in range(1, self._pieces):
                total = total + load(self._kept, [self._index(piece), place, block, lane])
            return store(self._form.sums, total, [place, block, lane])

        return self._each(add)

    def _each(self, write: Callable[[Expr, Expr, Expr], Stmt]) -> Stmt:
        """A statement for both sums of each block, vectorised over its lanes."""
        from tvm import tirx

        place, block, lane = (tirx.Var(name, self._dtype) for name in ("place", "block", "lane"))
        body = write(place, block, lane)
        kinds: Sequence[tuple[Var, int, object]] = (
            (lane, self._lanes, tirx.ForKind.VECTORIZED if self._lanes > 1 else tirx.ForKind.SERIAL),
            (block, self._blocks, tirx.ForKind.SERIAL),
            (place, 2, tirx.ForKind.SERIAL),
        )
        for variable, extent, kind in kinds:
            body = tirx.For(variable, self._index(0), self._index(extent), kind, body)
        return body

    def _index(self, value: int) -> Expr:
        from tvm import tirx

        return tirx.const(value, self._dtype)


def _replace_buffers(body: Stmt, given: dict[Var, Var]) -> Stmt:
    """The statement on other buffers."""
    from tvm.ir import Var
    from tvm_ffi import structural_map

    def moved(node: Var) -> Var:
        return given.get(node, node)

    replaced: Stmt = structural_map(body, (Var, moved))
    return replaced
