"""Programs as abstract syntax trees, for graph networks (Tomczak et al., arXiv 1904.11876).

FOR ── FOR ── ... ── FOR ── STORE ── ADD ─┬─ LOAD (the accumulator)
 │      │             │       │           └─ MUL ─┬─ LOAD ── TERM ── VAR
VAR    VAR           VAR     TERM ── VAR          └─ LOAD ── TERM ── VAR

An index is a sum of terms Var x Const. Each term is a node, which carries the stride. A loop and all terms that use its
variable share one node of the variable, which links loops and accesses.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import KnobTable, Programs
from tilewright.space.loop_nest import Annotation, LoopNest

__all__ = ["NUMBERS", "AstGraph", "NodeKind", "Number", "ast_graph", "knob_graph", "make_graph"]

Floats = NDArray[np.float32]


class NodeKind(enum.IntEnum):
    """The kind of a node of the syntax tree."""

    ROOT = 0  # of several nests one after the other, or of all knobs
    FOR = 1
    VAR = 2
    LOAD = 3
    STORE = 4
    TERM = 5  # Var x Const in an index
    ADD = 6
    MUL = 7
    OTHER = 8  # any other operation
    CONST = 9
    KNOB = 10


class Number(enum.IntEnum):
    """The columns of :attr:`AstGraph.numbers`, which are zero at nodes of other kinds than these:

    - EXTENT: log2 of the trip count (FOR, VAR)
    - SERIAL to UNROLLED: the annotation, one-hot (FOR)
    - OUTER: log2 of the number of times that the loop is entered (FOR)
    - INNER: log2 of the iterations of the loop and those inside it (FOR)
    - STRIDE: log2(1 + |x|) with the sign of x, in elements (TERM)
    - TOUCHED: log2(1 + bytes) at the loop, of one buffer (TERM) or of all (FOR), or in the whole nest (LOAD, STORE)
    - REUSE: log2(1 + x) (TERM, LOAD, STORE)
    - VALUE: log2(1 + x) of the number of such operations in an innermost iteration (ADD, MUL, OTHER), or the number
      itself (CONST)
    """

    EXTENT = 0
    SERIAL = 1
    PARALLEL = 2
    VECTORIZED = 3
    UNROLLED = 4
    OUTER = 5
    INNER = 6
    STRIDE = 7
    TOUCHED = 8
    REUSE = 9
    VALUE = 10


#: The number of columns of the nodes of a program.
NUMBERS = len(Number)


@dataclass(frozen=True)
class AstGraph:
    """The syntax trees of ``n`` programs, as parts of one graph of ``N`` nodes.

    The tree of a program is the part of the graph between the nodes that are present in the program. Loops of one
    iteration are no nodes, nor are their variables and terms.

    Attributes:
        kinds: ``(N,)`` int8, values of :class:`NodeKind`.
        edges: ``(2, E)`` int64, parents and children.
        numbers: ``(n, N, F)`` float32 with the columns of :class:`Number`; zero at absent nodes. The graph of knobs has
            further columns (:func:`knob_graph`).
        present: ``(n, N)`` bool, whether each program has each node.
        extra: ``(n, E)`` float32, the template's own numbers of the whole program (``LoopNest.extra``); E may be 0.
    """

    kinds: NDArray[np.int8]
    edges: NDArray[np.int64]
    numbers: Floats
    present: NDArray[np.bool_]
    extra: Floats

    def __len__(self) -> int:
        return len(self.numbers)


def make_graph(programs: Programs) -> AstGraph:
    """The syntax trees of loop nests, or the graph of knobs."""
    return knob_graph(programs) if isinstance(programs, KnobTable) else ast_graph(programs)


def knob_graph(table: KnobTable) -> AstGraph:
    """The graph of programs that are known only by their knobs: a root with a child for each knob.

    The nodes have ``NUMBERS + knobs`` columns. The value of each knob has a column of its own. Otherwise a network that
    treats all nodes alike could not tell the knobs apart.
    """
    count, width = table.values.shape
    numbers = np.zeros((count, 1 + width, NUMBERS + width), dtype=np.float32)
    knobs = np.arange(width)
    numbers[:, 1 + knobs, NUMBERS + knobs] = table.values
    return AstGraph(
        kinds=np.asarray([NodeKind.ROOT] + [NodeKind.KNOB] * width, dtype=np.int8),
        edges=np.stack([np.zeros(width, dtype=np.int64), 1 + knobs]),
        numbers=numbers,
        present=np.ones((count, 1 + width), dtype=np.bool_),
        extra=np.empty((count, 0), dtype=np.float32),
    )


def ast_graph(nest: LoopNest) -> AstGraph:
    """The syntax trees of ``n`` loop nests in closed form. The last buffer is the accumulator.

    Loops of more than one iteration get the innermost places of the chain. So neighbours in a program are neighbours in
    the graph, and the statement is always below the last place. Nodes that no program has are left out.
    """
    here = nest.extents > 1
    depth = int(here.sum(axis=1).max(initial=0))
    loops = np.argsort(here, axis=1, kind="stable")[:, here.shape[1] - depth :]
    here = np.take_along_axis(here, loops, axis=1)
    by_access = loops[:, None]
    strides = np.take_along_axis(nest.strides, by_access, axis=2) * here[:, None]
    moves = strides != 0
    other = nest.arithmetic[:, 2] > 0
    buffers = len(nest.buffers)
    kinds, edges, used = _structure(depth, buffers, moves.any(axis=0), bool(other.any()))
    numbers = np.zeros((len(nest), len(kinds), NUMBERS), dtype=np.float32)
    present = np.ones((len(nest), len(kinds)), dtype=np.bool_)
    if buffers > 0 and depth > 0:
        touched = np.take_along_axis(nest.touched, by_access, axis=2)
        _fill_loops(numbers[:, : 2 * depth], nest, loops, here, touched.sum(axis=1))
        terms = numbers[:, len(kinds) - len(used) :]
        some = moves.reshape(len(nest), -1)[:, used]
        stride = strides.reshape(len(nest), -1)[:, used]
        terms[:, :, Number.STRIDE] = np.copysign(_log(np.abs(stride)), stride)
        terms[:, :, Number.TOUCHED] = _log(touched.reshape(len(nest), -1)[:, used]) * some
        reuse = np.take_along_axis(nest.reuse, by_access, axis=2)
        terms[:, :, Number.REUSE] = _log(reuse.reshape(len(nest), -1)[:, used]) * some
        present[:, :depth] = present[:, depth : 2 * depth] = here
        present[:, len(kinds) - len(used) :] = some
    _fill_statement(numbers, present, nest, kinds, 2 * depth)
    return AstGraph(kinds, edges, numbers, present, np.asarray(nest.extra, dtype=np.float32))


def _structure(
    depth: int, buffers: int, moves: NDArray[np.bool_], other: bool
) -> tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.intp]]:
    """The nodes, in the order loops, variables, store, loads (the accumulator first), arithmetic, terms.

    Args:
        depth: the number of loops.
        buffers: the number of buffers.
        moves: ``(buffers, depth)`` which terms exist.
        other: whether there are operations besides additions and multiplications.

    Returns:
        the kinds, the edges, and the flat place of each term in ``moves``.
    """
    used = np.flatnonzero(moves)
    store = 2 * depth
    loads = store + 1 + np.asarray([*range(1, buffers), 0], dtype=np.int64)
    add = store + 1 + buffers
    product = buffers > 2
    kinds = [NodeKind.FOR] * depth + [NodeKind.VAR] * depth + [NodeKind.STORE] + [NodeKind.LOAD] * buffers
    kinds += [NodeKind.ADD] + [NodeKind.MUL] * product + [NodeKind.OTHER] * other
    edges = [(loop, loop + 1) for loop in range(depth - 1)]
    edges += [(loop, depth + loop) for loop in range(depth)] + [(depth - 1, store)] * (depth > 0)
    edges += [(store, add)] + [(add, int(loads[-1]))] * (buffers > 0) + [(add, add + 1)] * product
    edges += [(add + 1 if product else add, int(load)) for load in loads[:-1]]
    edges += [(add, add + 1 + product)] * other
    for term, place in enumerate(used.tolist(), start=len(kinds)):
        buffer, loop = divmod(place, depth)
        # The store and the load of the accumulator share one index.
        edges += [(int(loads[buffer]), term)] + [(store, term)] * (buffer == buffers - 1) + [(term, depth + loop)]
    kinds += [NodeKind.TERM] * len(used)
    return np.asarray(kinds, dtype=np.int8), np.asarray(edges, dtype=np.int64).reshape(-1, 2).T.copy(), used


def _fill_loops(out: Floats, nest: LoopNest, loops: NDArray[np.intp], here: NDArray[np.bool_], touched: Floats) -> None:
    depth = loops.shape[1]
    extents = np.log2(np.where(here, np.take_along_axis(nest.extents, loops, axis=1), np.float32(1.0)))
    kinds = np.take_along_axis(nest.annotations, loops, axis=1)
    for kind in Annotation:
        out[:, :depth, Number.SERIAL + kind] = (kinds == kind) & here
    outer = np.cumsum(extents, axis=1)
    inner = outer[:, -1:] - outer + extents
    for column, values in (
        (Number.EXTENT, extents),
        (Number.OUTER, outer - extents),
        (Number.INNER, inner),
        (Number.TOUCHED, _log(touched)),
    ):
        out[:, :depth, column] = values * here
    out[:, depth:, Number.EXTENT] = extents


def _fill_statement(
    numbers: Floats, present: NDArray[np.bool_], nest: LoopNest, kinds: NDArray[np.int8], store: int
) -> None:
    buffers = len(nest.buffers)
    if buffers > 0 and nest.touched.shape[2] > 0:
        for node, buffer in ((store, -1), *((store + 1 + i, i - 1) for i in range(buffers))):
            numbers[:, node, Number.TOUCHED] = _log(nest.touched[:, buffer, 0])
            numbers[:, node, Number.REUSE] = _log(nest.reuse[:, buffer, 0])
    for column, kind in enumerate((NodeKind.ADD, NodeKind.MUL, NodeKind.OTHER)):
        for node in np.flatnonzero(kinds == kind).tolist():
            numbers[:, node, Number.VALUE] = _log(nest.arithmetic[:, column])
            if kind == NodeKind.OTHER:
                present[:, node] = nest.arithmetic[:, column] > 0


def _log(values: Floats) -> Floats:
    """log2(1 + x)."""
    logarithm: Floats = np.log2(values + np.float32(1.0))
    return logarithm
