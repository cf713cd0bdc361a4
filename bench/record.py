"""Records tables: small spaces, every config measured, on which searchers are compared without a compiler.

    python -m bench.record --out bench/tables --records tables.db

Each task's space is thinned to a few thousand configs (``tilewright.space.subspace``), which are measured in random
order, twice over with all others in between, so that the difference tells the noise. Measurements go to the records
first: an interrupted recording goes on where it stopped. A table is written when its task is complete.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench._recorded import TASKS, part_of
from tilewright.measure.pool import LocalPool
from tilewright.network.tasks import task_of
from tilewright.records import open_store
from tilewright.records.store import Query, Store
from tilewright.space.configs import keys, sample
from tilewright.space.subspace import Subspace
from tilewright.target import Target

#: Every config is measured once, and those within ``NEAR`` of the best so often, in passes that lie far apart.
PASSES = 3
NEAR = 1.5
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/tables"))
    parser.add_argument("--records", type=Path, default=Path("tables.db"))
    parser.add_argument("--tables", default=",".join(TASKS), help="comma-separated")
    parser.add_argument("--lock", type=Path, help="a file to lock while measuring, so that other work can wait")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; run again to go on")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    target = Target.parse("native")
    store = open_store(arguments.records)
    try:
        with LocalPool(target, factory=part_of, on_measurement=lambda m: store.add([m])) as pool:
            names = arguments.tables.split(",")
            spaces = {name: part_of(task_of(name, TASKS[name]()), target) for name in names}
            for number in range(PASSES):
                for name, space in spaces.items():
                    record(name, space, target, pool, store, number, Alone(arguments.lock), deadline)
                    if time.monotonic() < deadline:
                        write(arguments.out / f"{name}.parquet", name, space, target, store)
    finally:
        store.close()


def record(
    name: str, space: Subspace, target: Target, pool: LocalPool, store: Store, number: int, alone: Alone, deadline: float
) -> None:
    """Measure what pass ``number`` is missing."""
    store.describe(space.task)
    every = sample(space, np.random.default_rng(number), 1 << 20)
    known: dict[tuple[int, ...], list[float]] = {}
    for m in store.scan(Query(space.task.key, target.key, space.template)):
        known.setdefault(m.config, []).append(m.seconds)
    rows = [tuple(row) for row in every.tolist()]
    if number > 0:
        best = np.nanmin([times[0] for times in known.values()])
        rows = [row for row in rows if row in known and known[row][0] <= NEAR * best]
    missing = np.asarray([row for row in rows if len(known.get(row, ())) <= number], dtype=np.int32)
    for start in range(0, len(missing), BATCH):
        if time.monotonic() >= deadline:
            return
        with alone:
            pool.measure(space, missing[start : start + BATCH], math.inf, deadline)
        spent = pool.statistics
        print(
            f"{name}: pass {number + 1}, {min(start + BATCH, len(missing))} of {len(missing)};"
            f" {spent.building:.0f} s building, {spent.timing:.0f} s timing",
            flush=True,
        )


class Alone:
    """Holds a lock on a file meanwhile, so that other work on the machine can wait its turn (``flock FILE ...``)."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("w")

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            time.sleep(0.1)  # whoever waits is not woken in time otherwise


def write(path: Path, name: str, space: Subspace, target: Target, store: Store) -> None:
    """The table: a row per config with its outcome, and the latency of each pass in seconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[tuple[int, ...], list[Any]] = {}
    for m in store.scan(Query(space.task.key, target.key, space.template)):
        rows.setdefault(m.config, []).append(m)
    configs = np.asarray(list(rows), dtype=np.int16).reshape(-1, len(space.knobs))
    configs = configs[np.argsort(keys(configs.astype(np.int32)), kind="stable")]
    found = [rows[tuple(row)] for row in configs.tolist()]
    columns: dict[str, Any] = {knob.name: configs[:, i] for i, knob in enumerate(space.knobs)}
    columns["outcome"] = [next((m.outcome.value for m in ms if m.ok), ms[0].outcome.value) for ms in found]
    for number in range(PASSES):
        times = [ms[number].seconds if len(ms) > number else math.nan for ms in found]
        columns[f"seconds{number}"] = np.asarray(times, dtype=np.float32)
    columns["elapsed"] = np.asarray([ms[0].elapsed for ms in found], dtype=np.float32)
    about = {
        "name": name,
        "task": space.task.ir,
        "kind": space.task.kind,
        "flop": space.task.flop,
        "template": space.template,
        "kept": [k.tolist() for k in space.kept],
        "machine": target.machine,
        "cores": target.cores,
        "mcpu": target.mcpu,
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m bench.record",
    }
    table = pa.table(columns).replace_schema_metadata({"tilewright": json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    print(f"{path}: {len(configs)} configs, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
