"""Prints what every strategy proposes for one seed, as hashes, so that two versions of the code can be compared.

    python -m bench.proposals > proposals.json

Each arm searches each table for 5 rounds of 16 configs with seed 0, from the template's default. An arm is a searcher
with a sampler (``annealing+top``), a method (``method:autotvm``), or a method with the shipped cost model as its prior
(``method:default+prior``). A hash is the SHA-256 of the configs, as rows of little-endian int32:

- ``asked``: all configs that the searcher proposed, in order.
- ``measured``: all configs that the sampler picked, in order.

Equal hashes mean equal proposals. Arms whose libraries are not installed are left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.replay import ReplayRunner, ReplaySpace, Table, read
from tilewright.cost.prior import load_pretrained
from tilewright.errors import MissingExtraError
from tilewright.measure.outcome import Measurement
from tilewright.methods.method import Method
from tilewright.methods.parts import SAMPLERS, SEARCHERS, combine
from tilewright.methods.registry import METHODS, make_method
from tilewright.records.memory import MemoryStore
from tilewright.search.searcher import Scorer, Searcher
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner

TABLES = "conv1x1-256-64-56,depthwise3x3-256-28"
ROUNDS, ROUND, SEED = 5, 16, 0
#: The methods that are run with the shipped cost model as well.
WITH_PRIOR = ("default", "autotvm")


class HashedSearcher:
    """A searcher whose proposals are hashed on their way.

    Args:
        inner: proposes.
        digest: takes the configs.
    """

    def __init__(self, inner: Searcher, digest: Callable[[Configs], None]) -> None:
        self._inner, self._digest = inner, digest

    def ask(self, count: int) -> Configs:
        """The proposals of the inner searcher."""
        configs = self._inner.ask(count)
        self._digest(configs)
        return configs

    def tell(self, configs: Configs, seconds: NDArray[np.float64]) -> None:
        """Hand on what was measured."""
        self._inner.tell(configs, seconds)


class HashedRunner(ReplayRunner):
    """A runner that hashes the configs that it is given."""

    def __init__(self, table: Table, digest: Callable[[Configs], None]) -> None:
        super().__init__(table)
        self._digest = digest

    def measure(
        self, space: DesignSpace, configs: Configs, best: float = math.inf, deadline: float = math.inf
    ) -> list[Measurement]:
        """The recorded measurements of ``configs``."""
        self._digest(configs)
        return super().measure(space, configs, best, deadline)


def make_arms() -> dict[str, Callable[[Table], Method]]:
    """What makes each arm's method for a table, by the arm's name."""

    def pair(searcher: str, sampler: str) -> Callable[[Table], Method]:
        return lambda table: combine(searcher, sampler)

    def whole(name: str) -> Callable[[Table], Method]:
        return lambda table: make_method(name)

    def with_prior(name: str) -> Callable[[Table], Method]:
        # A table's template is of the version that recorded it; the prior counts as fitted to that version.
        return lambda table: make_method(name, replace(load_pretrained(), template=table.template))

    arms = {f"{searcher}+{sampler}": pair(searcher, sampler) for searcher in SEARCHERS for sampler in SAMPLERS}
    arms |= {f"method:{name}": whole(name) for name in METHODS}
    return arms | {f"method:{name}+prior": with_prior(name) for name in WITH_PRIOR}


def hash_proposals(table: Table, method: Method) -> dict[str, str]:
    """The hashes of what a method proposes for a table."""
    hashes = {"asked": hashlib.sha256(), "measured": hashlib.sha256()}

    def digest(name: str) -> Callable[[Configs], None]:
        return lambda configs: hashes[name].update(np.ascontiguousarray(configs, dtype="<i4").tobytes())

    def searcher(space: DesignSpace, rng: np.random.Generator, scorer: Scorer) -> Searcher:
        return HashedSearcher(method.searcher(space, rng, scorer), digest("asked"))

    tuner = TaskTuner(
        ReplaySpace(table),
        Target.parse("native"),
        HashedRunner(table, digest("measured")),
        MemoryStore(),
        np.random.default_rng(SEED),
        replace(method, searcher=searcher),
    )
    for _ in range(ROUNDS):
        tuner.round(ROUND, math.inf)
    return {name: found.hexdigest() for name, found in hashes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=TABLES, help="names of recorded tables, comma-separated")
    parser.add_argument("--arms", help="names of arms, comma-separated; by default all")
    arguments = parser.parse_args()
    arms = make_arms()
    names = arguments.arms.split(",") if arguments.arms else list(arms)
    found: dict[str, dict[str, dict[str, str]]] = {}
    for name in arguments.tables.split(","):
        table = read(Path(__file__).parent / "tables" / f"{name}.parquet")
        for arm in names:
            try:
                method = arms[arm](table)
            except MissingExtraError:
                continue
            found.setdefault(name, {})[arm] = hash_proposals(table, method)
    print(json.dumps(found, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
