"""A genetic algorithm on measured latencies, without a cost model, as AutoTVM has it (arXiv 1805.08166)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tilewright.search.ledger import Ledger
from tilewright.space.configs import canonical, cardinalities, check, crossover, distinct, keys, sample
from tilewright.space.space import Configs, DesignSpace

__all__ = ["Genetic"]

#: Rounds of breeding for one ask before what is missing is drawn at random.
_TRIES = 16


class Genetic:
    """Children of fast configs: each knob from one of two parents, some changed at random.

    The first ``population`` configs are random. Parents are the configs told since the last generation began, and the
    ``elite`` fastest of all; each is chosen with a probability in proportion to its speed (1 / latency; a failure has
    none). A generation ends when ``population`` configs have been told. Children that are invalid or known are
    dropped, and what is then missing is drawn at random.

    Different from AutoTVM: knobs of any kind, validity, no config twice, and uniform crossover instead of one cut, for
    the order of knobs means nothing.

    Args:
        space: where to search.
        rng: the only source of randomness.
        population: configs of a generation.
        elite: how many of the fastest stay parents for ever.
        mutation: with what probability a child's knob gets a random choice.

    Attributes:
        seen: what must not be proposed.
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
            rows = self._children(2 * missing)
            rows = distinct(rows[self._space.valid(rows) & ~self.seen.has(rows)])[:missing]
            self.seen.propose(rows)
            parts.append(rows)
            missing -= len(rows)
        filling = sample(self._space, self._rng, missing, self.seen.has)
        self.seen.propose(filling)
        return np.concatenate([*parts, filling])

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Note how fast ``configs`` were; with enough of them a generation ends.

        Raises:
            SpaceError: rows that are not of the space.
        """
        rows = check(self._space, configs)
        self.seen.tell(rows)
        times = np.asarray(seconds, dtype=np.float64)
        good = np.isfinite(times) & (times > 0)
        speed = np.where(good, 1.0 / np.where(good, times, 1.0), 0.0)
        names = keys(rows).tolist()
        # What was known before, and is told again since readings of the task are corrected, is no new generation.
        new = np.asarray([self._speed.get(name, 0.0) == 0.0 for name in names], dtype=np.bool_)
        self._speed.update(zip(names, speed.tolist(), strict=True))
        self._next.append(rows[new])
        if sum(map(len, self._next)) >= self._population:
            self._generation()

    def _generation(self) -> None:
        rows = distinct(np.concatenate([self._parents[0], *self._next]))
        speed = np.asarray([self._speed[name] for name in keys(rows).tolist()], dtype=np.float64)
        old = len(self._parents[0])
        elite = np.argsort(-speed, kind="stable")[: self._elite]
        chosen = np.union1d(elite, np.arange(old, len(rows)))
        chosen = chosen[speed[chosen] > 0]
        self._parents = rows[chosen], speed[chosen]
        self._next = []

    def _children(self, count: int) -> Configs:
        rows, speed = self._parents
        odds = speed / math.fsum(speed)
        left, right = self._rng.choice(len(rows), size=(2, count), p=odds)
        children = crossover(self._space, self._rng, rows[left], rows[right])
        changed = self._rng.random(children.shape) < self._mutation
        random = self._rng.integers(0, cardinalities(self._space), size=children.shape, dtype=np.int32)
        return canonical(self._space, np.where(changed, random, children).astype(np.int32))
