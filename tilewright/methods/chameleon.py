"""Chameleon, first published as RELEASE: a policy proposes configs, and adaptive sampling measures few of them.

Ahn et al., arXiv 1905.12799 (RELEASE) and ICLR 2020, arXiv 2001.08743 (Chameleon).

PPO walks from random configs, by steps of one choice on every knob, and is rewarded with the cost model's scores.
K-means clusters its proposals, up to the knee of the loss. Only the configs at the centres are measured.

What was changed:

- The policy is Stable-Baselines3's. The published code left the policy untrained in two of three releases.
- Clusters are made over all knobs. The published code used the two or three largest.
- A centre that was measured before is replaced by a new config of each knob's most frequent choice in its cluster, or
  by none. The search of the published code for a new config may never end.
"""

from __future__ import annotations

from tilewright.cost.models import StoredModel
from tilewright.cost.xgb import Loss
from tilewright.methods.method import Method
from tilewright.methods.parts import make_searcher
from tilewright.methods.trees import make_boosted_trees
from tilewright.sample.adaptive import Adaptive

__all__ = ["chameleon"]


def chameleon(prior: StoredModel | None = None, loss: Loss = "rank") -> Method:
    """PPO, adaptive sampling, and XGBoost.

    Args:
        prior: a model fitted to other tasks, which XGBoost's trees correct.
        loss: of XGBoost.

    Raises:
        MissingExtraError: Stable-Baselines3 is not installed.
    """
    return Method(
        name="chameleon",
        searcher=make_searcher("ppo"),
        sampler=lambda space, rng, measured: Adaptive(space, rng, measured),
        model=make_boosted_trees(loss, prior),
        sharing=None,
    )
