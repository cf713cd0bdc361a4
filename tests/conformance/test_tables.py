"""Every searcher with every sampler on every recorded table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.replay import ReplaySpace, Table, read
from tests.conformance.test_samplers import SAMPLERS
from tests.conformance.test_searchers import SEARCHERS
from tilewright.space.configs import ConfigSet, distinct
from tilewright.space.space import Configs

TABLES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "bench" / "tables").glob("*.parquet"))}
LOADED: dict[str, Table] = {}


def table_of(name: str) -> Table:
    if name not in LOADED:
        LOADED[name] = read(TABLES[name])
    return LOADED[name]


def test_the_tables_are_what_they_are_said_to_be() -> None:
    assert len(TABLES) >= 10
    assert sum(path.stat().st_size for path in TABLES.values()) < 10e6
    for name in TABLES:
        table = table_of(name)
        assert 2000 <= len(table) <= 6000
        assert {"machine", "date", "command", "cores"} <= set(table.about)
        assert table.find(table.default[None])[0] >= 0
        # Where it matters, more than one measurement tells the noise of an entry.
        near = np.flatnonzero(table.seconds <= 1.1 * table.optimum)
        assert all(len(table.repeats[row]) >= 3 for row in near.tolist())


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_what_is_measured_is_valid_and_new(searcher: str, name: str) -> None:
    table = table_of(name)
    space = ReplaySpace(table)

    def score(configs: Configs) -> NDArray[np.float64]:
        """A cost model that knows something."""
        return np.asarray(-np.log(np.nan_to_num(table.seconds[table.find(configs)], nan=1.0)) + 0.1 * configs[:, 0])

    for sampler, make in SAMPLERS.items():
        measured = ConfigSet()
        search = SEARCHERS[searcher](space, np.random.default_rng(0), score)  # type: ignore[arg-type]
        choose = make(space, np.random.default_rng(1), measured.has)  # type: ignore[arg-type]
        batches = []
        for _ in range(3):
            proposals = search.ask(int(16 * choose.oversampling))
            batch = choose.pick(proposals, score(proposals), 16)
            assert 0 < len(batch) <= 16, sampler
            search.tell(batch, table.seconds[table.find(batch)])
            measured.add(batch)
            batches.append(batch)
        every = np.concatenate(batches)
        assert space.valid(every).all(), sampler
        assert len(distinct(every)) == len(every), sampler
