"""Adaptive sampling: measure the centres of clusters of proposals (Chameleon; arXiv 2001.08743, section 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.sample.top import best_first
from tilewright.space.configs import ConfigSet, Contains, canonical
from tilewright.space.knob import Knob, OrderKnob
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Adaptive"]


class Adaptive:
    """One config of each cluster of alike proposals, and no more clusters than tell them apart.

    The ``plan`` best proposals go into 8, 16, 24 ... clusters by k-means, until 8 more no longer lower the loss by the
    factor ``knee``. Each centre becomes the proposal next to it. Where the config at the centre itself was measured
    before, one is synthesised instead: of each knob the choice that most of the cluster have, if that is valid and new.

    With the papers' factor of 2.5 the second try is the last, unless the proposals fall into groups far apart: 16
    clusters have 0.56 to 0.71 of the loss of 8 (64 to 512 proposals of 5 knobs, at random or by annealing; 0.86 with 11
    knobs), not 0.4. So 16 are picked of 64, which is the saving. The factor fits the published code, which clusters
    over two knobs: in a plane twice the clusters have about half of the loss.

    Different from the published code: clusters over all knobs rather than the two or three largest, each knob with the
    same weight; centres are proposals, not whatever the rounding gives; synthesis from the cluster's own proposals
    rather than all, and of a new config or none, so that it ends.

    Args:
        space: whose configs are picked.
        rng: the only source of randomness.
        measured: which configs were measured. Proposals are none of these, whatever it says, so a searcher's
            ``seen.has`` will do.
        step: clusters are tried by so many.
        knee: the factor by which ``step`` more clusters must lower the loss.
        plan: how many proposals are clustered, at least as many as may be picked. With 64 as in the papers, 96 trials
            on ``tests.toys.TableSpace`` by annealing and XGBoost came to 0.99 of the best speed, with 256 and 512 to
            0.97 or 0.98 (means of 7 seeds; the 64 best themselves: 0.96).
        oversampling: proposals per pick to ask for. With 4, rounds of 16 have the plan; with 1 there would be nothing
            to choose from, as up to 16 are all picked. Where rounds are as large as the plan, 1 will do.
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
        """At most ``count`` different configs, ``(n, knobs)``, often fewer; that of the best proposal's cluster first.

        Proposals with nan scores are clustered only where all are nan.
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
        """``(n,)`` the cluster of each point and ``(clusters, features)`` their centres."""
        # 1.3 s of processor time to import, which those who sample otherwise need not spend.
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        seed = int(self._rng.integers(1 << 31))
        before = np.inf
        # Several threads add up in any order: the same seed would not give the same clusters.
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
        """``(1, knobs)`` or, where all of the cluster were synthesised for others, ``(0, knobs)``."""
        if self._known(self._at(centre), proposals)[0]:
            made = canonical(self._space, _modes(nearest))
            if self._space.valid(made)[0] and not (self._known(made, proposals) | taken.has(made))[0]:
                return made
        return nearest[~taken.has(nearest)][:1]

    def _known(self, configs: Configs, proposals: ConfigSet) -> NDArray[np.bool_]:
        return np.asarray(self._measured(configs) & ~proposals.has(configs))

    def _at(self, centre: NDArray[np.float64]) -> Configs:
        """``(1, knobs)``: of each knob the choice next to the centre; valid or not."""
        ends = np.cumsum([places.shape[1] for places in self._places])[:-1]
        parts = zip(self._places, np.split(centre, ends), strict=True)
        row = [int(((places - part) ** 2).sum(axis=1).argmin()) for places, part in parts]
        return canonical(self._space, np.asarray([row], dtype=np.int32))


def _places(knob: Knob) -> NDArray[np.float64]:
    """``(choices, width)``: where the choices lie, with variance 1.

    Numbers are sizes for the most part, of which equal ratios are equal distances. The variance is over the choices
    that there are rather than those that were proposed, which would put a rare choice far off, as a cluster of its own.
    """
    table = knob.table.astype(np.float64)
    places = table if isinstance(knob, OrderKnob) or (table < 0).any() else np.log2(1.0 + table)
    spread = np.sqrt(places.var(axis=0).sum())
    return np.asarray(places / (spread if spread > 0 else 1.0))


def _modes(rows: Configs) -> Configs:
    """``(1, knobs)``: of each knob the choice that most rows have; of several the smallest."""
    return np.asarray([[np.bincount(column).argmax() for column in rows.T]], dtype=np.int32)
