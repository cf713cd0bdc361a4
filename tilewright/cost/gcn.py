"""A graph convolutional network on the program's syntax tree (Tomczak et al., arXiv 1904.11876)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.ast_graph import AstGraph, NodeKind, graph_of
from tilewright.cost.model import Programs, rows_of
from tilewright.cost.neural import Loss, NeuralModel, State, inverse, standardised, torch_threads
from tilewright.errors import MissingExtraError, TilewrightError

__all__ = ["GCNModel", "Pooling"]

#: How the nodes of a program become one vector.
Pooling: TypeAlias = Literal["mean", "attention"]

_POOLINGS = ("mean", "attention")
#: Programs scored at a time, so that their nodes stay in the cache.
_CHUNK = 128


class GCNModel(NeuralModel):
    """Graph convolutions on :func:`tilewright.cost.ast_graph.ast_graph`. A ``CostModel``.

    Different from the papers, which do not say how large their layers were: the template's own numbers
    (``LoopNest.extra``) are given to the perceptron after the pooling, as they stand at no node.

    Takes the arguments of :class:`~tilewright.cost.neural.NeuralModel`, and these:

    Args:
        pooling: ``mean`` or ``attention``.
        extra: whether the template's own numbers are used. Without, a model can be given the trees of any program
            (``tilewright.space.ast.program_graph``), which have none.
        hidden: size of the nodes' embedding, then of each convolution.

    Raises:
        TilewrightError: a loss or a pooling that does not exist, or no hidden layer.
    """

    name = "gcn"

    def __init__(
        self,
        loss: Loss = "rank",
        *,
        pooling: Pooling = "mean",
        extra: bool = True,
        hidden: tuple[int, ...] = (32, 32, 32),
        **training: Any,
    ) -> None:
        super().__init__(loss, hidden=hidden, **training)
        if pooling not in _POOLINGS:
            raise TilewrightError(f"the pooling of a graph is one of {', '.join(_POOLINGS)}, but this is {pooling!r}")
        if not hidden:
            raise TilewrightError("a graph network has a hidden layer or more, but this has none")
        self.pooling: Pooling = pooling
        self._extra = extra

    def predict(self, programs: Programs | AstGraph) -> NDArray[np.float64]:
        """``(n,)`` scores, higher is faster, comparable within one task; all 0 before the model is ready."""
        scores = np.zeros(len(programs))
        if self._net is None:
            return scores
        with torch_threads(self._threads) as torch, torch.inference_mode():
            for start in range(0, len(programs), _CHUNK):
                rows = slice(start, start + _CHUNK)
                graph = programs if isinstance(programs, AstGraph) else graph_of(rows_of(programs, rows))
                found = self._in_units(self._net(*self._scaled(graph)))
                if isinstance(programs, AstGraph):
                    return found
                scores[rows] = found
        return scores

    def _inputs(self, programs: Programs) -> AstGraph:
        return graph_of(programs)

    def _width(self, inputs: AstGraph) -> tuple[int, ...]:
        return inputs.numbers.shape[2], inputs.extra.shape[1]

    def _measure(self, inputs: Sequence[AstGraph]) -> State:
        """Mean and scale of each number, for each kind of node its own."""
        width = inputs[0].numbers.shape[2]
        count, total, squares = (np.zeros((len(NodeKind), width)) for _ in range(3))
        for graph in inputs:
            present = graph.present[:, :, None]
            for table, values in (
                (count, present.astype(np.float64)),
                (total, graph.numbers.astype(np.float64)),
                (squares, graph.numbers.astype(np.float64) ** 2),
            ):
                np.add.at(table, graph.kinds, (values * present).sum(axis=0))
        mean = total / np.maximum(count, 1)
        deviation = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
        extra = np.concatenate([graph.extra for graph in inputs]).astype(np.float64)[:, : None if self._extra else 0]
        return {
            "mean": mean.astype(np.float32),
            "scale": inverse(deviation),
            "extra_mean": extra.mean(axis=0).astype(np.float32),
            "extra_scale": inverse(extra.std(axis=0)),
        }

    def _scaled(self, inputs: AstGraph) -> Any:
        """The arguments of ``GraphNetwork.forward``."""
        import torch

        kinds = inputs.kinds.astype(np.int64)
        nodes = np.arange(len(kinds))
        edges = np.concatenate([inputs.edges, inputs.edges[::-1], np.stack([nodes, nodes])], axis=1)
        adjacency = np.zeros((len(kinds), len(kinds)), dtype=np.float32)
        adjacency[edges[0], edges[1]] = 1.0
        numbers = np.ascontiguousarray(inputs.numbers.transpose(1, 0, 2))
        numbers = standardised(numbers, self._scaling["mean"][kinds][:, None], self._scaling["scale"][kinds][:, None])
        present = np.ascontiguousarray(inputs.present.T.astype(np.float32))
        extra = inputs.extra[:, : None if self._extra else 0]
        extra = standardised(extra, self._scaling["extra_mean"], self._scaling["extra_scale"])
        arrays = (kinds, np.ascontiguousarray(edges), adjacency, numbers, present, extra)
        return tuple(torch.from_numpy(array) for array in arrays)

    def _make(self, torch: ModuleType) -> Any:
        try:
            from tilewright.cost._gcn_net import GraphNetwork
        except ImportError as exc:
            raise MissingExtraError("PyTorch Geometric", "torch") from exc
        kinds, width = self._scaling["mean"].shape
        (extra,) = self._scaling["extra_mean"].shape
        if kinds != len(NodeKind):
            raise ValueError(f"a program has {len(NodeKind)} kinds of nodes, but this was fitted to {kinds}")
        return GraphNetwork(width, extra, self._hidden, self.pooling)

    def _scores(self, torch: ModuleType, inputs: Any, rows: NDArray[np.intp]) -> Any:
        kinds, edges, adjacency, numbers, present, extra = inputs
        chosen = torch.from_numpy(rows)
        return self._net(kinds, edges, adjacency, numbers[:, chosen], present[:, chosen], extra[chosen])

    def _arguments(self) -> State:
        return {**super()._arguments(), "pooling": np.asarray(self.pooling), "extra": np.asarray(self._extra)}

    @classmethod
    def _constructor(cls, state: State) -> dict[str, Any]:
        if state["extra"].dtype != np.bool_:
            raise ValueError(
                f"whether it uses a template's own numbers is true or false, but this is {state['extra']!s:.20}"
            )
        made = {"pooling": str(state["pooling"]), "extra": bool(state["extra"])}
        return {**super()._constructor(state), **made}
