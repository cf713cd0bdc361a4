"""Records tables: small spaces, every config measured, on which searchers are compared without a compiler.

    python -m bench.record --out bench/tables --records tables.db

Each task's space is thinned to a few thousand configs (``tilewright.space.subspace``), which are measured in random
order, twice over with all others in between, so that the difference tells the noise. Measurements go to the records
first: an interrupted recording goes on where it stopped. A table is written when its task is complete.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.measure.pool import LocalPool
from tilewright.network import blocked
from tilewright.network.tasks import task_of
from tilewright.records import open_store
from tilewright.records.store import Query, Store
from tilewright.space.configs import keys, sample
from tilewright.space.registry import make_space
from tilewright.space.subspace import Subspace, thinned
from tilewright.target import Target
from tilewright.task import Task

#: Valid configs of a table, at most.
MOST = 4000
#: How often each config is measured.
PASSES = 2
BATCH = 64
LANES = 8


def conv(channels: int, out: int, size: int, kernel: int, stride: int = 1) -> Any:
    """A convolution with "same" padding on blocks of 8 (or of all channels, if they are fewer)."""
    cb = min(channels, LANES)
    data = (1, channels // cb, size, size, cb)
    weight = (out // LANES, channels // cb, kernel, kernel, cb, LANES)
    pad = kernel // 2
    return blocked.conv2d(data, weight, (stride, stride), (pad, pad, pad, pad), (1, 1))


def dense(m: int, k: int, n: int) -> Any:
    return blocked.dense(m, (n // LANES, k, LANES))


def depthwise(channels: int, size: int) -> Any:
    data, weight = (1, channels // LANES, size, size, LANES), (channels // LANES, 3, 3, LANES)
    return blocked.depthwise_conv2d(data, weight, (1, 1), (1, 1, 1, 1), (1, 1))


#: Name of the table and how its function is made. The first three are the independent set of PAPERS.md 4.
TASKS: dict[str, Callable[[], Any]] = {
    "dense-512x1024x1024": lambda: dense(512, 1024, 1024),
    "dense-512x1024x4096": lambda: dense(512, 1024, 4096),
    "dense-512x4096x1024": lambda: dense(512, 4096, 1024),
    "dense-512x512x512": lambda: dense(512, 512, 512),
    "conv3x3-128-28": lambda: conv(128, 128, 28, 3),
    "conv1x1-256-64-56": lambda: conv(256, 64, 56, 1),
    "conv3x3s2-256-14": lambda: conv(128, 256, 28, 3, 2),
    "conv3x3-512-7": lambda: conv(512, 512, 7, 3),
    "conv7x7s2-first": lambda: conv(3, 64, 224, 7, 2),
    "depthwise3x3-256-28": lambda: depthwise(256, 28),
}


def part_of(task: Task, target: Target) -> Subspace:
    """The space of a table; found by the workers by its name."""
    return thinned(make_space(task, target), MOST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/tables"))
    parser.add_argument("--records", type=Path, default=Path("tables.db"))
    parser.add_argument("--tables", default=",".join(TASKS), help="comma-separated")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long; run again to go on")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    target = Target.parse("native")
    store = open_store(arguments.records)
    try:
        with LocalPool(target, factory=part_of, on_measurement=lambda m: store.add([m])) as pool:
            for name in arguments.tables.split(","):
                task = task_of(name, TASKS[name]())
                space = part_of(task, target)
                record(name, space, target, pool, store, deadline)
                if time.monotonic() < deadline:
                    write(arguments.out / f"{name}.parquet", name, space, target, store)
    finally:
        store.close()


def record(name: str, space: Subspace, target: Target, pool: LocalPool, store: Store, deadline: float) -> None:
    """Measure what is missing, pass after pass."""
    store.describe(space.task)
    for number in range(PASSES):
        every = sample(space, np.random.default_rng(number), 1 << 20)
        counts: dict[tuple[int, ...], int] = {}
        for m in store.scan(Query(space.task.key, target.key, space.template)):
            counts[m.config] = counts.get(m.config, 0) + 1
        missing = every[[counts.get(tuple(row), 0) <= number for row in every.tolist()]]
        for start in range(0, len(missing), BATCH):
            if time.monotonic() >= deadline:
                return
            pool.measure(space, missing[start : start + BATCH], math.inf, deadline)
            done = min(start + BATCH, len(missing))
            print(f"\r{name}: pass {number + 1} of {PASSES}, {done} of {len(missing)}", end="", flush=True)
        print()


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
