"""A genetic algorithm on measured latencies, without a cost model: AutoTVM's second searcher (arXiv 1805.08166)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tilewright.search.ledger import Ledger
from tilewright.space.configs import canonical, cardinalities, check, crossover, distinct, keys, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Genetic"]

#: The most rounds of breeding in an ask. Configs that are missing then are drawn at random.
_TRIES = 16


class Genetic:
    """Proposes children of fast configs. Each knob comes from one of two parents, and some are changed at random.

    The first ``population`` configs are random. Parents are the configs that were told since the last generation began,
    and the ``elite`` fastest of all. A parent is chosen with a probability in proportion to its speed (1 / latency, 0
    for a failure). A generation ends when ``population`` configs have been told. Invalid or known children are dropped,
    and random configs take their place.

    Different from AutoTVM: knobs of any kind, valid configs only, and no config twice. Crossover is uniform instead of
    by one cut, because the order of knobs means nothing.

    Args:
        space: where to search.
        rng: the only source of randomness.
        population: the configs of a generation.
        elite: the number of the fastest configs that stay parents for ever.
        mutation: the probability that a knob of a child gets a random choice.

    Attributes:
        seen: the configs that must not be proposed.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        *,
        population: int = 100,
        elite: int = 3,
        mutation: float = 0.1,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._population = population
        self._elite = elite
        self._mutation = mutation
        width = len(space.knobs)
        self._parents = np.empty((0, width), dtype=np.int32), np.empty(0)
        self._next: list[Configs] = []
        self._speed: dict[bytes, float] = {}

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``: children first, random ones last."""
        parts = [sample(self._space, self._rng, 0)]
        missing = count
        for _ in range(_TRIES if len(self._parents[0]) > 1 else 0):
            if missing <= 0:
                break
            rows = self._breed(2 * missing)
            rows = distinct(rows[self._space.valid(rows) & ~self.seen.has(rows)])[:missing]
            self.seen.propose(rows)
            parts.append(rows)
            missing -= len(rows)
        filling = sample(self._space, self._rng, missing, self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([*parts, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Learn the latencies of ``configs``, and end the generation if it is complete.

        Raises:
            SpaceError: a row is not of the space.
        """
        rows = check(self._space, configs)
        self.seen.tell(rows)
        times = np.asarray(seconds, dtype=np.float64)
        good = np.isfinite(times) & (times > 0)
        speed = np.where(good, 1.0 / np.where(good, times, 1.0), 0.0)
        names = keys(rows).tolist()
        # A known config is told again when the readings of a task are corrected. It is not of the new generation.
        new = np.asarray([self._speed.get(name, 0.0) == 0.0 for name in names], dtype=np.bool_)
        self._speed.update(zip(names, speed.tolist(), strict=True))
        self._next.append(rows[new])
        if sum(map(len, self._next)) >= self._population:
            self._end_generation()

    def _end_generation(self) -> None:
        rows = distinct(np.concatenate([self._parents[0], *self._next]))
        speed = np.asarray([self._speed[name] for name in keys(rows).tolist()], dtype=np.float64)
        old = len(self._parents[0])
        elite = np.argsort(-speed, kind="stable")[: self._elite]
        chosen = np.union1d(elite, np.arange(old, len(rows)))
        chosen = chosen[speed[chosen] > 0]
        self._parents = rows[chosen], speed[chosen]
        self._next = []

    def _breed(self, count: int) -> Configs:
        rows, speed = self._parents
        odds = speed / math.fsum(speed)
        left, right = self._rng.choice(len(rows), size=(2, count), p=odds)
        children = crossover(self._space, self._rng, rows[left], rows[right])
        changed = self._rng.random(children.shape) < self._mutation
        random = self._rng.integers(0, cardinalities(self._space), size=children.shape, dtype=np.int32)
        return canonical(self._space, np.where(changed, random, children).astype(np.int32))
