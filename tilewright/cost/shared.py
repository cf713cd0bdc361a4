"""One cost model for all tasks of a network, which the measurements of each task correct for the others.

Schedule Sharing (Yu, TVM conference 2019) carries configs from task to task. This model carries what makes them fast.
Trees on the network's own measurements correct a prior of other machines, or no prior. The correction counts only while
it ranks unseen tasks better than the prior alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.model import CostModel, KnobTable, Programs
from tilewright.cost.ranking import pairwise_accuracy
from tilewright.cost.xgb import Boosting, XGBoostModel

__all__ = ["SharedModel"]

#: The folds of tasks. Each has a correction that was fitted to the tasks of the other folds.
_FOLDS = 4
#: The trees of a correction are few, and count little, because few tasks have few measurements.
_CORRECTION = Boosting(rounds=40, eta=0.1)
#: The correction is fitted again when the measurements have grown by a factor of 1.6.
_GROWTH = 1.6
#: The fewest measurements, and the fewest tasks, to which a correction is fitted.
_LEAST, _TASKS = 64, 6
#: Corrections count if they rank unseen tasks better by this number of standard errors (one-sided, 95 %).
_SURE = 1.64


class SharedModel:
    """A model of all tasks of one template.

    Tasks are dealt to 4 folds, and a task's scores come from trees that were fitted to the other folds. So the judged
    trees are those in use, and a task's own measurements do not count twice: its searcher learns from them as well.

    Args:
        base: the prior; None, or a model that is not ready, is no prior.
        seed: of the trees.

    Attributes:
        believed: whether scores are corrected.
        gained: the pairwise accuracy that the corrections add on unseen tasks; nan before it was measured.
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
        """Whether it has a prior, or a correction that counts."""
        return self._base is not None or self.believed

    def of(self, task: str) -> CostModel:
        """The cost model of one task. Fitting it teaches the shared model that task's measurements."""
        self._fold(task)
        return _TaskModel(self, task)

    def teach(self, task: str, programs: Programs, seconds: NDArray[np.float64]) -> None:
        """Learn the ``(n,)`` latencies of a task's programs, and forget earlier ones of the task.

        Args:
            task: ``Task.key``.
            programs: of the task; knobs alone teach nothing.
            seconds: the latencies in seconds; nan if a program failed.
        """
        if isinstance(programs, KnobTable) or np.isfinite(seconds).sum() < 2:
            return
        self._fold(task)
        self._lessons[task] = programs, seconds
        count = sum(len(times) for _, times in self._lessons.values())
        if count >= max(_LEAST, _GROWTH * self._fitted) and len(self._lessons) >= _TASKS:
            self._fitted = count
            self._fit()

    def predict(self, task: str, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` scores of a task's programs, where higher is faster; all 0 if nothing is known."""
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
            model = XGBoostModel("regression", boosting=_CORRECTION, seed=self._seed, prior=self._base)
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


class _TaskModel:
    """The cost model of one task, backed by a shared model. A ``CostModel``."""

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
