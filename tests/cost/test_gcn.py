from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import TableSpace
from tilewright.cost.ast_graph import ast_graph
from tilewright.cost.gcn import GCNModel
from tilewright.cost.model import KnobTable, take_rows
from tilewright.cost.models import load_model, save_model
from tilewright.cost.neural import Training
from tilewright.errors import TilewrightError
from tilewright.space.configs import sample
from tilewright.space.loop_nest import LoopNest

pytest.importorskip("torch_geometric")

POOLINGS: list[Any] = ["mean", "attention"]
BRIEF = Training(epochs=2, least_steps=0)


def programs(count: int, seed: int = 0) -> tuple[LoopNest, NDArray[np.float64]]:
    space = TableSpace()
    configs = sample(space, np.random.default_rng(seed), count)
    return space.loop_nest(configs), space.seconds(configs)


def fitted(count: int = 60, **parameters: Any) -> GCNModel:
    seen, seconds = programs(count)
    model = GCNModel(**{"training": BRIEF, "hidden": (8, 8), **parameters})
    model.fit([seen], [seconds])
    return model


def test_parameters_make_a_difference() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"loss": "regression"},
        {"pooling": "attention"},
        {"extra": False},
        {"seed": 1},
    ]
    changes += [{"hidden": (8,)}, {"hidden": (8, 4)}]
    changes += [
        {"training": replace(BRIEF, **change)} for change in ({"epochs": 1}, {"rate": 1e-4}, {"least_steps": 9})
    ]
    seen, _ = programs(20, seed=1)
    assert len({tuple(fitted(**change).predict(seen).tolist()) for change in changes}) == len(changes)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_score_does_not_depend_on_the_programs_company(pooling: Any) -> None:
    """A program alone has a graph without the nodes that it lacks, and yet the same score."""
    model = fitted(pooling=pooling)
    seen, _ = programs(300, seed=1)
    scores = model.predict(seen)
    for row in (0, 100, 127, 128, 299):
        alone = take_rows(seen, slice(row, row + 1))
        assert model.predict(alone)[0] == pytest.approx(scores[row], abs=1e-5)
    assert model.predict(ast_graph(seen)) == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_absent_nodes_are_not_looked_at(pooling: Any) -> None:
    model = fitted(pooling=pooling)
    graph = ast_graph(programs(50, seed=1)[0])
    scores = model.predict(graph)
    graph.numbers[~graph.present] = 7.0
    assert model.predict(graph) == pytest.approx(scores, abs=1e-6)


def test_the_convolution_is_kipf_and_wellings() -> None:
    import torch
    from torch_geometric.nn import GCNConv

    model = fitted(hidden=(8, 8))
    graph = ast_graph(take_rows(programs(1)[0], slice(0, 1)))  # type: ignore[arg-type]
    kinds, edges, adjacency, numbers, present, extra = model._scaled(graph)
    net = model._net
    assert net is not None
    reference = GCNConv(8, 8)
    reference.lin.weight.data = net.convolutions[0].lin.weight.data
    both = torch.from_numpy(np.concatenate([graph.edges, graph.edges[::-1]], axis=1))
    with torch.inference_mode():
        x = torch.relu(net.embed(numbers) + net.kinds(kinds)[:, None])
        y = x[:, 0] + torch.relu(reference(x[:, 0], both) + net.biases[0])
        expected = net.head(torch.cat([y.mean(dim=0)[None], extra], dim=1))[0, 0]
        assert float(net(kinds, edges, adjacency, numbers, present, extra)[0]) == pytest.approx(
            float(expected), abs=1e-5
        )


def test_tasks_of_several_structures_and_knobs_are_learnt_from() -> None:
    seen, seconds = programs(60)
    few = take_rows(seen, np.flatnonzero((seen.extents > 1).sum(axis=1) <= 4))
    model = GCNModel(training=Training(epochs=1, least_steps=0))
    model.fit([seen, few], [seconds, np.arange(1, 1 + len(few)).astype(np.float64)])
    assert model.ready
    table = KnobTable(np.random.default_rng(0).random((40, 3), dtype=np.float32))
    latencies = 1.0 + table.values[:, 0].astype(np.float64)
    model.fit([table], [latencies])
    assert model.predict(table).shape == (40,)
    with pytest.raises(TilewrightError, match="use a model per template"):
        model.fit([table, seen], [latencies, seconds])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_stored_and_loaded_it_is_the_same(pooling: Any, tmp_path: Path) -> None:
    model = fitted(pooling=pooling, extra=False)
    name = {"mean": "gcn", "attention": "gcn_attention"}[pooling]
    save_model(name, model, "toy/1", {}, tmp_path / "model.npz")
    seen, _ = programs(20, seed=1)
    assert (load_model(tmp_path / "model.npz").model.predict(seen) == model.predict(seen)).all()


def test_a_warm_fit_goes_on_from_the_weights_there_are() -> None:
    seen, seconds = programs(60)
    cold = fitted()
    warm = GCNModel.from_state(cold.state(), warm=True, training=Training(warm_epochs=1, rate=1e-6))
    warm.fit([seen], [seconds])
    assert warm.predict(seen) == pytest.approx(cold.predict(seen), abs=1e-3)
    assert (warm.predict(seen) != cold.predict(seen)).any()


def test_mistakes_are_refused() -> None:
    with pytest.raises(TilewrightError, match="one of mean, attention, but this is 'sum'"):
        GCNModel(pooling="sum")  # type: ignore[arg-type]
    with pytest.raises(TilewrightError, match="has a hidden layer or more"):
        GCNModel(hidden=())
