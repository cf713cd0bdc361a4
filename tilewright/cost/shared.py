"""One cost model for all tasks of a network: what each of them measures corrects it for the others.

Schedule Sharing (Yu, TVM conference 2019) carries configs from task to task; this carries what is behind them. A model
that came from other machines or from nowhere is corrected by trees on the network's own measurements. The correction
is believed only while it ranks tasks that it has not seen better than the model alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.cost.ranking import pairwise_accuracy
from tilewright.cost.xgb import XGBoostModel

__all__ = ["SharedModel"]

#: Parts that the tasks are divided into: each has a correction that was fitted to the others.
_FOLDS = 4
#: Trees of a correction, and how much of each counts: little is known, and of few tasks.
_ROUNDS, _ETA = 40, 0.1
#: It is fitted again when there are so many times the measurements, at least so many and of so many tasks.
_GROWTH, _LEAST, _TASKS = 1.6, 64, 6
#: Standard errors by which corrections must rank unseen tasks better.
_SURE = 1.64


class SharedModel:
    """A model of all tasks of one template.

    Tasks are dealt to ``_FOLDS`` folds, and a task's scores come from trees fitted to the other folds. So what
    is judged is what is used, and a task's own measurements, which its searcher learns from, do not count twice.

    Args:
        base: what was known beforehand; None, or a model that is not ready: nothing.
        seed: of the trees.

    Attributes:
        believed: whether scores are corrected.
        gained: the pairwise accuracy that the corrections add on tasks that they have not seen; nan: not known yet.
    """

    def __init__(self, base: CostModel | None = None, seed: int = 0) -> None:
        self.believed = False
        self.gained = math.nan
        self._base = base if base is not None and base.ready else None
        self._seed = seed
        self._folds: dict[str, int] = {}
        self._lessons: dict[str, tuple[Programs, NDArray[np.float64]]] = {}
        self._models: list[XGBoostModel] = []
        self._fitted = 0

    @property
    def ready(self) -> bool:
        """Whether it knows anything."""
        return self._base is not None or self.believed

    def of(self, task: str) -> CostModel:
        """The model as one task sees it: fitting it teaches it that task's measurements."""
        self._fold(task)
        return _View(self, task)

    def teach(self, task: str, programs: Programs, seconds: NDArray[np.float64]) -> None:
        """Learn ``(n,)`` latencies of a task's programs, replacing what was known of the task; nan: failed."""
        if isinstance(programs, KnobTable) or np.isfinite(seconds).sum() < 2:
            return
        self._fold(task)
        self._lessons[task] = programs, seconds
        count = sum(len(times) for _, times in self._lessons.values())
        if count >= max(_LEAST, _GROWTH * self._fitted) and len(self._lessons) >= _TASKS:
            self._fitted = count
            self._fit()

    def predict(self, task: str, programs: Programs) -> NDArray[np.float64]:
        """``(n,)`` scores of a task's programs, higher is faster; all 0 where nothing is known."""
        if isinstance(programs, KnobTable) or not self.ready:
            return np.zeros(len(programs))
        if self.believed:
            return self._models[self._fold(task)].predict(programs)
        return self._plain(programs)

    def _plain(self, programs: Programs) -> NDArray[np.float64]:
        return np.zeros(len(programs)) if self._base is None else self._base.predict(programs)

    def _fold(self, task: str) -> int:
        return self._folds.setdefault(task, len(self._folds) % _FOLDS)

    def _fit(self) -> None:
        self._models = []
        gains = []
        for fold in range(_FOLDS):
            model = XGBoostModel("regression", seed=self._seed, rounds=_ROUNDS, eta=_ETA, prior=self._base)
            taught = [lesson for task, lesson in self._lessons.items() if self._folds[task] != fold]
            model.fit([programs for programs, _ in taught], [seconds for _, seconds in taught])
            self._models.append(model)
            for task, (programs, seconds) in self._lessons.items():
                if self._folds[task] == fold:
                    better = pairwise_accuracy(model.predict(programs), seconds)
                    gains.append(better - pairwise_accuracy(self._plain(programs), seconds))
        known = np.asarray([gain for gain in gains if math.isfinite(gain)])
        if len(known) < _TASKS:
            return
        self.gained = float(known.mean())
        self.believed = self.gained > _SURE * float(known.std(ddof=1)) / math.sqrt(len(known))


class _View:
    """What one task sees of a shared model."""

    def __init__(self, shared: SharedModel, task: str) -> None:
        self._shared, self._task = shared, task

    @property
    def ready(self) -> bool:
        return self._shared.ready

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        for table, times in zip(programs, seconds, strict=True):
            self._shared.teach(self._task, table, times)

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        return self._shared.predict(self._task, programs)
