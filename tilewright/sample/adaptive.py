"""Adaptive sampling, which measures the centres of clusters of proposals (Chameleon; arXiv 2001.08743, section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.sample.top import best_first
from tilewright.space.configs import ConfigSet, Contains, canonical
from tilewright.space.knob import Knob, OrderKnob
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Adaptive"]


class Adaptive:
    """Picks one config of each cluster of similar proposals, with as few clusters as the knee of the loss allows.

    K-means puts the ``plan`` best proposals into 8, 16, 24 ... clusters, until 8 more clusters no longer lower the loss
    by the factor ``knee``. The proposal nearest to each centre is picked. If the config at the centre itself was
    measured before, a new config is synthesised: the most frequent choice of each knob in the cluster. It is picked
    instead if it is valid and new.

    With the papers' factor of 2.5 the second try is the last, unless the proposals fall into groups far apart. 16
    clusters have 0.56 to 0.71 of the loss of 8, not 0.4 (64 to 512 proposals of 5 knobs, random or by annealing; 0.86
    with 11 knobs). So 16 of 64 proposals are picked, which is the saving. The factor fits the published code, which
    clusters over two knobs: in a plane twice the clusters have about half of the loss.

    Different from the published code:

    - Clusters are over all knobs with equal weights, not over the two or three largest knobs.
    - Centres are proposals, not the results of rounding.
    - Synthesis uses the cluster's own proposals, not all proposals. It gives one new config or none, so that it ends.

    Args:
        space: of the configs.
        rng: the only source of randomness.
        measured: says which configs were measured. Proposals count as not measured, so a searcher's ``seen.has``
            serves.
        step: the number by which the clusters grow.
        knee: the factor by which ``step`` more clusters must lower the loss.
        plan: the number of proposals that are clustered, at least the number of picks. After 96 trials on
            ``tests.toys.TableSpace`` by annealing and XGBoost, 64 proposals, as in the papers, came to 0.99 of the best
            speed, and 256 or 512 to 0.97 or 0.98 (means of 7 seeds; without clusters, the 64 best: 0.96).
        oversampling: the proposals to ask for per pick. With 4, rounds of 16 have 64 proposals. With 1 all of up to 16
            proposals are picked, so 1 serves only rounds as large as the plan.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        measured: Contains,
        *,
        step: int = 8,
        knee: float = 2.5,
        plan: int = 64,
        oversampling: float = 4.0,
    ) -> None:
        self.oversampling = oversampling
        self._space = space
        self._rng = rng
        self._measured = measured
        self._step = step
        self._knee = knee
        self._plan = plan
        self._places = [_places(knob) for knob in space.knobs]

    def pick(self, configs: Configs, scores: NDArray[np.float64], count: int) -> Configs:
        """At most ``count`` different configs, ``(n, knobs)``, often fewer. The cluster of the best proposal is first.

        Proposals with nan scores are clustered only if all scores are nan.
        """
        if count <= 0:
            return configs[:0]
        predicted = ~np.isnan(scores)
        if predicted.any():
            configs, scores = configs[predicted], scores[predicted]
        configs = configs[best_first(scores)[: max(self._plan, count)]]
        if len(configs) <= min(self._step, count):
            return configs
        points = np.concatenate([p[configs[:, i]] for i, p in enumerate(self._places)], axis=1)
        labels, centres = self._clusters(points, min(count, len(configs)))
        proposals, taken = ConfigSet(), ConfigSet()
        proposals.add(configs)
        picked = [configs[:0]]
        for cluster in dict.fromkeys(labels.tolist()):
            members = np.flatnonzero(labels == cluster)
            distances = ((points[members] - centres[cluster]) ** 2).sum(axis=1)
            nearest = configs[members[np.argsort(distances, kind="stable")]]
            config = self._representative(nearest, centres[cluster], proposals, taken)
            taken.add(config)
            picked.append(config)
        return np.concatenate(picked)

    def _clusters(self, points: NDArray[np.float64], most: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The ``(n,)`` cluster of each point, and the ``(clusters, features)`` centres."""
        # The import takes 1.3 s of processor time, so it waits until it is needed.
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        seed = int(self._rng.integers(1 << 31))
        before = np.inf
        # Several threads add in any order, so that the same seed would give other clusters.
        with threadpool_limits(1):
            for clusters in range(min(self._step, most), most + 1, self._step):
                model = KMeans(n_clusters=clusters, n_init=1, random_state=seed).fit(points)
                if self._knee * model.inertia_ >= before:
                    break
                before = model.inertia_
        return model.labels_.astype(np.intp), model.cluster_centers_

    def _representative(
        self, nearest: Configs, centre: NDArray[np.float64], proposals: ConfigSet, taken: ConfigSet
    ) -> Configs:
        """The cluster's pick, ``(1, knobs)``; ``(0, knobs)`` if other clusters have synthesised all its configs."""
        if self._known(self._at(centre), proposals)[0]:
            made = canonical(self._space, _modes(nearest))
            if self._space.valid(made)[0] and not (self._known(made, proposals) | taken.has(made))[0]:
                return made
        return nearest[~taken.has(nearest)][:1]

    def _known(self, configs: Configs, proposals: ConfigSet) -> NDArray[np.bool_]:
        return np.asarray(self._measured(configs) & ~proposals.has(configs))

    def _at(self, centre: NDArray[np.float64]) -> Configs:
        """``(1, knobs)``: the choice of each knob nearest to the centre, valid or not."""
        ends = np.cumsum([places.shape[1] for places in self._places])[:-1]
        parts = zip(self._places, np.split(centre, ends), strict=True)
        row = [int(((places - part) ** 2).sum(axis=1).argmin()) for places, part in parts]
        return canonical(self._space, np.asarray([row], dtype=np.int32))


def _places(knob: Knob) -> NDArray[np.float64]:
    """``(choices, width)``: the positions of the choices, with variance 1.

    Most numbers are sizes, so equal ratios are equal distances. The variance is that of all choices of the knob. That
    of the proposed choices would move a rare choice far away, into a cluster of its own.
    """
    table = knob.table.astype(np.float64)
    places = table if isinstance(knob, OrderKnob) or (table < 0).any() else np.log2(1.0 + table)
    spread = np.sqrt(places.var(axis=0).sum())
    return np.asarray(places / (spread if spread > 0 else 1.0))


def _modes(rows: Configs) -> Configs:
    """``(1, knobs)``: the most frequent choice of each knob; the smallest of several."""
    return np.asarray([[np.bincount(column).argmax() for column in rows.T]], dtype=np.int32)
