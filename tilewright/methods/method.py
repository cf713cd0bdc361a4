"""What a method is: a searcher, a sampler, a cost model and a policy of sharing, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from tilewright.cost.model import CostModel
from tilewright.cost.models import StoredModel
from tilewright.sample.sampler import Sampler
from tilewright.search.searcher import Scorer, Searcher
from tilewright.share.policy import Sharing
from tilewright.space.configs import Contains
from tilewright.space.space import DesignSpace

__all__ = ["Method", "ModelFactory", "SamplerFactory", "SearcherFactory", "fitting_prior"]

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
        sharing: what the tasks of a network borrow from each other; None: nothing.
    """

    name: str
    searcher: SearcherFactory
    sampler: SamplerFactory
    model: ModelFactory | None
    sharing: Sharing | None = field(default_factory=Sharing)


def fitting_prior(prior: StoredModel | None, space: DesignSpace) -> CostModel | None:
    """The prior, where it was fitted to programs of the space's template."""
    fits = prior is not None and space.has_loop_nest and prior.template == space.template
    return prior.model if prior is not None and fits else None
