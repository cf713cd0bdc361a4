"""XGBoost as methods use it: a model of each task, corrected round by round."""

from __future__ import annotations

from tilewright.cost.models import StoredModel
from tilewright.cost.xgb import Loss, XGBoostModel
from tilewright.methods.method import ModelFactory, fitting_prior

__all__ = ["boosted_trees"]


def boosted_trees(loss: Loss = "rank", prior: StoredModel | None = None) -> ModelFactory:
    """Models of tasks by boosted trees.

    Args:
        loss: of XGBoost.
        prior: a model fitted to other tasks, whose scores the trees correct where it knows the task's template.
    """
    return lambda space, seed: XGBoostModel(loss, seed=seed, prior=fitting_prior(prior, space))
