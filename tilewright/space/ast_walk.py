"""Reads the stores of a TIR program: their loops, their arithmetic, and how their indices depend on the loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tilewright.cost.ast_graph import NodeKind
from tilewright.space.loop_nest import Annotation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.ir import Expr, Var
    from tvm.tirx import BufferStore, PrimFunc, Stmt

__all__ = ["Access", "Loop", "Operation", "Statement", "statements"]


@dataclass(eq=False)
class Loop:
    """A loop of more than one iteration.

    Attributes:
        variable: the loop's variable in TIR.
        extent: trip count; 1 if it is not known.
        annotation: how the loop is executed.
        cuts: strides at which indices take the loop apart. If ``v // 6`` and ``v % 6`` occur, 6 is a cut.
    """

    variable: Var
    extent: int
    annotation: Annotation
    cuts: set[int] = field(default_factory=set)

    def parts(self) -> list[tuple[int, int]]:
        """Steps and extents of the loops that this loop was fused of, from outside in; its own if it was not fused."""
        cuts = sorted({1, *(c for c in self.cuts if 1 < c < self.extent), self.extent})
        if any(outer % inner for inner, outer in pairwise(cuts)):
            return [(1, self.extent)]
        return [(inner, outer // inner) for inner, outer in pairwise(cuts)][::-1] or [(1, 1)]


@dataclass(frozen=True)
class Access:
    """A load or store.

    Attributes:
        buffer: a number of the buffer's own.
        itemsize: bytes of an element.
        shape: of the buffer; an extent that is not known is 1.
        dims: for each dimension the terms of its index. The term ``(v // lower % length) * scale`` is the loop of
            ``v``, ``lower``, ``length`` and ``scale``.
    """

    buffer: int
    itemsize: int
    shape: tuple[int, ...]
    dims: tuple[list[tuple[Loop, int, int, int]], ...]


#: A node of an expression: its kind, its access or the value of a constant, and the numbers of its inputs.
Operation = tuple[NodeKind, "Access | float", list[int]]


@dataclass(frozen=True)
class Statement:
    """A store.

    Attributes:
        loops: around the store, from outside in.
        operations: the expression. Inputs come before the operations that use them; the store comes last.
    """

    loops: tuple[Loop, ...]
    operations: list[Operation]

    @property
    def accesses(self) -> list[Access]:
        """The loads, then the store."""
        return [value for _, value, _ in self.operations if isinstance(value, Access)]


def statements(function: PrimFunc) -> list[Statement]:
    """All stores of a function, in program order."""
    walk = _Walk()
    walk.visit(function.body, (), {})
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found: list[Statement] = []

    def visit(self, stmt: Stmt, loops: tuple[Loop, ...], values: dict[Var, Expr]) -> None:
        """Add the stores of a statement.

        Args:
            stmt: the statement.
            loops: the loops around it.
            values: of the iterators of blocks and of the variables of one-iteration loops, in terms of the loops'
                variables.
        """
        kind = type(stmt).__name__
        if kind == "For":
            self._loop(stmt, loops, values)
        elif kind == "SBlockRealize":
            block = stmt.block
            given = _replaced(list(stmt.iter_values), values)
            values = {**values, **{v.var: value for v, value in zip(block.iter_vars, given, strict=True)}}
            for body in (block.init, block.body):
                if body is not None:
                    self.visit(body, loops, values)
        elif kind == "SeqStmt":
            for part in stmt.seq:
                self.visit(part, loops, values)
        elif kind == "IfThenElse":
            for part in (stmt.then_case, stmt.else_case):
                if part is not None:
                    self.visit(part, loops, values)
        elif kind == "BufferStore":
            self.found.append(Statement(loops, _Expression(loops, values).store(stmt)))
        elif getattr(stmt, "body", None) is not None:  # attributes, allocations, while
            self.visit(stmt.body, loops, values)

    def _loop(self, stmt: Stmt, loops: tuple[Loop, ...], values: dict[Var, Expr]) -> None:
        extent = _integer(stmt.extent)
        if extent == 1:
            self.visit(stmt.body, loops, {**values, stmt.loop_var: _replaced([stmt.min], values)[0]})
            return
        kind = int(stmt.kind)
        annotation = Annotation(kind) if kind in list(Annotation) else Annotation.SERIAL
        self.visit(stmt.body, (*loops, Loop(stmt.loop_var, 1 if extent is None else extent, annotation)), values)


def _replaced(expressions: list[Expr], values: dict[Var, Expr]) -> list[Expr]:
    """The expressions with the values in place of the variables."""
    from tvm.tirx import IndexMap

    if not values or not expressions:
        return expressions
    return list(IndexMap(list(values), expressions, None).map_indices(list(values.values())))


class _Expression:
    def __init__(self, loops: tuple[Loop, ...], values: dict[Var, Expr]) -> None:
        from tvm.ir import Range
        from tvm.sym import Analyzer
        from tvm.tirx import const

        self._simplify = Analyzer().simplify
        self._loops = loops
        self._values = values
        self._ranges = {
            loop.variable: Range.from_min_extent(*(const(e, loop.variable.ty.dtype) for e in (0, loop.extent)))
            for loop in loops
        }
        self._operations: list[Operation] = []
        self._bound: dict[Var, list[int]] = {}

    def store(self, stmt: BufferStore) -> list[Operation]:
        inputs = self._visit(stmt.value)
        self._operations.append((NodeKind.STORE, self._access(stmt.buffer, stmt.indices), inputs))
        return self._operations

    def _visit(self, value: Expr) -> list[int]:
        """Add the nodes of an expression. Returns the number of its node, or nothing for what is left out."""
        kind = type(value).__name__
        if kind in ("Cast", "Broadcast"):
            return self._visit(value.value)
        if kind == "TensorLoad":
            return self._add(NodeKind.LOAD, self._access(value.source, value.indices), [])
        if kind in ("IntImm", "FloatImm"):
            return self._add(NodeKind.CONST, float(value.value), [])
        if kind == "Let":
            self._bound[value.var] = self._visit(value.value)
            return self._visit(value.body)
        if kind == "Var" and value in self._bound:
            return self._bound[value]
        if kind in ("Add", "Mul"):
            inputs = [*self._visit(value.a), *self._visit(value.b)]
            return self._add(NodeKind.ADD if kind == "Add" else NodeKind.MUL, 0.0, inputs)
        inputs = [number for child in _children(value) for number in self._visit(child)]
        # A variable or an address adds nothing to the cost of an expression.
        return self._add(NodeKind.OTHER, 0.0, inputs) if inputs else []

    def _add(self, kind: NodeKind, value: Access | float, inputs: list[int]) -> list[int]:
        self._operations.append((kind, value, inputs))
        return [len(self._operations) - 1]

    def _access(self, buffer: Var, indices: Sequence[Expr]) -> Access:
        import tvm

        shape = [_integer(s) or 1 for s in buffer.ty.shape]
        replaced = _replaced([_scalar(index) for index in indices], self._values)
        dims = [self._terms(index) for index in replaced]
        place = 0
        while place < len(dims) - 1:
            # A loop v over all pixels has the row v // 14 and the column v % 14. Together they lie at v.
            both = self._simplify(replaced[place] * shape[place + 1] + replaced[place + 1])
            terms, apart = self._terms(both), dims[place : place + 2]
            if None not in apart and (terms is None or len(terms) >= sum(len(dim or []) for dim in apart)):
                place += 1
                continue
            replaced[place : place + 2], dims[place : place + 2] = [both], [terms]
            shape[place : place + 2] = [shape[place] * shape[place + 1]]
        bits = int(tvm.DataType(str(buffer.ty.dtype)).bits)
        known = tuple([] if dim is None else dim for dim in dims)
        for loop, lower, length, _ in (term for dim in known for term in dim):
            loop.cuts |= {lower, lower * length}
        return Access(hash(buffer), max(1, bits // 8), tuple(shape), known)

    def _terms(self, index: Expr) -> list[tuple[Loop, int, int, int]] | None:
        """The terms of an index; None if the index is no sum of terms and a constant."""
        from tvm.sym import normalize_to_iter_sum

        normal = normalize_to_iter_sum(index, self._ranges)
        terms = []
        for split in normal.args:
            loop = next((loop for loop in self._loops if loop.variable.same_as(split.source.source)), None)
            lower, length, scale = (_integer(x) for x in (split.lower_factor, split.extent, split.scale))
            if loop is None or lower is None or length is None or scale is None:
                return None
            terms.append((loop, lower, length, scale))
        return terms if _integer(normal.base) is not None else None


def _scalar(index: Expr) -> Expr:
    """The first element of a vector of indices."""
    while type(index).__name__ in ("Ramp", "Broadcast"):
        index = index.base if type(index).__name__ == "Ramp" else index.value
    return index


def _children(value: Expr) -> list[Expr]:
    if type(value).__name__ == "Call":
        return list(value.args)
    names = ("true_value", "false_value") if type(value).__name__ == "Select" else ("a", "b")
    return [getattr(value, name) for name in names if hasattr(value, name)]


def _integer(value: object) -> int | None:
    number = getattr(value, "value", value)
    return number if isinstance(number, int) else None
