"""Records tables: small spaces with every config measured, on which searchers are compared without a compiler.

    python -m bench.record --out bench/tables --records tables.db

Each task's space is thinned to a few thousand configs (``tilewright.space.subspace``). All configs are measured in
random order. The fast ones are then measured again in several passes, each in another order. So the measurements of a
config lie minutes apart, and their differences show the noise. Measurements go to the records first, so that an
interrupted recording goes on where it stopped. A table is written after each pass.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import time
from pathlib import Path

import numpy as np

from bench._recorded import TASKS, part_of
from bench.replay import Table, write
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement
from tilewright.measure.pool import LocalPool
from tilewright.records import open_store
from tilewright.records.store import Query, Store
from tilewright.space.configs import sample
from tilewright.space.subspace import Subspace
from tilewright.target import Target

#: Passes, and which configs each measures: those within so many times the fastest. They lie minutes apart.
PASSES = (float("inf"), 1.5, 1.2, 1.2)
BATCH = 64
#: Seconds between two measurements beyond which something else was going on.
MOST_GAP = 15.0


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
            for number in range(len(PASSES)):
                for name, space in spaces.items():
                    record(name, space, target, pool, store, number, Alone(arguments.lock), deadline)
                    if time.monotonic() < deadline:
                        path = arguments.out / f"{name}.parquet"
                        write(recorded(name, space, target, store), path)
                        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB", flush=True)
    finally:
        store.close()


def record(
    name: str,
    space: Subspace,
    target: Target,
    pool: LocalPool,
    store: Store,
    number: int,
    alone: Alone,
    deadline: float,
) -> None:
    """Measure what pass ``number`` is missing."""
    store.describe(space.task)
    every = sample(space, np.random.default_rng(number), 1 << 20)
    known: dict[tuple[int, ...], list[float]] = {}
    for m in store.scan(Query(space.task.key, target.key, space.template)):
        known.setdefault(m.config, []).append(m.seconds)
    rows = [tuple(row) for row in every.tolist()]
    if number > 0:
        # Neighbours on the machine only ever add time: a config is as fast as it ever was.
        fastest = {row: float(np.nanmin([*times, np.inf])) for row, times in known.items()}
        best = min(fastest.values())
        rows = [row for row in rows if fastest.get(row, np.inf) <= PASSES[number] * best]
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


def recorded(name: str, space: Subspace, target: Target, store: Store) -> Table:
    """What the store holds of a table."""
    found: dict[tuple[int, ...], list[Measurement]] = {}
    times, elapsed = [], 0.0
    for m in store.scan(Query(space.task.key, target.key, space.template)):
        found.setdefault(m.config, []).append(m)
        times.append(m.time)
        elapsed += m.elapsed
    gaps = np.diff(np.sort(times))
    configs = np.asarray(sorted(found), dtype=np.int32).reshape(-1, len(space.knobs))
    groups = [found[tuple(row)] for row in configs.tolist()]
    return Table(
        name=name,
        task=space.task,
        target=target.key,
        template=space.template,
        knobs=space.knobs,
        default=space.default(),
        configs=configs,
        outcomes=tuple(next((m.outcome for m in group if m.ok), group[0].outcome) for group in groups),
        repeats=tuple(tuple(m.repeats for m in group if m.ok) for group in groups),
        elapsed=np.asarray([group[0].elapsed for group in groups]),
        overlap=float(gaps[gaps < MOST_GAP].sum()) / elapsed,
        nest=space.loop_nest(configs),
        about={
            "machine": target.machine,
            "cores": target.cores,
            "cpu": target.mcpu,
            "date": time.strftime("%Y-%m-%d", time.gmtime(max(times))),
            "command": "python -m bench.record",
        },
    )


if __name__ == "__main__":
    main()
