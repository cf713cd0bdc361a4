"""The syntax tree of a TIR program as the graph that cost models see (Tomczak et al., arXiv 1904.11876)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tilewright.cost.ast_graph import NUMBERS, AstGraph, NodeKind, Number
from tilewright.space.ast_walk import Access, Loop, Statement, statements

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

__all__ = ["program_graph"]


def program_graph(function: PrimFunc, *, main: bool = False) -> AstGraph:
    """The syntax tree of a scheduled or lowered function, as a graph of one program.

    A fused loop is shown as the loops it was fused of, as far as the indices tell. Loops of one iteration are left out,
    and so are guards and the conditions of selections. Of an index that is not affine (no sum of loop variables times
    constants), only the affine part is shown.

    Args:
        function: with or without blocks; vectors may be loops or ramps.
        main: show only the store that runs most often, and the loops around it. This is the tree that
            ``tilewright.cost.ast_graph.ast_graph`` has in closed form.
    """
    found = statements(function)
    if main and found:
        found = [max(found, key=lambda s: (math.prod(loop.extent for loop in s.loops), len(s.accesses)))]
    builder = _Builder()
    for statement in found:
        builder.add(statement)
    return builder.graph()


class _Builder:
    def __init__(self) -> None:
        self._kinds: list[NodeKind] = []
        self._rows: list[list[float]] = []
        self._edges: dict[tuple[int, int], None] = {}
        self._loops: dict[tuple[int, int], int] = {}  # by loop and which part of it
        self._variables: dict[int, int] = {}  # by node of the loop
        self._tops: dict[int, None] = {}
        self._bytes: dict[int, float] = {}  # by node of the loop, of all accesses

    def graph(self) -> AstGraph:
        for loop, touched in self._bytes.items():
            self._rows[loop][Number.TOUCHED] = math.log2(1 + touched)
        if len(self._tops) > 1:
            root = self._node(NodeKind.ROOT)
            for top in self._tops:
                self._edge(root, top)
        numbers = np.asarray(self._rows, dtype=np.float32).reshape(1, -1, NUMBERS)
        return AstGraph(
            kinds=np.asarray(self._kinds, dtype=np.int8),
            edges=np.asarray(list(self._edges), dtype=np.int64).reshape(-1, 2).T.copy(),
            numbers=numbers,
            present=np.ones(numbers.shape[:2], dtype=np.bool_),
            extra=np.empty((1, 0), dtype=np.float32),
        )

    def add(self, statement: Statement) -> None:
        """Add a store, the expression it stores, and those loops around it that the graph lacks."""
        parts = [(loop, number) for loop in statement.loops for number in range(len(loop.parts()))]
        extents = [loop.parts()[number][1] for loop, number in parts]
        nodes = self._chain(parts, extents)
        self._terms: dict[tuple[object, ...], list[int]] = {}
        children: list[int] = []
        for kind, value, inputs in statement.operations:
            if isinstance(value, Access):
                children.append(self._access(kind, value, parts, extents, nodes))
            else:
                node = self._node(kind)
                counted = kind in (NodeKind.ADD, NodeKind.MUL, NodeKind.OTHER)
                self._rows[node][Number.VALUE] = 1.0 if counted else value  # log2(1 + one of them)
                children.append(node)
            for child in inputs:
                self._edge(children[-1], children[child])
        (self._edge(nodes[-1], children[-1]) if nodes else self._tops.setdefault(children[-1]))

    def _chain(self, parts: list[tuple[Loop, int]], extents: list[int]) -> list[int]:
        nodes: list[int] = []
        for place, (loop, number) in enumerate(parts):
            key = (id(loop), number)
            if key not in self._loops:
                self._loops[key] = node = self._node(NodeKind.FOR)
                row = self._rows[node]
                row[Number.EXTENT] = math.log2(extents[place])
                row[Number.SERIAL + loop.annotation] = 1.0
                row[Number.OUTER] = sum(math.log2(e) for e in extents[:place])
                self._variables[node] = variable = self._node(NodeKind.VAR)
                self._rows[variable][Number.EXTENT] = row[Number.EXTENT]
                self._edge(node, variable)
                (self._edge(nodes[-1], node) if nodes else self._tops.setdefault(node))
            node = self._loops[key]
            inner = sum(math.log2(e) for e in extents[place:])
            self._rows[node][Number.INNER] = max(inner, self._rows[node][Number.INNER])
            nodes.append(node)
        return nodes

    def _access(
        self, kind: NodeKind, access: Access, parts: list[tuple[Loop, int]], extents: list[int], nodes: list[int]
    ) -> int:
        """The node of a load or store, with the terms of its index. Equal indices of one buffer share their terms."""
        dims = [[_coefficient(dim, loop, number) for loop, number in parts] for dim in access.dims]
        node = self._node(kind)
        touched = [access.itemsize * _elements(dims, access.shape, extents, place) for place in range(len(parts))]
        reuse = [math.prod(extents[i:]) * access.itemsize / touched[i] for i in range(len(parts))]
        whole = touched[0] if parts else access.itemsize
        self._rows[node][Number.TOUCHED] = math.log2(1 + whole)
        self._rows[node][Number.REUSE] = math.log2(1 + (reuse[0] if parts else 1.0))
        key = (access.buffer, *(tuple(dim) for dim in dims))
        if key not in self._terms:
            self._terms[key] = []
            for place, loop in enumerate(nodes):
                self._bytes[loop] = self._bytes.get(loop, 0.0) + touched[place]
                sizes = [math.prod(access.shape[i + 1 :]) for i in range(len(dims))]
                stride = sum(dim[place] * size for dim, size in zip(dims, sizes, strict=True))
                if stride == 0:
                    continue
                term = self._node(NodeKind.TERM)
                self._terms[key].append(term)
                row = self._rows[term]
                row[Number.STRIDE] = math.copysign(math.log2(1 + abs(stride)), stride)
                row[Number.TOUCHED] = math.log2(1 + touched[place])
                row[Number.REUSE] = math.log2(1 + reuse[place])
                self._edge(term, self._variables[loop])
        for term in self._terms[key]:
            self._edge(node, term)
        return node

    def _node(self, kind: NodeKind) -> int:
        self._kinds.append(kind)
        self._rows.append([0.0] * NUMBERS)
        return len(self._kinds) - 1

    def _edge(self, parent: int, child: int) -> None:
        self._edges[parent, child] = None


def _coefficient(dim: list[tuple[Loop, int, int, int]], loop: Loop, number: int) -> int:
    """The distance that an index moves in one iteration of a part of a loop."""
    step, extent = loop.parts()[number]
    return sum(
        scale * (step // lower)
        for source, lower, length, scale in dim
        if source is loop and lower <= step and step * extent <= lower * length
    )


def _elements(dims: list[list[int]], shape: tuple[int, ...], extents: list[int], place: int) -> float:
    """Distinct elements that the loops from ``place`` inwards touch."""
    total = 1.0
    for dim, size in zip(dims, shape, strict=True):
        moves = [(abs(c), e) for c, e in zip(dim[place:], extents[place:], strict=True) if c != 0]
        # A stride wider than the kernel leaves gaps. Then the loops touch at most one element in each iteration.
        reach = 1 + sum(c * (e - 1) for c, e in moves)
        total *= min(reach, math.prod(e for _, e in moves), size)
    return total
