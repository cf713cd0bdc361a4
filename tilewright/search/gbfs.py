"""G-BFS, greedy best-first search over small moves, without a cost model (arXiv 1909.10616)."""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from tilewright.sample.top import best_first
from tilewright.search.guided_draw import draw
from tilewright.search.ledger import Ledger
from tilewright.search.searcher import Scorer
from tilewright.space.configs import check, empty, from_keys, keys
from tilewright.space.moves import Moves
from tilewright.space.space import Configs, DesignSpace

__all__ = ["GreedyBestFirst"]


class GreedyBestFirst:
    """Expands the fastest measured config that was not expanded yet, again and again.

    An expansion proposes ``breadth`` random neighbours (:class:`tilewright.space.moves.Moves`) that were not measured.
    A large batch expands the next fastest configs as well. Where nothing is left to expand, configs with neighbours
    left are expanded once more. Then proposals are random, so that the search ends only with the space.

    Different from the paper: moves are by prime factors instead of factors of 2. Every knob moves, not only the splits
    of a matrix product. A batch may expand several configs; in the paper it expands one.

    Args:
        space: where to search.
        rng: the only source of randomness.
        scorer: scores configs, optional. With a scorer, the search begins with the best scored of ``start`` random
            configs, and expands to the best scored neighbours instead of random ones.
        breadth: the neighbours of an expansion (the paper's rho).
        start: the random configs from which the scorer chooses the first proposals.

    Attributes:
        seen: the configs that must not be proposed.
    """

    def __init__(
        self,
        space: DesignSpace,
        rng: np.random.Generator,
        scorer: Scorer | None = None,
        *,
        breadth: int = 5,
        start: int = 512,
    ) -> None:
        self.seen = Ledger()
        self._space = space
        self._rng = rng
        self._scorer = scorer
        self._breadth = breadth
        self._start = start
        self._moves = Moves(space)
        # Entries are the latency, the number of the tell, which decides ties, and the config's key.
        self._queue: list[tuple[float, int, bytes]] = []
        self._again: list[tuple[float, int, bytes]] = []
        # The keys of all entries so far: a config is told again when the readings of a task are corrected.
        self._queued: set[bytes] = set()
        self._told = 0

    def ask(self, count: int) -> Configs:
        """At most ``count`` new configs, ``(n, knobs)``, neighbours of the fastest first."""
        parts = [empty(self._space)]
        missing = count
        if missing > 0 and self._told == 0:
            first = self._space.default()[None].astype(np.int32)
            parts.append(first[~self.seen.has(first)])
            missing -= len(parts[-1])
            self.seen.propose(parts[-1])
        while missing > 0 and (self._queue or self._again):
            if not self._queue:
                self._queue, self._again = self._again, []
                heapq.heapify(self._queue)
            entry = heapq.heappop(self._queue)
            rows, rest = self._expand(from_keys(self._space, [entry[2]])[0], missing)
            if rest and len(rows) < self._breadth:  # the batch ended in the middle of this expansion
                heapq.heappush(self._queue, entry)
            elif rest:
                self._again.append(entry)
            self.seen.propose(rows)
            parts.append(rows)
            missing -= len(rows)
        if missing > 0:
            parts.append(draw(self._space, self._rng, missing, self.seen, self._scorer, self._start))
            self.seen.propose(parts[-1])
        return np.concatenate(parts)

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Queue the configs that have a latency, for expansion.

        Raises:
            SpaceError: a row is not of the space.
        """
        rows = check(self._space, configs)
        self.seen.tell(rows)
        for name, time in zip(keys(rows).tolist(), np.asarray(seconds, dtype=np.float64).tolist(), strict=True):
            if math.isfinite(time) and name not in self._queued:
                self._queued.add(name)
                heapq.heappush(self._queue, (time, self._told, name))
            self._told += 1

    def _expand(self, config: NDArray[np.int32], most: int) -> tuple[Configs, bool]:
        """At most ``most`` neighbours to propose, and whether there are further ones."""
        near = self._moves.of(config)
        near = near[~self.seen.has(near)]
        order = self._rng.permutation(len(near)) if self._scorer is None else best_first(self._scorer(near))
        taken = min(self._breadth, most)
        return near[order[:taken]], len(near) > taken
