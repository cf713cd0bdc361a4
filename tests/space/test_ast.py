"""The syntax tree in closed form is that of the lowered program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.space.test_contraction import some, space
from tests.space.test_grouped_contraction import space as grouped
from tilewright.cost.ast_graph import AstGraph, NodeKind, Number, ast_graph
from tilewright.space.ast import program_graph
from tilewright.space.configs import sample

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


def paths(graph: AstGraph, row: int) -> list[int]:
    return np.bincount(graph.kinds[graph.present[row]], minlength=len(NodeKind)).tolist()


@pytest.mark.parametrize("name", [*CONTRACTIONS, *GROUPED])
def test_closed_form_is_the_tree_of_the_program(name: str) -> None:
    if name in GROUPED:
        here = grouped(name)
        configs = np.concatenate([here.default()[None], sample(here, np.random.default_rng(0), 8)])
    else:
        here, configs = space(name), some(name, 8)
    closed = ast_graph(here.loop_nest(configs))
    for row, config in enumerate(configs):
        program = program_graph(here.schedule(config).mod["main"], main=True)
        assert tree(closed, row) == tree(program, 0), config
        assert paths(closed, row) == paths(program, 0)
