"""Simulated annealing on a cost model's scores, AutoTVM's searcher (arXiv 1805.08166, section 3)."""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer
from tilewright.space.configs import check, from_keys, keys, mutate, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["SimulatedAnnealing"]


class SimulatedAnnealing:
    """Proposes the best scored configs that parallel chains meet on their way to high scores.

    A step moves one knob of every chain to a new value. The move of a chain is accepted with probability
    ``exp(min(delta / (T + 1e-5), 1))``. T falls linearly from ``temperature`` to 0. Chains persist from one ask to the
    next. They may pass through measured configs, which are not proposed again. Proposals are random before the first
    tell, and where the chains find too few.

    Different from AutoTVM: chains start on valid configs and stay on them, and a config is scored once per ask.
    Negative scores are not dropped, because the sign means nothing under a rank loss.

    Args:
        space: where to search.
        rng: the only source of randomness.
        scorer: scores configs; nan counts as the worst. Not called before the first tell, unless ``informed``.
        chains: the number of chains.
        steps: the most steps per ask.
        patience: an ask ends after this number of steps without a better set of proposals.
        temperature: T of the first step, in units of the score.
        informed: whether the scorer has learnt from other tasks, so that its scores count before the first tell.

    Attributes:
        seen: the configs that must not be proposed.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        scorer: Scorer,
        *,
        chains: int = 128,
        steps: int = 500,
        patience: int = 50,
        temperature: float = 1.0,
        informed: bool = False,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._scorer = scorer
        self._count = chains
        self._steps = steps
        self._patience = patience
        self._temperature = temperature
        self._chains: Configs | None = None
        self._told = informed

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, best score first, random ones last."""
        configs = self._anneal(count) if self._told and count > 0 else sample(self._space, self._rng, 0)
        self.seen.propose(configs)
        filling = sample(self._space, self._rng, count - len(configs), self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([configs, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Note that ``configs`` were measured. From now on the scorer guides the chains.

        Raises:
            SpaceError: a row is not of the space.
        """
        self.seen.tell(check(self._space, configs))
        self._told = self._told or len(configs) > 0

    def _anneal(self, count: int) -> Configs:
        """The at most ``count`` best scored new configs that the chains meet in one ask."""
        space, rng = self._space, self._rng
        points = self._chains if self._chains is not None else sample(space, rng, self._count)
        best = _Best(count, self.seen, self._scorer)
        scores = best.score(points)
        improved = 0
        for step in range(self._steps):
            temperature = self._temperature * (1.0 - step / self._steps)
            moved = mutate(space, rng, points)
            allowed = np.flatnonzero(space.valid(moved))
            after = best.score(moved[allowed])
            with np.errstate(invalid="ignore"):  # from -inf to -inf, delta is nan, which is not accepted
                delta = after - scores[allowed]
            odds = np.exp(np.minimum(delta / (temperature + 1e-5), 1.0))
            accepted = rng.random(len(allowed)) < odds
            rows = allowed[accepted]
            points[rows] = moved[rows]
            scores[rows] = after[accepted]
            if best.changed:
                improved, best.changed = step, False
            elif step - improved >= self._patience:
                break
        self._chains = points
        return from_keys(space, best.ordered())


class _Best:
    """Scores each config once, and keeps the ``count`` best that may be proposed.

    Attributes:
        changed: whether the kept configs have changed since it was last set to False.
    """

    def __init__(self, count: int, seen: Ledger, scorer: Scorer) -> None:
        self.changed = False
        self._count = count
        self._seen = seen
        self._scorer = scorer
        self._known: dict[bytes, float] = {}
        # The worst is on top. The second entry decides ties by who came first, and not by the config's bytes.
        self._heap: list[tuple[float, int, bytes]] = []

    def score(self, configs: Configs) -> NDArray[np.float64]:
        """The ``(n,)`` scores, with -inf for nan."""
        known = self._known
        names: list[bytes] = keys(configs).tolist()
        fresh = list({name: row for row, name in enumerate(names) if name not in known}.values())
        if fresh:
            self._add(configs[fresh], [names[row] for row in fresh])
        return np.fromiter((known[name] for name in names), dtype=np.float64, count=len(names))

    def _add(self, configs: Configs, names: list[bytes]) -> None:
        scores = np.asarray(self._scorer(configs), dtype=np.float64)
        scores = np.where(np.isnan(scores), -math.inf, scores)
        order = len(self._known)
        self._known.update(zip(names, scores.tolist(), strict=True))
        full = len(self._heap) >= self._count
        wanted = np.flatnonzero(scores > (self._heap[0][0] if full else -math.inf))
        wanted = wanted[~self._seen.has(configs[wanted])]
        for row in wanted.tolist():
            item = (float(scores[row]), -(order + row), names[row])
            if len(self._heap) < self._count:
                heapq.heappush(self._heap, item)
            elif item > self._heap[0]:
                heapq.heapreplace(self._heap, item)
            else:
                continue
            self.changed = True

    def ordered(self) -> list[bytes]:
        """The keys of the kept configs, best first."""
        return [name for _, _, name in sorted(self._heap, reverse=True)]
