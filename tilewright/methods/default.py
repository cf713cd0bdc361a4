"""Tilewright's own method: Bayesian optimisation over the knobs, with a cost model of earlier tasks as its prior.

A cost model that was fitted to the programs of other networks proposes the first batch. A Gaussian process over the
knobs then learns the errors of that model on this task. Similar tasks lend each other their best two configs, until
these lose against a task's own.
"""

from __future__ import annotations

from pathlib import Path

from tilewright.cost.models import StoredModel
from tilewright.cost.prior import SHIPPED, FixedModel, load_pretrained
from tilewright.cost.xgb import XGBoostModel
from tilewright.errors import CostModelError, MissingExtraError
from tilewright.methods.method import Method, select_prior
from tilewright.sample.top import TopK
from tilewright.search.bayesian import BayesianSearch
from tilewright.tvm_compat import usable_cores

__all__ = ["bayesian", "default", "known_beforehand"]


def bayesian(prior: StoredModel | None = None) -> Method:
    """Bayesian optimisation over the knobs. Without a prior it starts around the space's default.

    Args:
        prior: a model fitted to other tasks, which decides the first batch, and which the measurements then correct.
    """
    return Method(
        name="bayesian" if prior is None else f"bayesian+{prior.name}",
        searcher=lambda space, rng, scorer: BayesianSearch(space, rng, None if prior is None else scorer),
        sampler=lambda space, rng, measured: TopK(),
        model=None if prior is None else lambda space, seed: FixedModel(select_prior(prior, space)),
    )


def default(prior: StoredModel | None = None) -> Method:
    """The method of ``tune``: :func:`bayesian`, which won on the recorded tables (docs/results/search.md)."""
    return bayesian(prior)


def known_beforehand(path: Path | None = None) -> tuple[StoredModel | None, str]:
    """The shipped cost model, or that of a file.

    Returns:
        the model and an empty text; or None and the reason why there is no model. Tuning then goes on without one.
    """
    try:
        stored = load_pretrained(SHIPPED if path is None else path)
        if isinstance(stored.model, XGBoostModel):  # the workers, and so the cores, are idle while the search thinks
            stored.model.use_threads(usable_cores())
        return stored, ""
    except (CostModelError, MissingExtraError) as error:
        return None, f"{error}; tuning goes on without a cost model of other tasks"
