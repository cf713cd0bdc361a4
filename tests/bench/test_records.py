from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.records import BATCH, TASKS, made_up, measure
from tilewright.records import open_store


def test_a_small_store_is_measured(tmp_path: Path) -> None:
    with open_store(tmp_path / "records.db") as store:
        result = measure(store, "cpu", 2 * BATCH)
        assert sum(entry.count for entry in store.summary()) == 22 * BATCH
    assert {"add 1,000, full", "best 1", "best 16", "best 100", "export all"} <= set(result["seconds"])
    assert len(result["seconds"]["best 1"]) == TASKS
    assert all(seconds > 0 for times in result["seconds"].values() for seconds in times)
    assert all(nbytes > 0 for nbytes in result["export_bytes"].values())


def test_what_is_made_up_repeats_winners_and_fails_at_times() -> None:
    batch = next(made_up("cpu", np.random.default_rng(0)))
    ok = [measurement for measurement in batch if measurement.ok]
    assert 0 < len(batch) - len(ok) < 50
    fastest = sorted(ok, key=lambda measurement: measurement.seconds)[:50]
    assert len({measurement.config for measurement in fastest}) == 5
