"""One of the writers of :func:`bench._kills.writers`, which tunes on a recorded table and prints its stored records."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.replay import ReplayRunner, ReplaySpace, read
from tilewright.measure.outcome import Measurement
from tilewright.records import open_store
from tilewright.search.random import RandomSearch

TABLE = Path(__file__).with_name("tables") / "dense-512x512x512.parquet"


def main(path: str, number: str, seconds: str) -> None:
    """Measure and store, one by one, until the time is over or the table is."""
    table, added = read(TABLE), 0
    with open_store(path) as store:

        def add(measurement: Measurement) -> None:
            nonlocal added
            store.add([replace(measurement, target=f"writer-{number}")])
            added += 1

        space, runner = ReplaySpace(table), ReplayRunner(table, on_measurement=add)
        searcher, end = RandomSearch(space, np.random.default_rng(int(number))), time.monotonic() + float(seconds)
        while time.monotonic() < end and len(configs := searcher.ask(16)):
            measured = runner.measure(space, configs)
            searcher.tell(configs, np.asarray([m.seconds if m.ok else math.nan for m in measured]))
            print(added, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
