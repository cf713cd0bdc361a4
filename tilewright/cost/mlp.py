"""A multi-layer perceptron on a program's features: what a graph network has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.features import features
from tilewright.cost.model import Programs
from tilewright.cost.neural import NeuralModel, State, inverse, standardised, torch_threads

__all__ = ["MLPModel"]

#: Programs scored at a time, so that hidden layers stay in the cache.
_CHUNK = 4096


class MLPModel(NeuralModel):
    """Fully connected layers with ReLU on :func:`tilewright.cost.features.features`. A ``CostModel``.

    Takes the arguments of :class:`~tilewright.cost.neural.NeuralModel`.
    """

    name = "mlp"

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` scores, higher is faster, comparable within one task; all 0 before the model is ready."""
        scores = np.zeros(len(programs))
        if self._net is None or len(programs) == 0:
            return scores
        table = features(programs)
        with torch_threads(self._threads) as torch, torch.inference_mode():
            for start in range(0, len(table), _CHUNK):
                rows = torch.from_numpy(self._standardise(table[start : start + _CHUNK]))
                scores[start : start + _CHUNK] = self._in_units(self._net(rows)[:, 0])
        return scores

    def _inputs(self, programs: Programs) -> NDArray[np.float32]:
        return features(programs)

    def _width(self, inputs: NDArray[np.float32]) -> tuple[int, ...]:
        return inputs.shape[1:]

    def _measure(self, inputs: Sequence[NDArray[np.float32]]) -> State:
        table = np.concatenate(inputs).astype(np.float64)
        return {"mean": table.mean(axis=0).astype(np.float32), "scale": inverse(table.std(axis=0))}

    def _standardise(self, table: NDArray[np.float32]) -> Any:
        return standardised(table, self._scaling["mean"], self._scaling["scale"])

    def _scaled(self, inputs: NDArray[np.float32]) -> Any:
        import torch

        return torch.from_numpy(self._standardise(inputs))

    def _make(self, torch: ModuleType) -> Any:
        sizes = [len(self._scaling["mean"]), *self._hidden, 1]
        layers: list[Any] = []
        for inputs, outputs in pairwise(sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    def _scores(self, torch: ModuleType, inputs: Any, rows: NDArray[np.intp]) -> Any:
        return self._net(inputs[torch.from_numpy(rows)])[:, 0]
