"""Searchers and samplers by name, and any two of them put together.

The command line and the benches name strategies; the rest of the package is given objects.
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
from tilewright.methods.trees import boosted_trees
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

__all__ = ["DEFAULT_SEARCHER", "SAMPLERS", "SEARCHERS", "NamedSampler", "NamedSearcher", "combine", "make_searcher"]


def _na2c(space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> Searcher:
    from tilewright.search.na2c import NeighbourhoodActorCritic  # needs PyTorch

    return NeighbourhoodActorCritic(space, rng)


def _ppo(space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> Searcher:
    from tilewright.search.ppo import PPOSearch  # needs Stable-Baselines3

    return PPOSearch(space, rng, scorer)


@dataclass(frozen=True)
class NamedSearcher:
    """A searcher that a command line can name.

    Attributes:
        make: of a space, a source of randomness and the cost model's view of configs.
        guided: whether it asks the cost model at all.
        module: what it imports beyond Tilewright's dependencies; empty: nothing.
        extra: the extra that installs that.
    """

    make: SearcherFactory
    guided: bool
    module: str = ""
    extra: str = ""


@dataclass(frozen=True)
class NamedSampler:
    """A sampler that a command line can name.

    Attributes:
        make: of a space, a source of randomness and what tells which configs were measured.
        scored: whether scores decide what it picks, where there are no more proposals than wanted.
    """

    make: SamplerFactory
    scored: bool


SEARCHERS: dict[str, NamedSearcher] = {
    "random": NamedSearcher(lambda space, rng, scorer: RandomSearch(space, rng), guided=False),
    "annealing": NamedSearcher(lambda space, rng, scorer: SimulatedAnnealing(space, rng, scorer), guided=True),
    "genetic": NamedSearcher(lambda space, rng, scorer: Genetic(space, rng), guided=False),
    "ppo": NamedSearcher(_ppo, guided=True, module="stable_baselines3", extra="rl"),
    "gbfs": NamedSearcher(lambda space, rng, scorer: GreedyBestFirst(space, rng), guided=False),
    "na2c": NamedSearcher(_na2c, guided=False, module="torch", extra="torch"),
    "bayesian": NamedSearcher(lambda space, rng, scorer: BayesianSearch(space, rng), guided=False),
}
SAMPLERS: dict[str, NamedSampler] = {
    "top": NamedSampler(lambda space, rng, measured: TopK(), scored=False),
    "epsilon-greedy": NamedSampler(
        lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured), scored=False
    ),
    "diversity": NamedSampler(lambda space, rng, measured: Diversity(), scored=True),
    "adaptive": NamedSampler(lambda space, rng, measured: Adaptive(space, rng, measured), scored=True),
}
#: The searcher where only a sampler is named.
DEFAULT_SEARCHER = "bayesian"


def make_searcher(name: str) -> SearcherFactory:
    """What makes a searcher, by its name in ``SEARCHERS``.

    Raises:
        TilewrightError: there is no such name.
        MissingExtraError: what the searcher imports is not installed.
    """
    if name not in SEARCHERS:
        raise TilewrightError(f"a searcher is one of {', '.join(SEARCHERS)}, but this is {name!r}")
    named = SEARCHERS[name]
    if named.module and find_spec(named.module) is None:
        raise MissingExtraError(named.module, named.extra)
    return named.make


def combine(searcher: str, sampler: str, loss: Loss = "rank", prior: StoredModel | None = None) -> Method:
    """Any searcher with any sampler, both by name, and XGBoost where one of them goes by scores.

    Args:
        searcher: in ``SEARCHERS``.
        sampler: in ``SAMPLERS``.
        loss: of XGBoost.
        prior: a model fitted to other tasks, for those that go by scores and, with a sampler that does not, for the
            Bayesian search.

    Raises:
        TilewrightError: a name that is not in ``SEARCHERS`` or ``SAMPLERS``.
        MissingExtraError: what the searcher imports is not installed.
    """
    if sampler not in SAMPLERS:
        raise TilewrightError(f"a sampler is one of {', '.join(SAMPLERS)}, but this is {sampler!r}")
    make, pick = make_searcher(searcher), SAMPLERS[sampler]
    if searcher == "bayesian" and prior is not None and not pick.scored:
        return replace(bayesian(prior), name=f"{searcher}+{sampler}", sampler=pick.make)
    return Method(
        name=f"{searcher}+{sampler}",
        searcher=make,
        sampler=pick.make,
        model=boosted_trees(loss, prior) if SEARCHERS[searcher].guided or pick.scored else None,
    )
