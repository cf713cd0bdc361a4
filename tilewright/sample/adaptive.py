"""Adaptive sampling: measure the centres of clusters of proposals (Chameleon; arXiv 2001.08743, section 4)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from tilewright.sample.top import best_first
from tilewright.space.configs import ConfigSet, Contains, canonical, distinct, knob_values
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Adaptive"]


class Adaptive:
    """One config of each cluster of alike proposals, and no more clusters than tell them apart.

    k-means with 8, 16, 24 ... clusters, until 8 more no longer lower the loss by the factor ``knee``. Each centre
    becomes the proposal next to it. A centre whose proposals were measured before gives a synthesised config instead:
    of each knob the choice that most of the cluster have, if that is valid and new.

    Different from the published code: clusters over all knobs rather than the two or three largest, scaled so that each
    knob spreads alike; synthesis from the cluster's own proposals rather than all; and it ends.

    Args:
        space: whose configs are picked.
        rng: the only source of randomness.
        measured: which configs were measured; a searcher's ``seen.has`` does not do, for that has the proposals, too.
        step: clusters are tried by so many.
        knee: the factor by which ``step`` more clusters must lower the loss.

    Attributes:
        oversampling: proposals per pick that clusters are formed of.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        measured: Contains,
        *,
        step: int = 8,
        knee: float = 2.5,
        oversampling: float = 8.0,
    ) -> None:
        self.oversampling = oversampling
        self._space = space
        self._rng = rng
        self._measured = measured
        self._step = step
        self._knee = knee

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs, ``(n, knobs)``, of the best scored clusters first; often fewer."""
        rows, first = configs, best_first(scores)
        if count <= 0 or len(rows) == 0:
            return rows[:0]
        points = self._points(rows)
        labels, centres = self._clusters(points, min(count, len(distinct(rows))))
        picked: list[NDArray[np.int32]] = []
        taken = ConfigSet()
        rank = np.empty(len(rows), dtype=np.intp)
        rank[first] = np.arange(len(rows))
        best = [int(rank[labels == c].min(initial=len(rows))) for c in range(len(centres))]
        for cluster in np.argsort(best, kind="stable").tolist():
            members = np.flatnonzero(labels == cluster)
            if len(members) == 0:
                continue
            config = self._representative(rows[members], points[members], centres[cluster], taken)
            if config is not None:
                taken.add(config[None])
                picked.append(config)
        return np.stack(picked).astype(np.int32) if picked else rows[:0]

    def _points(self, configs: Configs) -> NDArray[np.float64]:
        values = np.asarray(knob_values(self._space, configs), dtype=np.float64)
        spread = values.std(axis=0)
        return np.asarray(values / np.where(spread > 0, spread, 1.0))

    def _clusters(self, points: NDArray[np.float64], most: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        from sklearn.cluster import KMeans

        seed = int(self._rng.integers(1 << 31))
        most = min(most, len(np.unique(points, axis=0)))
        chosen = None
        loss = np.inf
        for clusters in range(min(self._step, most), most + 1, self._step):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # fewer distinct points than clusters are no news
                model = KMeans(n_clusters=clusters, n_init=1, random_state=seed).fit(points)
            if chosen is not None and model.inertia_ * self._knee > loss:
                break
            chosen, loss = model, float(model.inertia_)
            if loss == 0.0:
                break
        assert chosen is not None
        return chosen.labels_.astype(np.intp), chosen.cluster_centers_

    def _representative(
        self, rows: Configs, points: NDArray[np.float64], centre: NDArray[np.float64], taken: ConfigSet
    ) -> NDArray[np.int32] | None:
        order = np.argsort(((points - centre) ** 2).sum(axis=1), kind="stable")
        known = self._measured(rows) | taken.has(rows)
        if not known[order[0]]:
            return np.asarray(rows[order[0]])
        made = canonical(self._space, _modes(rows)[None])
        if self._space.valid(made)[0] and not self._measured(made)[0] and not taken.has(made)[0]:
            return np.asarray(made[0])
        rest = order[~known[order]]
        return np.asarray(rows[rest[0]]) if len(rest) else None


def _modes(rows: Configs) -> NDArray[np.int32]:
    """Of each knob the choice that most rows have; of several the smallest."""
    return np.asarray([np.bincount(column).argmax() for column in rows.T], dtype=np.int32)
