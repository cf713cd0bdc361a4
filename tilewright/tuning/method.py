"""How a task is searched: which searcher, sampler and cost model play together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.cost.xgb import Loss, XGBoostModel
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.sampler import Sampler
from tilewright.sample.top import TopK
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.search.random import RandomSearch
from tilewright.search.searcher import Scorer, Searcher
from tilewright.space.configs import Contains
from tilewright.space.space import DesignSpace

__all__ = ["Method", "autotvm", "quick", "random_search"]


@dataclass(frozen=True)
class Method:
    """What a task is searched with: factories, as each task has a space and objects of its own.

    Attributes:
        name: for people and for the report.
        searcher: of a space, a source of randomness and the cost model's view of configs.
        sampler: of a space, a source of randomness and what tells which configs were proposed or measured.
        model: of a seed; None for a method that predicts nothing.
    """

    name: str
    searcher: Callable[[DesignSpace, np.random.Generator, Scorer], Searcher]
    sampler: Callable[[DesignSpace, np.random.Generator, Contains], Sampler]
    model: Callable[[int], CostModel] | None


def autotvm(loss: Loss = "rank", *, steps: int = 500, patience: int = 50, epsilon: float = 0.05) -> Method:
    """AutoTVM's own method: annealing on XGBoost's scores, of which a share is replaced by random configs.

    Args:
        loss: of XGBoost.
        steps: the most annealing steps per round.
        patience: annealing ends after so many steps without a better set of proposals.
        epsilon: the share of random configs.
    """
    return Method(
        name="autotvm",
        searcher=lambda space, rng, scorer: SimulatedAnnealing(space, rng, scorer, steps=steps, patience=patience),
        sampler=lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured, epsilon),
        model=lambda seed: XGBoostModel(loss, seed=seed),
    )


def quick() -> Method:
    """:func:`autotvm` for the short rounds of a network: 80 annealing steps instead of 500.

    500 steps of 128 chains take 0.6 to 1.6 s with some 250 features, in which half a round of 16 could be measured;
    AutoTVM's rounds are of 64. The chains persist between rounds, so a walk is cut into parts rather than short.
    """
    return autotvm(steps=80, patience=20)


def random_search() -> Method:
    """Uniformly random configs: the baseline of baselines."""
    return Method(
        name="random",
        searcher=lambda space, rng, scorer: RandomSearch(space, rng),
        sampler=lambda space, rng, measured: TopK(),
        model=None,
    )
