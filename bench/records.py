"""Measures the speed of records that hold a million measurements.

    python -m bench.records --json records.json
    python -m bench.records --url postgresql://USER@HOST/EMPTY_DATABASE

Artificial measurements of 40 tasks go into a new store, in a temporary directory or at ``--url``, a thousand at a time.
A tenth of them repeat one of the five fastest configs of their task, as races do. Then ``best`` is asked for 1, 16 and
100 configs of each task, another thousand is added, and everything is exported as JSON lines. Each figure is the
median, with the worst. Memory is the most that Python has held during the export.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tilewright.cli.text import table
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records import open_store
from tilewright.records.export import write_jsonl
from tilewright.records.sql import SQLStore
from tilewright.records.store import Query
from tilewright.target import Target

__all__ = ["made_up", "measure"]

TASKS, KNOBS, REPEATS, BATCH = 40, 9, 8, 1000
TEMPLATE = "contraction/1"


def made_up(target: str, rng: np.random.Generator) -> Iterator[list[Measurement]]:
    """Measurements, a batch at a time and each of one task, without end."""
    for number in itertools.count():
        task = f"{number % TASKS:064x}"
        winner = rng.random(BATCH) < 0.1
        configs = rng.integers(0, 24, (BATCH, KNOBS))
        configs[winner] = np.arange(5)[rng.integers(0, 5, int(winner.sum())), None]
        seconds = np.where(winner, 1e-3, 2e-3 * rng.lognormal(1.0, 0.5, BATCH))
        repeats = seconds[:, None] * (1 + 0.02 * rng.random((BATCH, REPEATS)))
        failed = (rng.random(BATCH) < 0.02) & ~winner
        yield [
            Measurement(
                task,
                target,
                TEMPLATE,
                tuple(config),
                Outcome.RUN_CRASHED if crashed else Outcome.OK,
                () if crashed else tuple(times),
                "signal 11" if crashed else "",
                1.7e9 + number,
                0.4,
            )
            for config, times, crashed in zip(configs.tolist(), repeats.tolist(), failed.tolist(), strict=True)
        ]


def measure(store: SQLStore, target: str, rows: int) -> dict[str, Any]:
    """Fill a store with ``rows`` measurements and time what is done with it; every time is in seconds."""
    batches = made_up(target, np.random.default_rng(0))
    filling = [_seconds(partial(store.add, batch)) for batch in itertools.islice(batches, rows // BATCH)]
    seconds: dict[str, list[float]] = {
        "add 1,000, empty": filling[:20],
        "add 1,000, full": [_seconds(lambda: store.add(next(batches))) for _ in range(20)],
    }
    for count in (1, 16, 100):
        seconds[f"best {count}"] = [
            _seconds(partial(store.best, f"{task:064x}", target, TEMPLATE, count)) for task in range(TASKS)
        ]
    seconds["first of a task's"] = [
        _seconds(partial(_first, store, Query(f"{task:064x}", target, TEMPLATE))) for task in range(TASKS)
    ]
    seconds["summary"] = [_seconds(store.summary)]
    memory = {}
    with Path(os.devnull).open("w") as nowhere:
        # A part, and twice as much: were the rows gathered before they are written, so would be the memory.
        for part in (rows // 20, rows // 10):
            tracemalloc.start()
            write_jsonl(itertools.islice(store.scan(Query()), part), nowhere)
            memory[f"{part:,}"] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        seconds["export all"] = [_seconds(lambda: write_jsonl(store.scan(Query()), nowhere))]
    return {"seconds": seconds, "export_bytes": memory}


def _first(store: SQLStore, query: Query) -> Measurement | None:
    return next(iter(store.scan(query)), None)


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="a PostgreSQL database without tables; by default a file is made, and removed")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    target = Target.parse("native")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.db"
        with open_store(arguments.url or path) as store:
            if store.summary():
                parser.error("--url names a database without tables, but this one has records")
            result = measure(store, target.key, arguments.rows)
        size = None if arguments.url else path.stat().st_size
    result = {
        "command": "python -m bench.records",
        "machine": target.machine,
        "date": time.strftime("%Y-%m-%d"),
        "database": "PostgreSQL" if arguments.url else "SQLite",
        "rows": arguments.rows,
        "file_bytes": size,
        **result,
    }
    shown = [[name, f"{median(s) * 1e3:.2f} ms", f"{max(s) * 1e3:.2f} ms"] for name, s in result["seconds"].items()]
    print(table([f"{arguments.rows} rows in {result['database']}", "median", "worst"], shown))
    for what, peak in result["export_bytes"].items():
        print(f"memory to export {what}: {peak / 1e6:.1f} MB")
    if size is not None:
        print(f"the file: {size / 1e6:.0f} MB")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
