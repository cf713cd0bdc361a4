"""What a method is: a searcher, a sampler, a cost model and a policy of sharing, put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.cost.models import StoredModel
from tilewright.cost.shared import SharedModel
from tilewright.sample.sampler import Sampler
from tilewright.search.searcher import Scorer, Searcher
from tilewright.share.policy import Sharing
from tilewright.space.configs import Contains
from tilewright.space.space import DesignSpace

__all__ = ["Method", "ModelFactory", "SamplerFactory", "SearcherFactory", "SharedModels", "fitting_prior"]

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
        sharing: what the tasks of a network borrow from each other; None: nothing.
    """

    name: str
    searcher: SearcherFactory
    sampler: SamplerFactory
    model: ModelFactory | None
    shared: Callable[[int], Method] | None = None
    models: SharedModels | None = None
    sharing: Sharing | None = field(default_factory=Sharing)


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
            self._models[space.template] = SharedModel(fitting_prior(self.prior, space), self._seed)
        return self._models[space.template]

    def describe(self) -> dict[str, Any]:
        """For the report: by template, whether scores are corrected, and what that gains in pairwise accuracy."""
        found = {name: (model.believed, model.gained) for name, model in self._models.items()}
        return {
            name: {"believed": believed, "gained": gained if math.isfinite(gained) else None}
            for name, (believed, gained) in found.items()
        }


def fitting_prior(prior: StoredModel | None, space: DesignSpace) -> CostModel | None:
    """The prior, where it was fitted to programs of the space's template."""
    fits = prior is not None and space.has_loop_nest and prior.template == space.template
    return prior.model if prior is not None and fits else None
