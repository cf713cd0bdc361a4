"""The syntax tree in closed form is that of the lowered program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ops.contraction.test_grouped import space as grouped
from tests.ops.contraction.test_space import some, space
from tilewright.cost.ast_graph import AstGraph, NodeKind, Number, ast_graph
from tilewright.space.ast import program_graph
from tilewright.space.configs import sample
from tilewright.space.loop_nest import Annotation

CONTRACTIONS = (
    "3x3 on 13x13",
    "3x3 on 55x55",
    "1x1 on 14x14",
    "7x7 image",
    "asymmetric",
    "dense 5",
    "matmul",
    "products",
)
GROUPED = ("groups of blocks", "depthwise", "depthwise, channels last", "depthwise 5x5")
LOOP = (Number.EXTENT, Number.SERIAL, Number.PARALLEL, Number.VECTORIZED, Number.UNROLLED, Number.OUTER, Number.INNER)


def tree(graph: AstGraph, row: int, node: int | None = None) -> Any:
    """A program as nested tuples, read from the edges between the nodes that are present."""
    present = np.flatnonzero(graph.present[row])
    edges = [(a, b) for a, b in graph.edges.T.tolist() if a in present and b in present]
    if node is None:
        (node,) = set(present.tolist()) - {b for _, b in edges}
    kind, numbers = NodeKind(graph.kinds[node]), graph.numbers[row, node]
    about = [round(float(numbers[i]), 3) for i in LOOP] if kind == NodeKind.FOR else []
    about += [round(float(numbers[Number.STRIDE]), 3)] if kind == NodeKind.TERM else []
    # A variable is known by the loop that it is shared with.
    names = [a for a, b in edges if b == node and graph.kinds[a] == NodeKind.FOR] if kind == NodeKind.VAR else []
    about += [round(float(graph.numbers[row, a, Number.OUTER]), 3) for a in names]
    children = sorted((tree(graph, row, b) for a, b in edges if a == node), key=str)
    return (kind.name, *about, *children)


def counts(graph: AstGraph, row: int) -> list[int]:
    """How many nodes there are of each kind: the tree does not show which are shared."""
    found: list[int] = np.bincount(graph.kinds[graph.present[row]], minlength=len(NodeKind)).tolist()
    return found


@pytest.mark.parametrize("name", [*CONTRACTIONS, *GROUPED])
def test_closed_form_is_the_tree_of_the_program(name: str) -> None:
    if name in GROUPED:
        here = grouped(name)
        configs = np.concatenate([here.default()[None], sample(here, np.random.default_rng(0), 4)])
    else:
        here, configs = space(name), some(name, 4)
    closed = ast_graph(here.loop_nest(configs))
    for row, config in enumerate(configs):
        program = program_graph(here.schedule(config).mod["main"], main=True)
        assert tree(closed, row) == tree(program, 0), config
        assert counts(closed, row) == counts(program, 0)


def test_touched_and_reuse_are_the_closed_forms() -> None:
    here, configs = space("1x1 plain"), some("1x1 plain", 8)
    closed = ast_graph(here.loop_nest(configs))
    columns = [Number.STRIDE, Number.TOUCHED, Number.REUSE]
    for row, config in enumerate(configs):
        program = program_graph(here.schedule(config).mod["main"], main=True)
        for kind in (NodeKind.TERM, NodeKind.LOAD, NodeKind.STORE, NodeKind.FOR, NodeKind.ADD, NodeKind.MUL):
            claimed = closed.numbers[row, (closed.kinds == kind) & closed.present[row]]
            found = program.numbers[0, program.kinds == kind]
            names = columns if kind == NodeKind.TERM else list(Number)
            assert in_order(claimed[:, names]) == pytest.approx(in_order(found[:, names]), abs=1e-4), (config, kind)


def in_order(rows: Any) -> Any:
    return np.asarray(sorted(np.round(rows, 4).tolist()))


def program(script: str) -> Any:
    """A TIR function: its body, of float32 buffers A, B and C of 64 elements."""
    from tvm.script import from_source

    lines = "\n".join(f"    {line}" for line in script.splitlines())
    buffers = ", ".join(f'{name}: T.Buffer((64,), "float32")' for name in "ABC")
    return from_source(f"@T.prim_func(s_tir=True)\ndef main({buffers}):\n{lines}")


def test_a_program_of_several_nests_has_a_root_and_shares_loops() -> None:
    graph = program_graph(
        program(
            "for i in T.serial(8):\n"
            "    A[i] = T.float32(3)\n"
            "    for j in T.vectorized(8):\n"
            "        B[i * 8 + j] = T.max(A[i], B[j] - A[0])\n"
            "for k in T.unroll(4):\n"
            "    C[k * 2] = A[k] * B[k]"
        )
    )
    root = tree(graph, 0)
    assert root[0] == "ROOT"
    assert counts(graph, 0) == [1, 3, 3, 5, 3, 8, 0, 1, 2, 1, 0]
    (constant,) = np.flatnonzero(graph.kinds == NodeKind.CONST)
    assert graph.numbers[0, constant, Number.VALUE] == 3
    strides = graph.numbers[0, graph.kinds == NodeKind.TERM, Number.STRIDE]
    assert sorted((2**strides - 1).round().tolist()) == [1, 1, 1, 1, 1, 1, 2, 8]


def test_fused_loops_are_taken_apart_and_lowered_vectors_read() -> None:
    fused = program_graph(
        program("for f in T.parallel(24):\n    C[f % 6 * 8 + f // 6] = A[f // 6]\n"),
    )
    loops = fused.numbers[0, fused.kinds == NodeKind.FOR]
    assert (2 ** loops[:, Number.EXTENT]).round().tolist() == [4, 6]
    assert (loops[:, Number.SERIAL + Annotation.PARALLEL] == 1).all()
    ramp = program_graph(program("for i in T.serial(8):\n    C[T.Ramp(i * 8, 1, 8)] = A[T.Ramp(i * 8, 1, 8)]"))
    assert counts(ramp, 0)[: NodeKind.TERM + 1] == [0, 1, 1, 1, 1, 2]


def test_an_index_that_is_not_affine_has_no_terms() -> None:
    graph = program_graph(program("for i in T.serial(8):\n    C[i * i] = A[i]"))
    assert counts(graph, 0)[: NodeKind.TERM + 1] == [0, 1, 1, 1, 1, 1]


def test_a_function_that_stores_nothing_has_no_nodes() -> None:
    assert len(program_graph(program("T.evaluate(0)")).kinds) == 0
