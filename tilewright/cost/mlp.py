"""A multi-layer perceptron on a program's features, the baseline of the graph network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.features import features
from tilewright.cost.model import Programs
from tilewright.cost.neural import Loss, NeuralModel, Scaling, State, Tensors, invert, standardise, torch_threads

if TYPE_CHECKING:
    import torch

__all__ = ["MLPModel"]

#: The programs that are scored at a time, so that hidden layers stay in the cache.
_CHUNK = 4096


class MLPModel(NeuralModel[NDArray[np.float32]]):
    """Fully connected layers with ReLU on :func:`tilewright.cost.features.features`. A ``CostModel``.

    Its arguments are those of :class:`~tilewright.cost.neural.NeuralModel`.
    """

    name = "mlp"

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` scores, where higher is faster within one task; all 0 before the model is ready."""
        scores, net = np.zeros(len(programs)), self._net
        if net is None or len(programs) == 0:
            return scores
        table = features(programs)
        with torch_threads(self._threads) as torch, torch.inference_mode():
            for start in range(0, len(table), _CHUNK):
                rows = torch.from_numpy(self._standardise(table[start : start + _CHUNK]))
                scores[start : start + _CHUNK] = self._in_units(net(rows)[:, 0])
        return scores

    def _inputs(self, programs: Programs) -> NDArray[np.float32]:
        return features(programs)

    def _width(self, inputs: NDArray[np.float32]) -> tuple[int, ...]:
        return inputs.shape[1:]

    def _measure(self, inputs: Sequence[NDArray[np.float32]]) -> Scaling:
        table = np.concatenate(inputs).astype(np.float64)
        return {"mean": table.mean(axis=0).astype(np.float32), "scale": invert(table.std(axis=0))}

    def _standardise(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        return standardise(table, self._scaling["mean"], self._scaling["scale"])

    def _scaled(self, inputs: NDArray[np.float32]) -> Tensors:
        import torch

        return (torch.from_numpy(self._standardise(inputs)),)

    def _make(self, torch: ModuleType) -> torch.nn.Module:
        sizes = [len(self._scaling["mean"]), *self._hidden, 1]
        layers: list[object] = []
        for inputs, outputs in pairwise(sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    def _scores(self, net: torch.nn.Module, inputs: Tensors, rows: torch.Tensor) -> torch.Tensor:
        (table,) = inputs
        return net(table[rows])[:, 0]

    @classmethod
    def _from_arguments(cls, state: State) -> MLPModel:
        loss: Loss = str(state["loss"])  # type: ignore[assignment]  # which the constructor checks
        return cls(loss, hidden=tuple(state["hidden"].tolist()))
