"""Searchers and samplers by name, and methods that are made of any two of them.

Only the command line and the benches use names. The rest of the package is given objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np

from tilewright.cost.models import StoredModel
from tilewright.cost.xgb import Loss
from tilewright.errors import MissingExtraError, TilewrightError
from tilewright.methods.default import bayesian
from tilewright.methods.method import Method, SamplerFactory, SearcherFactory
from tilewright.methods.trees import make_boosted_trees
from tilewright.sample.adaptive import Adaptive
from tilewright.sample.diversity import Diversity
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.top import TopK
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.search.bayesian import BayesianSearch
from tilewright.search.gbfs import GreedyBestFirst
from tilewright.search.genetic import Genetic
from tilewright.search.random import RandomSearch
from tilewright.search.searcher import Scorer, Searcher
from tilewright.space.space import DesignSpace
from tilewright.wording import did_you_mean

__all__ = [
    "DEFAULT_SEARCHER",
    "SAMPLERS",
    "SEARCHERS",
    "NamedSampler",
    "NamedSearcher",
    "combine",
    "make_policy_search",
    "make_searcher",
]


def _na2c(space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> Searcher:
    from tilewright.search.na2c import NeighbourhoodActorCritic  # needs PyTorch

    return NeighbourhoodActorCritic(space, rng)


def make_policy_search(steps: int = 64) -> SearcherFactory:
    """The factory of PPO with ``steps`` steps per ask. Its searchers need Stable-Baselines3."""

    def make(space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> Searcher:
        from tilewright.search.ppo import PPOSearch

        return PPOSearch(space, rng, scorer, steps=steps)

    return make


@dataclass(frozen=True)
class NamedSearcher:
    """A searcher that a command line can name.

    Attributes:
        make: makes the searcher from a space, a source of randomness, and a scorer of configs.
        guided: whether the searcher uses the scorer.
        module: the module that it imports beyond Tilewright's dependencies; empty if there is none.
        extra: the extra that installs this module.
    """

    make: SearcherFactory
    guided: bool
    module: str = ""
    extra: str = ""


@dataclass(frozen=True)
class NamedSampler:
    """A sampler that a command line can name.

    Attributes:
        make: makes the sampler from a space, a source of randomness, and what says which configs were measured.
        scored: whether its picks depend on scores even if there are no more proposals than picks.
    """

    make: SamplerFactory
    scored: bool


#: The searchers, by the names that the command line takes.
SEARCHERS: dict[str, NamedSearcher] = {
    "random": NamedSearcher(lambda space, rng, scorer: RandomSearch(space, rng), guided=False),
    "annealing": NamedSearcher(lambda space, rng, scorer: SimulatedAnnealing(space, rng, scorer), guided=True),
    "genetic": NamedSearcher(lambda space, rng, scorer: Genetic(space, rng), guided=False),
    "ppo": NamedSearcher(make_policy_search(), guided=True, module="stable_baselines3", extra="rl"),
    "gbfs": NamedSearcher(lambda space, rng, scorer: GreedyBestFirst(space, rng), guided=False),
    "na2c": NamedSearcher(_na2c, guided=False, module="torch", extra="torch"),
    "bayesian": NamedSearcher(lambda space, rng, scorer: BayesianSearch(space, rng), guided=False),
}
#: The samplers, by the names that the command line takes.
SAMPLERS: dict[str, NamedSampler] = {
    "top": NamedSampler(lambda space, rng, measured: TopK(), scored=False),
    "epsilon-greedy": NamedSampler(
        lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured), scored=False
    ),
    "diversity": NamedSampler(lambda space, rng, measured: Diversity(), scored=True),
    "adaptive": NamedSampler(lambda space, rng, measured: Adaptive(space, rng, measured), scored=True),
}
#: The searcher of a method of which only the sampler is named.
DEFAULT_SEARCHER = "bayesian"


def make_searcher(name: str) -> SearcherFactory:
    """The factory of a searcher, by its name in ``SEARCHERS``.

    Raises:
        TilewrightError: there is no such name.
        MissingExtraError: a library that the searcher needs is not installed.
    """
    if name not in SEARCHERS:
        near = did_you_mean(name, SEARCHERS)
        raise TilewrightError(f"a searcher is one of {', '.join(SEARCHERS)}, but this is {name!r}{near}")
    named = SEARCHERS[name]
    if named.module and find_spec(named.module) is None:
        raise MissingExtraError(named.module, named.extra)
    return named.make


def combine(searcher: str, sampler: str, loss: Loss = "rank", prior: StoredModel | None = None) -> Method:
    """A method of any searcher and any sampler. It has XGBoost as its cost model if one of them uses scores.

    Args:
        searcher: its name in ``SEARCHERS``.
        sampler: its name in ``SAMPLERS``.
        loss: of XGBoost.
        prior: a model fitted to other tasks, which XGBoost's trees correct. Bayesian search with a sampler that uses no
            scores takes it as its own prior.

    Raises:
        TilewrightError: a name is not in ``SEARCHERS`` or ``SAMPLERS``.
        MissingExtraError: a library that the searcher needs is not installed.
    """
    if sampler not in SAMPLERS:
        near = did_you_mean(sampler, SAMPLERS)
        raise TilewrightError(f"a sampler is one of {', '.join(SAMPLERS)}, but this is {sampler!r}{near}")
    make, pick = make_searcher(searcher), SAMPLERS[sampler]
    if searcher == "bayesian" and prior is not None and not pick.scored:
        return replace(bayesian(prior), name=f"{searcher}+{sampler}", sampler=pick.make)
    return Method(
        name=f"{searcher}+{sampler}",
        searcher=make,
        sampler=pick.make,
        model=make_boosted_trees(loss, prior) if SEARCHERS[searcher].guided or pick.scored else None,
    )
