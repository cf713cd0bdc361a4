"""What another round of a task promises the network, in seconds of its latency per second of tuning.

:func:`learning_gains` is Tilewright's rule. :func:`ansor_gains` is the published one that ``bench.scheduling`` compares
with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from tilewright.tuning.task_state import TaskSnapshot

__all__ = ["Rule", "ansor_gains", "learning_gains"]

#: Ansor's alpha and beta, and its window in rounds.
_ALPHA, _BETA, _WINDOW = 0.2, 2.0, 3
#: The fastest task may exceed its roofline by this factor before all rooflines are taken to be too low: noise.
_MARGIN = 1.05
#: A task that promises less than this share of its latency by a round is done.
_DONE = 2e-5

#: Rates ``live`` tasks, at least one, out of ``all`` tasks, for a round of at most so many candidates: the gain of each
#: in seconds per second. A task with a gain of 0 gets no more rounds.
Rule: TypeAlias = Callable[[Sequence[TaskSnapshot], Sequence[TaskSnapshot], int], list[float]]


def learning_gains(live: Sequence[TaskSnapshot], tasks: Sequence[TaskSnapshot], round_size: int) -> list[float]:
    """Gains by learning curves: what trials gave other tasks, corrected by what they gave this one.

    See :meth:`tilewright.tuning.task_state.TaskSnapshot.improvement`. A task that is expected to save less than 0.002 %
    of its latency gains 0.

    Args:
        live: the tasks to choose from, at least one.
        tasks: all tasks.
        round_size: candidates per round, at most.
    """
    typical, usual = _typical(tasks)
    # A roofline that was measured beside a noisy neighbour is too low, and some counted operations are not needed.
    limit = 1.0 / max([1.0, *(_MARGIN * task.possible / task.best for task in tasks)])
    found = []
    for task in live:
        best = task.best if math.isfinite(task.best) else typical
        size = task.round_size(round_size)
        expected = task.improvement(size, limit)
        seconds = size * (task.seconds_per_trial or usual)
        found.append(task.weight * best * expected / seconds if expected >= _DONE else 0.0)
    return found


def ansor_gains(live: Sequence[TaskSnapshot], tasks: Sequence[TaskSnapshot], round_size: int) -> list[float]:
    """Gains by Ansor's task scheduler (Zheng et al., OSDI 2020, section 6).

    With g the best latency of a task, t its rounds so far, C its floating-point operations and V the best speed of any
    task of its kind, the expected reduction in one round is

        alpha * (what its last rounds gave, per round) + (1 - alpha) * max(g / t, g - beta * C / V)

    The second term is optimism: that one more round reduces g by its t-th part, or that the task comes within beta of
    the speed its like have reached. Different from Ansor: the reduction is divided by the seconds that a round of the
    task takes, and optimism by the number of rounds since the task last improved. Otherwise a task that is bound by
    memory and never gets near its like would have all rounds.

    Args:
        live: the tasks to choose from, at least one.
        tasks: all tasks, whose speeds are compared with.
        round_size: candidates per round.
    """
    speeds: dict[str, float] = {}
    for task in tasks:
        speeds[task.kind] = max(speeds.get(task.kind, 0.0), task.flop / task.best)
    typical, usual = _typical(tasks)
    found = []
    for task in live:
        best = task.best if math.isfinite(task.best) else typical
        backward = 0.0
        recent = [result for result in task.rounds[-_WINDOW:] if math.isfinite(result.before)]
        if recent:
            backward = max(0.0, recent[0].before - recent[-1].after) / len(recent)
        optimism = best / max(1.0, task.measured / round_size)
        if speeds[task.kind] > 0.0:
            optimism = max(optimism, best - _BETA * task.flop / speeds[task.kind])
        expected = _ALPHA * backward + (1.0 - _ALPHA) * optimism / (1.0 + task.rounds_without_gain)
        found.append(task.weight * expected / (task.seconds_per_trial or usual))
    return found


def _typical(tasks: Sequence[TaskSnapshot]) -> tuple[float, float]:
    """The latency of a task that has none yet, and the seconds per trial of one that had none.

    A task without any latency is taken for one of middling weight: the network needs an answer for it.
    """
    finite = [task.best for task in tasks if math.isfinite(task.best)]
    known = [seconds for seconds in (task.seconds_per_trial for task in tasks) if seconds is not None]
    return float(np.median(finite)) if finite else 1.0, sum(known) / len(known) if known else 1.0
