"""XGBoost as the cost model of methods: each task has a model, which is refitted after every round."""

from __future__ import annotations

from tilewright.cost.models import StoredModel
from tilewright.cost.xgb import Loss, XGBoostModel
from tilewright.methods.method import ModelFactory, select_prior

__all__ = ["make_boosted_trees"]


def make_boosted_trees(loss: Loss = "rank", prior: StoredModel | None = None) -> ModelFactory:
    """The factory of boosted trees, one model a task.

    Args:
        loss: of XGBoost.
        prior: a model fitted to other tasks, whose scores the trees correct if it was fitted to the task's template.
    """
    return lambda space, seed: XGBoostModel(loss, seed=seed, prior=select_prior(prior, space))
