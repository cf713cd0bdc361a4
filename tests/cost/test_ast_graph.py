from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.cost.test_features import nest
from tests.toys import TableSpace
from tilewright.cost.ast_graph import NUMBERS, AstGraph, NodeKind, Number, ast_graph, knob_graph, make_graph
from tilewright.cost.model import KnobTable, take_rows
from tilewright.space.configs import sample
from tilewright.space.loop_nest import LoopNest


def nodes(graph: AstGraph, kind: NodeKind) -> list[int]:
    found: list[int] = np.flatnonzero(graph.kinds == kind).tolist()
    return found


def children(graph: AstGraph, node: int) -> set[int]:
    return {b for a, b in graph.edges.T.tolist() if a == node}


def log1(value: float) -> float:
    return float(np.log2(np.float32(1 + value)))


def test_a_small_program_node_by_node() -> None:
    """for i in parallel(4): for j in vectorized(8): B[-j] = B[-j] + A[i, j]."""
    graph = ast_graph(nest())
    outer, inner = nodes(graph, NodeKind.FOR)
    i, j = nodes(graph, NodeKind.VAR)
    (store,), (add,) = nodes(graph, NodeKind.STORE), nodes(graph, NodeKind.ADD)
    result, data = nodes(graph, NodeKind.LOAD)
    assert nodes(graph, NodeKind.MUL) == []  # one factor is no product
    assert children(graph, outer) == {inner, i}
    assert children(graph, inner) == {store, j}
    assert children(graph, add) == {result, data}
    index = children(graph, result)
    assert children(graph, store) == {add, *index}
    assert {b for term in index for b in children(graph, term)} == {j}
    assert {b for term in children(graph, data) for b in children(graph, term)} == {i, j}
    assert graph.present.all()

    numbers = graph.numbers[0]
    assert numbers.shape == (len(graph.kinds), NUMBERS)
    assert numbers.dtype == np.float32
    kinds = [0, 1, 0, 0], [0, 0, 1, 0]
    assert numbers[outer].tolist() == [2, *kinds[0], 0, 5, 0, log1(160), 0, 0]
    assert numbers[inner].tolist() == [3, *kinds[1], 2, 3, 0, log1(64), 0, 0]
    assert numbers[[i, j], Number.EXTENT].tolist() == [2, 3]
    assert numbers[add, Number.VALUE] == 1
    (term,) = index
    assert numbers[term, [Number.STRIDE, Number.TOUCHED, Number.REUSE]].tolist() == [-1, log1(32), 1]
    assert numbers[result, [Number.TOUCHED, Number.REUSE]].tolist() == pytest.approx([log1(32), log1(4)])
    assert (graph.extra == nest().extra).all()


def test_loops_of_one_iteration_are_absent_and_their_neighbours_adjacent() -> None:
    whole = nest()
    middle: dict[str, Any] = {
        name: np.insert(getattr(whole, name), 1, 7, axis=2) for name in ("touched", "strides", "reuse")
    }
    with_one = dataclasses.replace(
        whole,
        axis=np.asarray([[0, 1, 1]], dtype=np.int8),
        extents=np.asarray([[4, 1, 8]], dtype=np.float32),
        annotations=np.asarray([[1, 3, 2]], dtype=np.int8),
        **middle,
    )
    for field in dataclasses.fields(AstGraph):
        assert np.array_equal(getattr(ast_graph(whole), field.name), getattr(ast_graph(with_one), field.name))


def test_absent_nodes_have_no_numbers_and_no_program_of_its_own_has_any() -> None:
    space = TableSpace()
    programs = space.loop_nest(sample(space, np.random.default_rng(0), 300))
    graph = ast_graph(programs)
    assert np.isfinite(graph.numbers).all()
    assert not graph.present.all()
    assert (graph.numbers[~graph.present] == 0).all()
    loops = np.isin(graph.kinds, [NodeKind.FOR])
    assert (graph.present[:, loops].sum(axis=1) == (programs.extents > 1).sum(axis=1)).all()
    for row in range(20):
        alone = ast_graph(one(programs, row))
        assert alone.present.all()
        assert (alone.kinds == graph.kinds[graph.present[row]]).all()
        assert (alone.numbers[0] == graph.numbers[row, graph.present[row]]).all()
        number = np.cumsum(graph.present[row]) - 1
        kept = graph.edges[:, graph.present[row][graph.edges].all(axis=0)]
        assert sorted(number[kept].T.tolist()) == sorted(alone.edges.T.tolist())


def one(programs: LoopNest, row: int) -> LoopNest:
    chosen = take_rows(programs, slice(row, row + 1))
    assert isinstance(chosen, LoopNest)
    return chosen


def test_a_program_without_loops_is_a_statement() -> None:
    flat = dataclasses.replace(nest(), extents=np.ones((1, 2), dtype=np.float32))
    graph = ast_graph(flat)
    assert graph.kinds.tolist() == [NodeKind.STORE, NodeKind.LOAD, NodeKind.LOAD, NodeKind.ADD]
    assert len(ast_graph(rows_of_nothing())) == 0


def rows_of_nothing() -> LoopNest:
    empty = take_rows(nest(), slice(0, 0))
    assert isinstance(empty, LoopNest)
    return empty


def test_other_arithmetic_is_a_node_of_those_that_have_it() -> None:
    programs = take_rows(nest(), np.asarray([0, 0]))
    assert isinstance(programs, LoopNest)
    programs.arithmetic[1, 2] = 3
    graph = ast_graph(programs)
    (other,) = nodes(graph, NodeKind.OTHER)
    assert graph.present[:, other].tolist() == [False, True]
    assert graph.numbers[:, other, Number.VALUE].tolist() == [0, 2]


def test_knobs_are_children_of_a_root() -> None:
    table = KnobTable(np.asarray([[3.0, 5.0], [7.0, 9.0]], dtype=np.float32))
    graph = make_graph(table)
    assert graph.kinds.tolist() == [NodeKind.ROOT, NodeKind.KNOB, NodeKind.KNOB]
    assert graph.edges.tolist() == [[0, 0], [1, 2]]
    assert graph.numbers.shape == (2, 3, NUMBERS + 2)
    assert graph.numbers[1, 1].tolist() == [0.0] * NUMBERS + [7, 0]
    assert graph.numbers[1, 2].tolist() == [0.0] * NUMBERS + [0, 9]
    assert len(knob_graph(KnobTable(table.values[:0]))) == 0
    chosen = take_rows(table, np.asarray([1]))
    assert isinstance(chosen, KnobTable)
    assert chosen.values.tolist() == [[7, 9]]
