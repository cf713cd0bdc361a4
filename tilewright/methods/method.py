"""A method: a searcher, a sampler, a cost model and a policy of sharing."""

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
from tilewright.space.loop_nest import name_nest
from tilewright.space.space import DesignSpace

__all__ = ["Method", "ModelFactory", "SamplerFactory", "SearcherFactory", "select_prior"]

SearcherFactory: TypeAlias = Callable[[DesignSpace, np.random.Generator, Scorer], Searcher]
ModelFactory: TypeAlias = Callable[[DesignSpace, int], CostModel]
SamplerFactory: TypeAlias = Callable[[DesignSpace, np.random.Generator, Contains], Sampler]


@dataclass(frozen=True)
class Method:
    """The factories of a method, which make the objects of each task for its space.

    Attributes:
        name: for people and for the report.
        searcher: makes a searcher from a space, a source of randomness, and a scorer of configs.
        sampler: makes a sampler from a space, a source of randomness, and what says which configs were proposed or
            measured.
        model: makes a cost model from a space and a seed; None if the method has no cost model.
        sharing: what the tasks of a network borrow from each other; None if they borrow nothing.
    """

    name: str
    searcher: SearcherFactory
    sampler: SamplerFactory
    model: ModelFactory | None
    sharing: Sharing | None = field(default_factory=Sharing)


def select_prior(prior: StoredModel | None, space: DesignSpace) -> CostModel | None:
    """The prior's model if it was fitted to loop nests of the space's template, in any version; otherwise None.

    A new version means that a config stands for another program. The columns that describe a program stay the same.
    """
    fits = prior is not None and space.has_loop_nest and name_nest(prior.template) == name_nest(space.template)
    return prior.model if prior is not None and fits else None
