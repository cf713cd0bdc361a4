"""A graph convolutional network on the program's syntax tree (Tomczak et al., arXiv 1904.11876)."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.ast_graph import AstGraph, NodeKind, make_graph
from tilewright.cost.model import Programs, take_rows
from tilewright.cost.neural import (
    Loss,
    NeuralModel,
    Scaling,
    State,
    Tensors,
    Training,
    invert,
    standardise,
    torch_threads,
)
from tilewright.errors import MissingExtraError, TilewrightError
from tilewright.tensor import Array

if TYPE_CHECKING:
    import torch

__all__ = ["GCNModel", "Pooling"]

#: How the vectors of a program's nodes become one vector.
Pooling: TypeAlias = Literal["mean", "attention"]

#: The programs that are scored at a time, so that their nodes stay in the cache.
_CHUNK = 128


class GCNModel(NeuralModel[AstGraph]):
    """Graph convolutions on :func:`tilewright.cost.ast_graph.ast_graph`. A ``CostModel``.

    Different from the papers: the template's own numbers (``LoopNest.extra``) belong to no node, so the perceptron
    after the pooling takes them. The papers do not say how large their layers were.

    Args:
        loss: ``rank`` or ``regression``.
        pooling: ``mean`` or ``attention``.
        extra: whether the template's own numbers are used. A model without them scores the trees of any program
            (``tilewright.space.ast.program_graph``).
        hidden: the sizes of the nodes' embedding and of each convolution.
        training: see :class:`~tilewright.cost.neural.NeuralModel`, like the next three.
        seed: of the weights and of the order of training.
        threads: of PyTorch.
        warm: whether a fit starts from the present weights.

    Raises:
        TilewrightError: the loss or the pooling does not exist, or there is no hidden layer.
    """

    name = "gcn"

    def __init__(
        self,
        loss: Loss = "rank",
        *,
        pooling: Pooling = "mean",
        extra: bool = True,
        hidden: tuple[int, ...] = (32, 32, 32),
        training: Training | None = None,
        seed: int = 0,
        threads: int = 1,
        warm: bool = False,
    ) -> None:
        super().__init__(loss, hidden=hidden, training=training, seed=seed, threads=threads, warm=warm)
        poolings = get_args(Pooling)
        if pooling not in poolings:
            raise TilewrightError(f"the pooling of a graph is one of {', '.join(poolings)}, but this is {pooling!r}")
        if not hidden:
            raise TilewrightError("a graph network has a hidden layer or more, but this has none")
        self.pooling: Pooling = pooling
        self._extra = extra

    def predict(self, programs: Programs | AstGraph) -> NDArray[np.float64]:
        """The ``(n,)`` scores, where higher is faster within one task; all 0 before the model is ready."""
        scores, net = np.zeros(len(programs)), self._net
        if net is None:
            return scores
        with torch_threads(self._threads) as torch, torch.inference_mode():
            for start in range(0, len(programs), _CHUNK):
                rows = slice(start, start + _CHUNK)
                graph = programs if isinstance(programs, AstGraph) else make_graph(take_rows(programs, rows))
                found = self._in_units(net(*self._scaled(graph)))
                if isinstance(programs, AstGraph):
                    return found
                scores[rows] = found
        return scores

    def _inputs(self, programs: Programs) -> AstGraph:
        return make_graph(programs)

    def _width(self, inputs: AstGraph) -> tuple[int, ...]:
        return inputs.numbers.shape[2], inputs.extra.shape[1]

    def _measure(self, inputs: Sequence[AstGraph]) -> Scaling:
        """The means and scales of each number of each kind of node, and of the template's own numbers."""
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
            "scale": invert(deviation),
            "extra_mean": extra.mean(axis=0).astype(np.float32),
            "extra_scale": invert(extra.std(axis=0)),
        }

    def _scaled(self, inputs: AstGraph) -> Tensors:
        """The arguments of ``GraphNetwork.forward``."""
        import torch

        kinds = inputs.kinds.astype(np.int64)
        nodes = np.arange(len(kinds))
        edges = np.concatenate([inputs.edges, inputs.edges[::-1], np.stack([nodes, nodes])], axis=1)
        adjacency = np.zeros((len(kinds), len(kinds)), dtype=np.float32)
        adjacency[edges[0], edges[1]] = 1.0
        numbers = np.ascontiguousarray(inputs.numbers.transpose(1, 0, 2))
        numbers = standardise(numbers, self._scaling["mean"][kinds][:, None], self._scaling["scale"][kinds][:, None])
        present = np.ascontiguousarray(inputs.present.T.astype(np.float32))
        extra = inputs.extra[:, : None if self._extra else 0]
        extra = standardise(extra, self._scaling["extra_mean"], self._scaling["extra_scale"])
        arrays = (kinds, np.ascontiguousarray(edges), adjacency, numbers, present, extra)
        return tuple(torch.from_numpy(array) for array in arrays)

    def _make(self, torch: ModuleType) -> torch.nn.Module:
        try:
            from tilewright.cost._gcn_net import GraphNetwork
        except ImportError as exc:
            raise MissingExtraError("PyTorch Geometric", "torch") from exc
        kinds, width = self._scaling["mean"].shape
        (extra,) = self._scaling["extra_mean"].shape
        if kinds != len(NodeKind):
            raise ValueError(f"a program has {len(NodeKind)} kinds of nodes, but this was fitted to {kinds}")
        return GraphNetwork(width, extra, self._hidden, self.pooling)

    def _scores(self, net: torch.nn.Module, inputs: Tensors, rows: torch.Tensor) -> torch.Tensor:
        kinds, edges, adjacency, numbers, present, extra = inputs
        return net(kinds, edges, adjacency, numbers[:, rows], present[:, rows], extra[rows])

    def _arguments(self) -> dict[str, Array]:
        return {**super()._arguments(), "pooling": np.asarray(self.pooling), "extra": np.asarray(self._extra)}

    @classmethod
    def _from_arguments(cls, state: State) -> GCNModel:
        if state["extra"].dtype != np.bool_:
            raise ValueError(
                f"whether it uses a template's own numbers is true or false, but this is {state['extra']!s:.20}"
            )
        loss: Loss = str(state["loss"])  # type: ignore[assignment]  # which the constructor checks
        pooling: Pooling = str(state["pooling"])  # type: ignore[assignment]  # likewise
        return cls(loss, pooling=pooling, extra=bool(state["extra"]), hidden=tuple(state["hidden"].tolist()))
