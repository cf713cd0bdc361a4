"""AutoTVM: simulated annealing on the scores of boosted trees.

Chen et al. 2018, "Learning to Optimize Tensor Programs", arXiv 1805.08166; Apache TVM up to 0.19, ``autotvm``.

Each round anneals 128 chains for 500 steps on XGBoost's scores, takes the best configs, and replaces 5 % of them by
random configs. The chains persist from round to round. Tasks of a network share nothing.

What was changed:

- AutoTVM dropped candidates with a predicted score below 0. A rank loss has no zero, so nothing is dropped here.
- AutoTVM planned 64 configs a round and refitted after 64 more. Here the network's scheduler decides the size of a
  round, mostly 16, and the trees are refitted after every round.
- Features are those of the loop nest (AutoTVM's ``itervar``), which beat its other two in independent reproductions.
"""

from __future__ import annotations

from dataclasses import replace

from tilewright.cost.models import StoredModel
from tilewright.cost.xgb import Loss
from tilewright.methods.method import Method, select_prior
from tilewright.methods.trees import make_boosted_trees
from tilewright.sample.epsilon_greedy import EpsilonGreedy
from tilewright.sample.top import TopK
from tilewright.search.annealing import SimulatedAnnealing
from tilewright.share.policy import Sharing

__all__ = ["autotvm", "quick"]


def autotvm(
    loss: Loss = "rank",
    *,
    steps: int = 500,
    patience: int = 50,
    epsilon: float = 0.05,
    prior: StoredModel | None = None,
) -> Method:
    """Annealing on XGBoost's scores, with a share of random configs.

    Args:
        loss: of XGBoost.
        steps: the most annealing steps per round.
        patience: annealing ends after this number of steps without a better set of proposals.
        epsilon: the share of random configs.
        prior: a model fitted to other tasks, which XGBoost's trees correct.
    """
    return Method(
        name="autotvm",
        searcher=lambda space, rng, scorer: SimulatedAnnealing(
            space, rng, scorer, steps=steps, patience=patience, informed=select_prior(prior, space) is not None
        ),
        sampler=lambda space, rng, measured: EpsilonGreedy(space, rng, TopK(), measured, epsilon),
        model=make_boosted_trees(loss, prior),
        sharing=None,
    )


def quick(prior: StoredModel | None = None) -> Method:
    """:func:`autotvm` with 80 annealing steps instead of 500, for the short rounds of a network.

    With some 250 features, 500 steps of 128 chains take 0.6 to 1.6 s. In that time half a round of 16 could be
    measured; AutoTVM's rounds have 64. The chains persist between rounds, so that a walk goes on in the next round.

    Args:
        prior: a model fitted to other tasks, which XGBoost's trees correct.
    """
    return replace(autotvm(steps=80, patience=20, prior=prior), sharing=Sharing())
