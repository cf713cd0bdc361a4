"""Bayesian optimisation over the knobs, with moves around the fastest configs: Tilewright's own searcher."""

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

#: The measurements to which the process is fitted: the fastest, and a random draw of the others.
_FASTEST, _OTHERS = 192, 128
#: The measurements from which the kernel's parameters are chosen.
_TUNED = 128
#: The candidates of an ask: random configs, one-knob neighbours of the 6 fastest configs, and moves of two knobs.
_RANDOM, _CENTRES, _MOVED = 1536, 6, 512
#: The most promising candidates, from which the batch is picked jointly.
_JOINT = 384
#: With a prior, the 64 candidates that look best are moved on 4 times.
_CLIMBS, _CLIMBERS = 4, 64
#: Assumptions about a prior: the fall of the logarithm of latencies per standard deviation of its scores, the number of
#: measurements that outweighs this, and the standard deviation of its errors.
_PRIOR_SLOPE, _PRIOR_COUNT, _PRIOR_SPREAD = 0.6, 4.0, 0.4
#: One config in 8 of a prior's first batch is random.
_DOUBT = 8
#: Latencies above this multiple of the best count as this multiple: the slow end says little about the fast configs.
_SLOW = 6.0


class BayesianSearch:
    """Proposes the batch with the largest expected improvement, by a Gaussian process over the knobs.

    The process (:mod:`tilewright.search.gaussian_process`) is fitted to the logarithm of the latencies. Candidates are
    random configs, all one-knob neighbours of the fastest configs, and moves of two knobs. Configs are picked one by
    one by expected improvement on the best latency. Each pick counts as measured, with its expected latency, when the
    next one is picked. So a batch spreads out: a config that is like an earlier pick promises little.

    Before there are measurements, half of the proposals are one or two moves away from the space's default, and the
    other half is random. Where there are too few candidates, the rest of a batch is random. (BaCO, arXiv 2212.11142,
    searches the knobs of compilers in this way, one config at a time.)

    Cost models learn from features of the programs. This process learns from the choices of the knobs alone, and
    estimates its own uncertainty.

    With a prior, a model fitted to other tasks, the process is fitted to what the prior leaves unexplained. Latencies
    are assumed to fall exponentially with its scores, at a rate that is estimated from the measurements. So the prior
    decides the first batch, and soon counts for nothing if it is wrong about this task.

    Args:
        space: where to search.
        rng: the only source of randomness.
        prior: scores configs before any measurement, where higher is faster. Equal scores mean that it knows nothing.
            Its scores may change between two asks, because it may learn from other tasks.

    Attributes:
        seen: the configs that must not be proposed.
    """

    def __init__(self, space: DesignSpace, rng: np.random.Generator, prior: Scorer | None = None) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._process = GaussianProcess(space)
        self._prior = _Prior(space, rng, prior) if prior is not None else None
        self._seconds: dict[bytes, float] = {}
        self._learnt = 0
        # The logarithm of a latency is mean - slope * (the prior's score) + unit * (the value of the process).
        self._slope, self._mean, self._unit, self._best = 0.0, 0.0, 1.0, math.inf

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, the most promising first, random ones last."""
        found = empty(self._space)
        if self._prior is not None:
            self._prior.look()
        if count > 0:
            # One thread suffices for small matrices. Several threads may add in another order in every process.
            with threadpool_limits(1):
                if self._seconds:
                    found = self._promising(count)
                elif self._prior is not None and self._prior.knows:
                    # Configs with low scores also show whether the prior is right.
                    found = self._promising(count - count // _DOUBT)
                else:
                    found = self._around(self._space.default(), count // 2)
        self.seen.propose(found)
        filling = sample(self._space, self._rng, count - len(found), self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([found, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Learn the latencies of ``configs``.

        Raises:
            SpaceError: a row is not of the space.
        """
        rows = check(self._space, configs)
        self.seen.tell(rows)
        times = np.asarray(seconds, dtype=np.float64)
        good = np.where(np.isfinite(times) & (times > 0), times, math.inf)
        self._seconds.update(zip(keys(rows).tolist(), good.tolist(), strict=True))

    def _around(self, start: NDArray[np.int32], count: int) -> Configs:
        """At most ``count`` new configs one or two moves away from ``start``."""
        space, rng = self._space, self._rng
        once = mutate(space, rng, np.tile(np.asarray(start, dtype=np.int32), (_MOVED, 1)))
        rows = np.where(rng.random(_MOVED)[:, None] < 0.5, once, mutate(space, rng, once))
        rows = distinct(rows[space.valid(rows) & (rows != start).any(axis=1)])
        return rows[~self.seen.has(rows)][:count]

    def _promising(self, count: int) -> Configs:
        """At most ``count`` candidates, by expected improvement."""
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
        """Fit the process to the measurements; ``order`` lists their rows from the fastest on."""
        if not np.isfinite(seconds).any():
            self._slope, self._mean, self._unit, self._best = _PRIOR_SLOPE, 0.0, _PRIOR_SPREAD, math.inf
            return
        rest = self._rng.permutation(order[_FASTEST:])[:_OTHERS]
        rows = np.concatenate([order[:_FASTEST], rest])
        # Failures count as slow as the slowest latency that counts.
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
            # A few measurements do not show how wrong the prior is.
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
        """The logarithm of the latencies that is expected before the process corrects it."""
        if self._slope == 0 or self._prior is None:
            return np.full(len(configs), self._mean)
        return self._mean - self._slope * self._prior(configs)

    def _predict(self, configs: Configs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The ``(n,)`` means and standard deviations of the logarithm of the latencies."""
        mean, spread = self._process.predict(configs)
        return self._expected(configs) + self._unit * mean, self._unit * spread

    def _some(self, count: int) -> NDArray[np.intp]:
        return self._rng.permutation(count)[: _TUNED // 2]

    def _candidates(self, centres: Configs) -> Configs:
        """The new valid configs from which the batch is picked."""
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
        """``rows``, and the configs that moves from the best of them reach. A prior also scores distant configs."""
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
        """The rows of at most ``count`` candidates, picked one by one."""
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
            # The row counts as measured with its expected latency, so that the mean stays, and the variance falls.
            column = covariance[:, row]
            covariance = covariance - np.outer(column, column) / (variance[row] + self._process.noise)
        return picked


def _improvement(mean: NDArray[np.float64], spread: NDArray[np.float64], best: float) -> NDArray[np.float64]:
    """The expected improvement on ``best`` of normally distributed values, where lower is better."""
    scaled = (best - mean) / spread
    return np.asarray(spread * (scaled * ndtr(scaled) + np.exp(-0.5 * scaled**2) / math.sqrt(2.0 * math.pi)))


def _slope(scores: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The fall of the logarithm of latencies per unit of a prior's score, at least 0, by ridge regression."""
    x, y = scores - scores.mean(), values - values.mean()
    return max(0.0, float((_PRIOR_COUNT * _PRIOR_SLOPE - x @ y) / (_PRIOR_COUNT + x @ x)))


class _Prior:
    """A prior whose scores are standardised by their mean and standard deviation over random configs."""

    def __init__(self, space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> None:
        self._scorer = scorer
        self._sample = sample(space, rng, 256)
        self.look()

    def look(self) -> None:
        """Standardise by the scorer's present scores."""
        scores = self._scorer(self._sample)
        self._centre = float(scores.mean()) if len(scores) else 0.0
        self._least = float(scores.min()) if len(scores) else 0.0
        spread = float(scores.std()) if len(scores) else 0.0
        self.knows = math.isfinite(spread) and spread > 0
        self._spread = spread if self.knows else 1.0

    def __call__(self, configs: Configs) -> NDArray[np.float64]:
        scores = self._scorer(configs)
        # A config that the scorer cannot score counts as the worst.
        scores = np.where(np.isfinite(scores), scores, self._least)
        return (scores - self._centre) / self._spread
