"""What a tuning works with, and how it deals out its rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tilewright.measure.runner import Runner
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.tuning.budget import RunningBudget
from tilewright.tuning.priorities import Rule, learning_gains

__all__ = ["Scheduling", "TuningContext"]


@dataclass(frozen=True)
class TuningContext:
    """What a tuning works with.

    Measurements reach the store as :class:`tilewright.tuning.tuner.TaskTuner` describes: through the runner.

    Attributes:
        target: what is tuned for.
        runner: measures candidates.
        store: holds earlier measurements.
        budget: what may be spent. Trials are counted on it.
        rng: the only source of randomness.
    """

    target: Target
    runner: Runner
    store: Store
    budget: RunningBudget
    rng: np.random.Generator


@dataclass(frozen=True)
class Scheduling:
    """How rounds are dealt out.

    Attributes:
        first_round: candidates of each task in the first pass.
        round_size: candidates of a later round, at most; see :meth:`TaskSnapshot.round_size
            <tilewright.tuning.task_state.TaskSnapshot.round_size>`.
        task_trials: the most trials of one task.
        rule: says which task promises most.
    """

    first_round: int = 4
    round_size: int = 16
    task_trials: float = math.inf
    rule: Rule = learning_gains
