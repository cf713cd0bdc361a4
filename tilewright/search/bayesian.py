"""Tilewright's own searcher: Bayesian optimisation over the knobs, with moves around the fastest."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

from tilewright.search.gaussian_process import GaussianProcess
from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer
from tilewright.space.configs import check, distinct, empty, from_keys, keys, mutate, neighbours, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["BayesianSearch"]

#: Measurements that the process learns from: so many of the fastest, and so many of the others.
_FASTEST, _OTHERS = 192, 128
#: Of them, the kernel's parameters are chosen by so many.
_TUNED = 128
#: Candidates of an ask: random ones, one-knob neighbours of so many of the fastest, and two moves away from them.
_RANDOM, _CENTRES, _MOVED = 1536, 6, 512
#: The candidates out of which the batch is picked, jointly.
_JOINT = 384
#: With a prior, the candidates that look best are moved on so many times, so many of them.
_CLIMBS, _CLIMBERS = 4, 64
#: What a prior's score is worth before there are measurements, in the logarithm of latencies per standard deviation of
#: the score; how many measurements that is worth; and by how much it is expected to be wrong.
_PRIOR_SLOPE, _PRIOR_COUNT, _PRIOR_SPREAD = 0.6, 4.0, 0.4
#: Of the first batch one in so many is random.
_DOUBT = 8
#: Latencies beyond so many times the best count as this: how slow a slow config is says little about the fast ones.
_SLOW = 6.0


class BayesianSearch:
    """Proposes the batch with the largest expected improvement, by a Gaussian process over knobs, without a cost model.

    The process (:mod:`tilewright.search.gaussian_process`) is fitted to the logarithm of the latencies. Candidates are
    random configs, all one-knob neighbours of the fastest, and moves of two knobs. They are picked one after the other
    by expected improvement on the best measured, each as if the ones before had been measured with the expected result,
    so that a batch spreads out as far as its members tell about each other. Before there are measurements, half of the
    proposals are one or two moves away from the space's default, which is no random config; the others are random, as
    they are where there are too few candidates. (BaCO, arXiv 2212.11142, searches compilers' knobs in this way, one at
    a time.)

    Cost models learn what makes programs fast from features of the program; this learns it from the names of the
    choices alone, and knows how sure it is.

    With a prior, a model fitted to other tasks, the process is fitted to what the prior leaves unexplained: latencies
    are taken to fall exponentially with its scores, at a rate that is estimated from the measurements. So a prior that
    is right about this task is the first batch, and one that is wrong soon counts for nothing.

    Args:
        space: where to search.
        rng: the only source of randomness.
        prior: scores of configs before any measurement, higher is faster; all equal: it knows nothing. It may learn
            from other tasks between two questions.

    Attributes:
        seen: what must not be proposed.
    """

    def __init__(self, space: DesignSpace, rng: np.random.Generator, prior: Scorer | None = None) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._process = GaussianProcess(space)
        self._prior = _Prior(space, rng, prior) if prior is not None else None
        self._seconds: dict[bytes, float] = {}
        self._learnt = 0
        # Logarithms of latencies are mean - slope x the prior's score + unit x what the process is fitted to.
        self._slope, self._mean, self._unit, self._best = 0.0, 0.0, 1.0, math.inf

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, the most promising first, random ones last."""
        found = empty(self._space)
        if self._prior is not None:
            self._prior.look()
        if count > 0:
            # On one thread: matrices are small, and several threads need not add up in the same order in every process.
            with threadpool_limits(1):
                if self._seconds:
                    found = self._promising(count)
                elif self._prior is not None and self._prior.knows:
                    # Whether the prior is right shows by what it does not think much of, too.
                    found = self._promising(count - count // _DOUBT)
                else:
                    found = self._around(self._space.default(), count // 2)
        self.seen.propose(found)
        filling = sample(self._space, self._rng, count - len(found), self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([found, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Note how fast ``configs`` were.

        Raises:
            SpaceError: rows that are not of the space.
        """
        rows = check(self._space, configs)
        self.seen.tell(rows)
        times = np.asarray(seconds, dtype=np.float64)
        good = np.where(np.isfinite(times) & (times > 0), times, math.inf)
        self._seconds.update(zip(keys(rows).tolist(), good.tolist(), strict=True))

    def _around(self, start: NDArray[np.int32], count: int) -> Configs:
        """At most ``count`` configs one or two moves away from one."""
        space, rng = self._space, self._rng
        once = mutate(space, rng, np.tile(np.asarray(start, dtype=np.int32), (_MOVED, 1)))
        rows = np.where(rng.random(_MOVED)[:, None] < 0.5, once, mutate(space, rng, once))
        rows = distinct(rows[space.valid(rows) & (rows != start).any(axis=1)])
        return rows[~self.seen.has(rows)][:count]

    def _promising(self, count: int) -> Configs:
        names = list(self._seconds)
        seconds = np.fromiter(self._seconds.values(), dtype=np.float64, count=len(names))
        knows = self._prior is not None and self._prior.knows
        if not np.isfinite(seconds).any() and not knows:
            return empty(self._space)
        configs = from_keys(self._space, names)
        order = np.argsort(seconds, kind="stable")
        self._learn(configs, seconds, order)
        centres = configs[order[:_CENTRES]] if len(configs) else np.asarray(self._space.default(), dtype=np.int32)[None]
        candidates = self._candidates(centres)
        if len(candidates) == 0:
            return candidates
        mean, spread = self._predict(candidates)
        best = self._best if math.isfinite(self._best) else float(mean.min())
        first = np.argsort(-_improvement(mean, spread, best), kind="stable")[:_JOINT]
        return candidates[first][self._pick(candidates[first], best, count)]

    def _learn(self, configs: Configs, seconds: NDArray[np.float64], order: NDArray[np.intp]) -> None:
        """Fit the process."""
        if not np.isfinite(seconds).any():
            self._slope, self._mean, self._unit, self._best = _PRIOR_SLOPE, 0.0, _PRIOR_SPREAD, math.inf
            return
        rest = self._rng.permutation(order[_FASTEST:])[:_OTHERS]
        rows = np.concatenate([order[:_FASTEST], rest])
        # Failures are as slow as the slowest that counts.
        values = np.log(np.minimum(seconds[rows], _SLOW * seconds[order[0]]))
        self._best = float(values.min())
        self._slope = 0.0
        if self._prior is not None and self._prior.knows:
            scores = self._prior(configs[rows])
            self._slope = _slope(scores, values)
            values = values + self._slope * scores
        self._mean, spread = float(values.mean()), float(values.std())
        self._unit = spread if spread > 0 else 1.0
        if self._slope > 0:
            # One measurement does not say how wrong the prior is.
            self._unit = math.sqrt(
                (_PRIOR_COUNT * _PRIOR_SPREAD**2 + len(rows) * spread**2) / (_PRIOR_COUNT + len(rows))
            )
        values = (values - self._mean) / self._unit
        if len(self._seconds) > self._learnt:
            self._learnt = len(self._seconds)
            tuned = np.unique(np.concatenate([np.arange(min(_TUNED // 2, len(rows))), self._some(len(rows))]))
            self._process.tune(configs[rows[tuned]], values[tuned])
        self._process.fit(configs[rows], values)

    def _expected(self, configs: Configs) -> NDArray[np.float64]:
        """What the logarithm of the latencies is before the process corrects it."""
        if self._slope == 0 or self._prior is None:
            return np.full(len(configs), self._mean)
        return self._mean - self._slope * self._prior(configs)

    def _predict(self, configs: Configs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(n,)`` means and standard deviations of the logarithm of the latencies."""
        mean, spread = self._process.predict(configs)
        return self._expected(configs) + self._unit * mean, self._unit * spread

    def _some(self, count: int) -> NDArray[np.intp]:
        return self._rng.permutation(count)[: _TUNED // 2]

    def _candidates(self, centres: Configs) -> Configs:
        """New valid configs to choose from."""
        space, rng = self._space, self._rng
        near = [neighbours(space, centre) for centre in centres]
        moved = mutate(space, rng, mutate(space, rng, centres[rng.integers(0, len(centres), size=_MOVED)]))
        rows = distinct(np.concatenate([*near, moved]))
        rows = rows[space.valid(rows)]
        rows = distinct(np.concatenate([rows, sample(space, rng, _RANDOM)]))
        if self._slope > 0:
            rows = self._climb(rows)
        return rows[~self.seen.has(rows)]

    def _climb(self, rows: Configs) -> Configs:
        """``rows`` and what is reached from the best of them: a prior has an opinion of places far from all others."""
        space, rng = self._space, self._rng
        values = self._predict(rows)[0]
        for _ in range(_CLIMBS):
            tops = rows[np.argsort(values, kind="stable")[:_CLIMBERS]]
            moved = distinct(mutate(space, rng, np.repeat(tops, 4, axis=0)))
            moved = moved[space.valid(moved)]
            rows, first = np.unique(np.concatenate([rows, moved]), axis=0, return_index=True)
            values = np.concatenate([values, self._predict(moved)[0]])[first]
        return rows

    def _pick(self, candidates: Configs, best: float, count: int) -> list[int]:
        """At most ``count`` of them, one after the other."""
        mean, covariance = self._process.joint(candidates)
        mean, best = mean + (self._expected(candidates) - best) / self._unit, 0.0
        left = np.ones(len(candidates), dtype=np.bool_)
        picked: list[int] = []
        for _ in range(min(count, len(candidates))):
            variance = np.maximum(np.diag(covariance), 1e-12)
            gain = np.where(left, _improvement(mean, np.sqrt(variance), best), -1.0)
            row = int(np.argmax(gain))
            picked.append(row)
            left[row] = False
            # What is known once the row is measured; the mean stays, as the result is taken to be the expected one.
            column = covariance[:, row]
            covariance = covariance - np.outer(column, column) / (variance[row] + self._process.noise)
        return picked


def _improvement(mean: NDArray[np.float64], spread: NDArray[np.float64], best: float) -> NDArray[np.float64]:
    """The expected improvement on ``best`` (lower is better) of normally distributed values."""
    scaled = (best - mean) / spread
    return np.asarray(spread * (scaled * ndtr(scaled) + np.exp(-0.5 * scaled**2) / math.sqrt(2.0 * math.pi)))


def _slope(scores: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """How much the logarithm of latencies falls per unit of a prior's score, never below 0 (ridge regression)."""
    x, y = scores - scores.mean(), values - values.mean()
    return max(0.0, float((_PRIOR_COUNT * _PRIOR_SLOPE - x @ y) / (_PRIOR_COUNT + x @ x)))


class _Prior:
    """Scores in units of their standard deviation over random configs."""

    def __init__(self, space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> None:
        self._scorer = scorer
        self._sample = sample(space, rng, 256)
        self.look()

    def look(self) -> None:
        """See what the scorer thinks now."""
        scores = self._scorer(self._sample)
        self._centre = float(scores.mean()) if len(scores) else 0.0
        self._least = float(scores.min()) if len(scores) else 0.0
        spread = float(scores.std()) if len(scores) else 0.0
        self.knows = math.isfinite(spread) and spread > 0
        self._spread = spread if self.knows else 1.0

    def __call__(self, configs: Configs) -> NDArray[np.float64]:
        scores = self._scorer(configs)
        # What the scorer does not know is the worst that it knows.
        scores = np.where(np.isfinite(scores), scores, self._least)
        return (scores - self._centre) / self._spread
