"""How a task is searched: which searcher, sampler and cost model play together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.cost.models import StoredModel
from tilewright.cost.prior import SHIPPED, FixedModel, pretrained
from tilewright.cost.shared import SharedModel
from tilewright.cost.xgb import Loss, XGBoostModel
from tilewright.errors import CostModelError, MissingExtraError, TilewrightError
from tilewright.sample.adaptive import Adaptive
from tilewright.sample.diversity import Diversity
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.sampler import Sampler
from tilewright.sample.top import TopK
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.search.bayesian import BayesianSearch
from tilewright.search.gbfs import GreedyBestFirst
from tilewright.search.genetic import Genetic
from tilewright.search.random import RandomSearch
from tilewright.search.searcher import Scorer, Searcher
from tilewright.space.configs import Contains
from tilewright.space.space import DesignSpace
from tilewright.tvm_compat import usable_cores

__all__ = [
    "DEFAULT_SEARCHER",
    "SAMPLERS",
    "SEARCHERS",
    "Method",
    "NamedSampler",
    "NamedSearcher",
    "SharedModels",
    "autotvm",
    "bayesian",
    "combine",
    "default",
    "known_beforehand",
    "quick",
    "random_search",
]

SearcherFactory: TypeAlias = Callable[[DesignSpace, np.random.Generator, Scorer], Searcher]
ModelFactory: TypeAlias = Callable[[DesignSpace, int], CostModel]
SamplerFactory: TypeAlias = Callable[[DesignSpace, np.random.Generator, Contains], Sampler]


@dataclass(frozen=True)
class Method:
    """What a task is searched with: factories, as each task has a space and objects of its own.

    Attributes:
        name: for people and for the report.
        searcher: of a space, a source of randomness and the cost model's view of configs.
        sampler: of a space, a source of randomness and what tells which configs were proposed or measured.
        model: of a space and a seed; None for a method that predicts nothing.
        shared: of a seed, the same method on models that all tasks of a network share; None: it has no use for one.
        models: those that its tasks share; None: each has its own.
    """

    name: str
    searcher: SearcherFactory
    sampler: SamplerFactory
    model: ModelFactory | None
    shared: Callable[[int], Method] | None = None
    models: SharedModels | None = None


class SharedModels:
    """The models that the tasks of a network share, one for each template.

    Args:
        prior: what was known beforehand.
        seed: of the models.

    Attributes:
        prior: likewise.
    """

    def __init__(self, prior: StoredModel | None = None, seed: int = 0) -> None:
        self.prior, self._seed = prior, seed
        self._models: dict[str, SharedModel] = {}

    def of(self, space: DesignSpace) -> SharedModel:
        """The model of a space's template."""
        if space.template not in self._models:
            self._models[space.template] = SharedModel(_fitting(self.prior, space), self._seed)
        return self._models[space.template]

    def describe(self) -> dict[str, Any]:
        """For the report: by template, whether scores are corrected, and what that gains in pairwise accuracy."""
        found = {name: (model.believed, model.gained) for name, model in self._models.items()}
        return {
            name: {"believed": believed, "gained": gained if math.isfinite(gained) else None}
            for name, (believed, gained) in found.items()
        }


def autotvm(
    loss: Loss = "rank",
    *,
    steps: int = 500,
    patience: int = 50,
    epsilon: float = 0.05,
    prior: StoredModel | None = None,
) -> Method:
    """AutoTVM's own method: annealing on XGBoost's scores, of which a share is replaced by random configs.

    Args:
        loss: of XGBoost.
        steps: the most annealing steps per round.
        patience: annealing ends after so many steps without a better set of proposals.
        epsilon: the share of random configs.
        prior: a model fitted to other tasks, which XGBoost's trees correct.
    """
    return Method(
        name="autotvm",
        searcher=lambda space, rng, scorer: SimulatedAnnealing(
            space, rng, scorer, steps=steps, patience=patience, informed=_fitting(prior, space) is not None
        ),
        sampler=lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured, epsilon),
        model=_xgb(loss, prior),
    )


def quick(prior: StoredModel | None = None) -> Method:
    """:func:`autotvm` for the short rounds of a network: 80 annealing steps instead of 500.

    500 steps of 128 chains take 0.6 to 1.6 s with some 250 features, in which half a round of 16 could be measured;
    AutoTVM's rounds are of 64. The chains persist between rounds, so a walk is cut into parts rather than short.
    """
    return autotvm(steps=80, patience=20, prior=prior)


def bayesian(prior: StoredModel | None = None) -> Method:
    """Bayesian optimisation over the knobs, which without a prior starts around the default.

    Args:
        prior: a model fitted to other tasks: the first batch, and what the measurements then correct.
    """
    return Method(
        name="bayesian" if prior is None else f"bayesian+{prior.name}",
        searcher=lambda space, rng, scorer: BayesianSearch(space, rng, None if prior is None else scorer),
        sampler=lambda space, rng, measured: TopK(),
        model=None if prior is None else lambda space, seed: FixedModel(_fitting(prior, space)),
        shared=lambda seed: _bayesian_shared(SharedModels(prior, seed)),
    )


def _bayesian_shared(models: SharedModels) -> Method:
    """:func:`bayesian` whose prior is what tasks share."""
    return Method(
        name=f"bayesian+{'' if models.prior is None else models.prior.name + '+'}shared",
        searcher=lambda space, rng, scorer: BayesianSearch(space, rng, scorer),
        sampler=lambda space, rng, measured: TopK(),
        model=lambda space, seed: models.of(space).of(space.task.key),
        models=models,
    )


def default(prior: StoredModel | None = None) -> Method:
    """What ``tune`` searches with: :func:`bayesian`, which won on the recorded tables (docs/results)."""
    return bayesian(prior)


def known_beforehand(path: Path | None = None) -> tuple[StoredModel | None, str]:
    """The cost model that comes with Tilewright, or that of a file.

    Returns:
        the model, and an empty text; or None and what is wrong with it: tuning goes on without.
    """
    try:
        stored = pretrained(SHIPPED if path is None else path)
        if isinstance(stored.model, XGBoostModel):  # workers wait while the search thinks
            stored.model.use_threads(usable_cores())
        return stored, ""
    except (CostModelError, MissingExtraError) as error:
        return None, f"{error}; tuning goes on without a cost model of other tasks"


def _xgb(loss: Loss, prior: StoredModel | None) -> ModelFactory:
    return lambda space, seed: XGBoostModel(loss, seed=seed, prior=_fitting(prior, space))


def _fitting(prior: StoredModel | None, space: DesignSpace) -> CostModel | None:
    """The prior, where it was fitted to programs of the space's template."""
    fits = prior is not None and space.has_loop_nest and prior.template == space.template
    return prior.model if prior is not None and fits else None


def random_search() -> Method:
    """Uniformly random configs: the baseline of baselines."""
    return Method(
        name="random",
        searcher=lambda space, rng, scorer: RandomSearch(space, rng),
        sampler=lambda space, rng, measured: TopK(),
        model=None,
    )


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
    for name, known, what in ((searcher, SEARCHERS, "searcher"), (sampler, SAMPLERS, "sampler")):
        if name not in known:
            raise TilewrightError(f"a {what} is one of {', '.join(known)}, but this is {name!r}")
    search, pick = SEARCHERS[searcher], SAMPLERS[sampler]
    if search.module and find_spec(search.module) is None:
        raise MissingExtraError(search.module, search.extra)
    if searcher == "bayesian" and prior is not None and not pick.scored:
        return replace(bayesian(prior), name=f"{searcher}+{sampler}", sampler=pick.make, shared=None)
    return Method(
        name=f"{searcher}+{sampler}",
        searcher=search.make,
        sampler=pick.make,
        model=_xgb(loss, prior) if search.guided or pick.scored else None,
    )
