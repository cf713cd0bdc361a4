"""Cost models that were fitted to other tasks, as the first opinion on a new one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.cost.models import StoredModel, load_model

__all__ = ["SHIPPED", "FixedModel", "pretrained"]

#: The model that comes with Tilewright; ``bench.cost_models --ship`` makes it.
SHIPPED = Path(__file__).with_name("pretrained.npz")


@cache
def pretrained(path: Path = SHIPPED) -> StoredModel:
    """The model that comes with Tilewright, or that of another file. Raises as ``load_model`` does."""
    return load_model(path)


class FixedModel:
    """A fitted model that learns no more: always the same scores of a program.

    Args:
        model: fitted to programs in closed form. None, or any, for programs known by their knobs: knows nothing.
    """

    def __init__(self, model: CostModel | None) -> None:
        self._model = model

    @property
    def ready(self) -> bool:
        """Whether there is a model."""
        return self._model is not None and self._model.ready

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn nothing."""

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` scores, higher is faster; all 0 where the model knows nothing."""
        if self._model is None or isinstance(programs, KnobTable):
            return np.zeros(len(programs))
        return self._model.predict(programs)
