"""Gradient-boosted trees on a program's features: AutoTVM's cost model (arXiv 1805.08166, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.cost.features import View, features
from tilewright.cost.forest import Forest
from tilewright.cost.model import CostModel, Programs
from tilewright.cost.ranking import pairwise_accuracy
from tilewright.cost.trees import Trees, pack, unpack
from tilewright.errors import TilewrightError
from tilewright.tensor import Array

if TYPE_CHECKING:
    import xgboost

__all__ = ["AverageRecall", "Boosting", "Loss", "XGBoostModel", "relative_throughput"]

#: What the trees minimise: misordered pairs, or the squared error of the relative throughput.
Loss: TypeAlias = Literal["rank", "regression"]

#: The paper's N: recall is that of the best 64 programs, the number that AutoTVM measured in a round.
_TOP = 64
#: Up to 512 programs, NumPy walks shallow trees faster than XGBoost. Reading the trees for NumPy takes 10 ms, so that
#: waits for the 20th such call.
_FEW, _CALLS = 512, 20
#: Before measurements count, a prior is trusted as if it had ranked 8 programs rightly.
_TRUST = 8
#: The weight of a prior that ranks all programs rightly, under a rank loss, in logits per standard deviation of scores.
_RANKED = 3.0
#: The bins of each feature.
_BINS = 64
_OBJECTIVES: dict[str, dict[str, str | int]] = {
    # Pairs of one of the predicted best 64 programs with any other. AutoTVM had one random pair per program, which
    # learns the order of bad programs as eagerly as that of good ones. After 64 measurements, the best of the predicted
    # top 64 of 7,398 toy programs had 0.91 to 0.95 of the optimum's speed. With these pairs it had 0.96 to 0.99
    # (mean of 6 seeds, 30 to 200 trees). rank:ndcg is no choice, because its labels are grades.
    "rank": {
        "objective": "rank:pairwise",
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": _TOP,
    },
    "regression": {"objective": "reg:squarederror"},
}


@dataclass(frozen=True)
class Boosting:
    """The hyperparameters of gradient boosting (Chen and Guestrin, arXiv 1603.02754), with AutoTVM's values.

    Attributes:
        rounds: the most trees. AutoTVM had 8,000; here a refit must take less time than it saves.
        patience: training ends after this number of trees without a better recall on the training data.
        max_depth: the greatest depth of a tree.
        eta: the share of a tree's correction that counts.
        colsample_bynode: the share of the features from which a split chooses.
        subsample: the share of the programs to which a tree is fitted.
    """

    rounds: int = 100
    patience: int = 20
    max_depth: int = 3
    eta: float = 0.3
    colsample_bynode: float = 1.0
    subsample: float = 1.0


class XGBoostModel:
    """Trees that are fitted to throughput relative to the task's best program, where failures count as 0.

    The trees are the paper's, with gamma 1e-4, min_child_weight 1 and lambda 1. Different from the paper:

    - Recall is averaged over the best 1 to 64 programs, as in AutoTVM's code. XGBoost's own ndcg refuses labels that
      are not integers since version 2.
    - Ranking compares programs with the top 64 only.
    - Features have 64 bins, because tile sizes have few values.

    Args:
        loss: ``rank``: pairwise order within each task. ``regression``: squared error.
        boosting: the hyperparameters of the trees.
        seed: of XGBoost.
        threads: of XGBoost, to fit and to predict.
        view: of the programs, see :func:`tilewright.cost.features.features`.
        prior: a model fitted to other tasks, whose scores the trees correct. AutoTVM halved the weight of such scores
            with every 64 measurements. Here their weight grows with the share of measured pairs that they rank rightly.
            So a prior of another machine is dropped after the first batch.

    Raises:
        TilewrightError: the loss does not exist.
    """

    def __init__(
        self,
        loss: Loss = "rank",
        *,
        boosting: Boosting | None = None,
        seed: int = 0,
        threads: int = 1,
        view: View = "itervar",
        prior: CostModel | None = None,
    ) -> None:
        if loss not in _OBJECTIVES:
            raise TilewrightError(f"the loss of a cost model is one of {', '.join(_OBJECTIVES)}, but this is {loss!r}")
        self.loss = loss
        self._boosting = Boosting() if boosting is None else boosting
        self._threads = threads
        self._prior = prior
        self._view: View = view
        self._margin = _Margin()
        self._booster: xgboost.Booster | None = None
        self._forest: Forest | None = None
        self._calls = 0
        self._parameters: dict[str, str | int | float] = {
            **_OBJECTIVES[loss],
            "max_depth": self._boosting.max_depth,
            "eta": self._boosting.eta,
            "colsample_bynode": self._boosting.colsample_bynode,
            "subsample": self._boosting.subsample,
            "gamma": 1e-4,
            "min_child_weight": 1,
            "reg_lambda": 1,
            "tree_method": "hist",
            "max_bin": _BINS,
            "seed": seed,
            "verbosity": 0,
            "disable_default_eval_metric": True,
        }

    @property
    def ready(self) -> bool:
        """Whether the model was fitted to programs of different speed, or has a prior."""
        return self._booster is not None or (self._prior is not None and self._prior.ready)

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn from measurements, and forget what was learnt before.

        Measurements without any difference (none at all, or failures only) leave a model without a prior unready.

        Args:
            programs: the measured programs of each task, all of one kind and width.
            seconds: the ``(n,)`` latencies of each task in seconds; nan if a program failed.

        Raises:
            TilewrightError: programs differ in width, or have not one latency each.
        """
        given = [(p, s) for p, s in zip(programs, seconds, strict=True) if len(s) > 0]
        tasks = [(features(p, self._view), relative_throughput(s)) for p, s in given]
        if len({table.shape[1] for table, _ in tasks}) > 1 or any(len(table) != len(y) for table, y in tasks):
            shapes = ", ".join(f"{table.shape} with {len(labels)} latencies" for table, labels in tasks)
            raise TilewrightError(
                f"a cost model is fitted to programs of one width, each with its latency, but these are {shapes}; "
                "use a model per template"
            )
        self._booster, self._forest, self._calls, self._margin = None, None, 0, _Margin()
        if any(len(np.unique(labels)) > 1 for _, labels in tasks):
            margins = None
            if self._prior is not None and self._prior.ready:
                scores = [self._prior.predict(p) for p, _ in given]
                self._margin = _Margin.of(scores, [labels for _, labels in tasks], self.loss)
                margins = self._margin(np.concatenate(scores))
            self._booster = self._train(tasks, margins)

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        """The ``(n,)`` scores, where higher is faster within one task; all 0 before the model is ready."""
        if len(programs) == 0 or not self.ready:
            return np.zeros(len(programs))
        scores = None
        if self._prior is not None and self._prior.ready:
            scores = self._margin(self._prior.predict(programs))
        if self._booster is None:
            assert scores is not None
            return scores
        table = features(programs, self._view)
        forest = self._quick_forest(self._booster) if len(table) <= _FEW else None
        if forest is not None and not np.isnan(table.min()):
            return forest.predict(table, scores)
        # In place, because making a DMatrix takes longer than 100 trees.
        return np.asarray(self._booster.inplace_predict(table, base_margin=scores), dtype=np.float64)

    def state(self) -> dict[str, Array]:
        """The trees as arrays (:mod:`tilewright.cost.trees`); no arrays before the model was fitted."""
        return {} if self._booster is None else pack(self._booster).arrays()

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over the trees of :meth:`state`.

        Raises:
            KeyError: an array is missing.
            ValueError: the trees are damaged.
        """
        self._booster = unpack(Trees.of(state), self._threads)
        self._forest, self._calls = None, 0

    def use_threads(self, count: int) -> None:
        """Fit and predict on ``count`` threads from now on. Scores do not depend on the number."""
        self._threads = count
        if self._booster is not None:
            self._booster.set_param({"nthread": count})

    def _quick_forest(self, booster: xgboost.Booster) -> Forest | None:
        """The trees for calls with few programs; None before the 20th such call, or if the trees are deep."""
        self._calls += 1
        if self._calls == _CALLS:
            self._forest = Forest.of(pack(booster))
        return self._forest

    def _train(
        self,
        tasks: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        margins: NDArray[np.float64] | None,
    ) -> xgboost.Booster:
        import xgboost

        labels = np.concatenate([y for _, y in tasks])
        groups = np.repeat(np.arange(len(tasks)), [len(y) for _, y in tasks])
        data = xgboost.QuantileDMatrix(
            np.concatenate([table for table, _ in tasks]),
            labels,
            max_bin=_BINS,
            nthread=self._threads,
            qid=groups if self.loss == "rank" else None,
            base_margin=margins,
        )
        return xgboost.train(
            {**self._parameters, "nthread": self._threads},
            data,
            num_boost_round=self._boosting.rounds,
            evals=[(data, "train")],
            custom_metric=_metric(labels, groups),
            callbacks=[xgboost.callback.EarlyStopping(rounds=self._boosting.patience, maximize=True)],
            verbose_eval=False,
        )


@dataclass(frozen=True)
class _Margin:
    """The score before the first tree: ``offset + slope * score`` of a prior's score."""

    offset: float = 0.0
    slope: float = 1.0

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.offset + self.slope * scores

    @classmethod
    def of(cls, scores: list[NDArray[np.float64]], labels: list[NDArray[np.float32]], loss: Loss) -> _Margin:
        """The margin of a prior, by how well its ``scores`` rank programs with known ``labels`` (higher is faster)."""
        spread = float(np.concatenate(scores).std())
        if spread == 0 or not np.isfinite(spread):
            return cls(0.0, 0.0)
        counts = [len(y) for y in labels]
        right = [pairwise_accuracy(s, 1.0 - y.astype(np.float64)) for s, y in zip(scores, labels, strict=True)]
        known = [(a, n) for a, n in zip(right, counts, strict=True) if np.isfinite(a)]
        total = sum(n for _, n in known)
        accuracy = (_TRUST * 1.0 + sum(a * n for a, n in known)) / (_TRUST + total)
        weight = max(0.0, 2.0 * accuracy - 1.0)
        if loss == "rank":
            return cls(0.0, _RANKED * weight / spread)
        x, y = np.concatenate(scores), np.concatenate(labels).astype(np.float64)
        slope = max(0.0, float(np.cov(x, y, bias=True)[0, 1] / x.var())) if len(x) > 2 else 0.0
        return cls(float(y.mean() - slope * x.mean()), slope)


def relative_throughput(seconds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The ``(n,)`` ratios of the best latency to each latency: 1 for the best program, 0 for failures (nan)."""
    ok = np.isfinite(seconds)
    best = float(np.min(seconds, where=ok, initial=np.inf))
    return np.divide(best, seconds, out=np.zeros(len(seconds)), where=ok).astype(np.float32)


class AverageRecall:
    """The mean of recall@k over k = 1 to 64 and over tasks, for many predictions of the same labels.

    Recall@k is the share of the best k programs that is among the predicted best k. Training computes it after each
    tree.

    Args:
        labels: ``(n,)`` true values, higher is better.
        groups: ``(n,)`` the task of each program, ascending from 0.
    """

    def __init__(self, labels: NDArray[np.float32], groups: NDArray[np.intp]) -> None:
        self._groups = groups
        self._places = np.arange(len(groups)) - np.searchsorted(groups, groups)
        sizes = np.bincount(groups)
        self._tasks = len(sizes)
        # Programs beyond the best 64 never count.
        ranks = self._ranks(labels)
        self._top = np.flatnonzero(ranks < _TOP)
        self._top_ranks = ranks[self._top]
        self._top_groups = groups[self._top]
        self._k = np.arange(1, _TOP + 1)
        self._meant = self._k <= sizes[:, None]
        self._counts = self._meant.sum(axis=1)

    def __call__(self, scores: NDArray[np.float32]) -> float:
        """The mean recall of ``(n,)`` predicted values."""
        # A program counts from the first k at which it is in both lists.
        from_k = np.maximum(self._top_ranks, self._ranks(scores)[self._top])
        within = from_k < _TOP
        cells = self._top_groups[within] * _TOP + from_k[within]
        hits = np.bincount(cells, minlength=self._tasks * _TOP).reshape(self._tasks, _TOP)
        recall = np.where(self._meant, hits.cumsum(axis=1) / self._k, 0.0)
        return float(np.mean(recall.sum(axis=1) / self._counts))

    def _ranks(self, values: NDArray[np.float32]) -> NDArray[np.intp]:
        order = np.argsort(-values, kind="stable") if self._tasks == 1 else np.lexsort((-values, self._groups))
        ranks = np.empty(len(values), dtype=np.intp)
        ranks[order] = self._places
        return ranks


def _metric(
    labels: NDArray[np.float32], groups: NDArray[np.intp]
) -> Callable[[NDArray[np.float32], xgboost.DMatrix], tuple[str, float]]:
    recall = AverageRecall(labels, groups)
    return lambda scores, _: ("recall", recall(scores))
