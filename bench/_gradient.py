"""The rule by which MetaSchedule's own scheduler assigns its rounds (``GradientBased``), with a memory.

MetaSchedule's implementation has two properties that would count against it in a comparison over time. It hands results
to the database only after each task has had a round, which takes many minutes on a whole network. It remembers nothing
of earlier calls, so that each call begins with another round of all tasks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

#: GradientBased's defaults: the weight of the recent gain against the gain expected of one more round, and how many
#: rounds are recent.
ALPHA, WINDOW = 0.2, 3


class Gradient:
    """Chooses the task whose next round promises most.

    Attributes:
        histories: of each task, the shortest run in seconds after each of its rounds; inf where nothing has run.

    Args:
        weights: how often the network has each task.
        seed: decides between tasks that promise the same.
    """

    def __init__(self, weights: Sequence[float], seed: int = 0) -> None:
        self.histories: list[list[float]] = [[] for _ in weights]
        self._weights = weights
        self._chosen = [False] * len(weights)
        self._random = random.Random(seed)

    def remember(self, task: int, runs: Sequence[float], trials_per_iter: int) -> None:
        """Take over what earlier calls measured of a task: the seconds of its runs, inf where one failed."""
        for begin in range(0, len(runs), trials_per_iter):
            self.note(task, runs[begin : begin + trials_per_iter])
            self._chosen[task] = True

    def note(self, task: int, runs: Sequence[float]) -> None:
        """Take the results of a round: the seconds of its runs, inf where one failed."""
        history = self.histories[task]
        if runs or history:
            history.append(min([*runs, *history[-1:]]))

    def choose(self, alive: Sequence[int]) -> int | None:
        """The next of the tasks ``alive``: each once, then by promise. None where there are none."""
        if not alive:
            return None
        for task in alive:
            if not self._chosen[task]:
                self._chosen[task] = True
                return task
        promises = [self._promise(task) for task in alive]
        if max(promises) == min(promises):
            return self._random.choice(list(alive))
        return alive[promises.index(max(promises))]

    def _promise(self, task: int) -> float:
        history = self.histories[task]
        if not history or math.isinf(history[-1]):
            return -math.inf  # it may not be valid at all
        best, rounds = history[-1], len(history)
        before = history[-1 - WINDOW] if rounds > WINDOW else best
        # A task that ran for the first time just now has gained infinitely; GradientBased takes a huge number.
        recent = min(before - best, 1e6) / WINDOW
        return self._weights[task] * (ALPHA * recent + (1 - ALPHA) * best / rounds)
