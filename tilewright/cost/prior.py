"""Priors: cost models that were fitted to other tasks, and score the first programs of a new task."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.cost.models import StoredModel, load_model

__all__ = ["SHIPPED", "FixedModel", "load_pretrained"]

#: The file of the shipped model, which ``bench.cost_models --ship`` makes.
SHIPPED = Path(__file__).with_name("pretrained.npz")


@cache
def load_pretrained(path: Path = SHIPPED) -> StoredModel:
    """The shipped model, or that of another file. Raises as ``load_model`` does."""
    return load_model(path)


# Modules are cleared in any order, and XGBoost's trees cannot be freed after its library.
atexit.register(load_pretrained.cache_clear)


class FixedModel:
    """A fitted model that learns nothing more, so that a program's score never changes. A ``CostModel``.

    Args:
        model: fitted to programs in closed form. None scores all programs alike. Programs that are known only by their
            knobs are always scored alike.
    """

    def __init__(self, model: CostModel | None) -> None:
        self._model = model

    @property
    def ready(self) -> bool:
        """Whether there is a fitted model."""
        return self._model is not None and self._model.ready

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn nothing."""

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` scores, where higher is faster; all 0 if the model cannot score the programs."""
        if self._model is None or isinstance(programs, KnobTable):
            return np.zeros(len(programs))
        return self._model.predict(programs)
