"""Compares the published systems, and every searcher with every sampler, by the trials to a fast config of a table.

    python -m bench.search --seeds 50 --json s.json --plots docs/results

The arms come from ``tilewright.methods`` (``bench/_arms.py``). A run is AutoTVM's loop (``TaskTuner``) on a recorded
table in the place of the machine: propose a round, look its latencies up, learn. It starts at a random config, because
the template's default is a good one that would hide differences. It ends after 128 trials, or within 2 % of the
optimum.

- ``rows``: rounds of 16, as when a network is tuned. Seconds are simulated. They are what building and timing took when
  the table was recorded, plus the thinking of each round (refitting, searching, picking). Thinking was measured on the
  full space of a convolution, because it takes less time on a table.
- ``arms``: rounds of 64 as published, up to 256 trials, for AutoTVM and the four arms of Chameleon's paper.
- ``budgets``: 0.1 %, 1 % and 10 % of the table, for the searchers without a cost model and AutoTVM's.
- ``summary``: over all tables, relative to AutoTVM.

Finished runs are kept in ``--cache`` (one JSON line each). They are not run again while the code of the runs
(``VERSION``) and the table stay the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench._arms import make_arm, name_arms, parts_of
from bench.replay import Clock, RecordedModel, ReplayRunner, ReplaySpace, Table, read
from bench.search_speed import thinking_seconds
from tilewright.cli.text import table as text_table
from tilewright.methods.method import Method
from tilewright.methods.parts import SAMPLERS, SEARCHERS, make_policy_search
from tilewright.records.memory import MemoryStore
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner

#: The version of a run's code and of its form in the cache.
VERSION = 2
#: Trials of a run in ``rows`` and in ``arms``.
LIMIT, PUBLISHED_LIMIT = 128, 256
#: The share of the table that a run in ``budgets`` may measure.
SHARE = 0.1
#: A run ends this near the optimum.
DONE = 1.02
#: Near enough to have arrived.
NEAR = 1.05
ROUND, PUBLISHED_ROUND = 16, 64
ARMS = ["autotvm", "annealing+top", "ppo+top", "annealing+adaptive", "chameleon", "random+top", "random+adaptive"]
BUDGETS = ["random+top", "annealing+top", "gbfs", "na2c", "default"]
#: PPO's steps per ask on a table. With 64 steps, 128 walkers would meet every config of a table in one ask.
PPO_STEPS = 16
BASELINE = "autotvm"
AT_TRIALS = (16, 32, 48, 64, 96, 128)
AT_PERCENT = (0.1, 1.0, 10.0)
AT_SECONDS = (5, 10, 20, 40)
RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """One run."""

    table: str
    arm: str
    round: int
    seed: int


@dataclass(frozen=True)
class Run:
    """The result of a run: the trials, and the simulated seconds without thinking, at which a faster config was found.

    Attributes:
        trials: the numbers of these trials, ascending.
        seconds: the simulated seconds of building and timing up to each of them.
        slowdown: the best latency over the table's optimum from each of them on.
        rounds: the number of trials at the end of each round.
        asked: the number of all trials.
    """

    trials: list[int]
    seconds: list[float]
    slowdown: list[float]
    rounds: list[int]
    asked: int


@cache
def table_of(path: Path) -> Table:
    return read(path)


def run(path: Path, cell: Cell, limit: int | None = None) -> Run:
    """Search a table, with at most ``limit`` trials; None: as many as the arm has."""
    recorded = table_of(path)
    start, searching = np.random.default_rng(cell.seed).spawn(2)
    first = recorded.configs[int(start.integers(len(recorded)))]
    space, clock = ReplaySpace(recorded, first), Clock()
    method = method_of(cell, recorded)
    target = Target.parse("native")
    times: list[float] = []
    runner = ReplayRunner(recorded, clock, lambda m: times.append(clock.now))
    tuner = TaskTuner(space, target, runner, MemoryStore(), searching, method, clock=clock)
    return searched(tuner, recorded, times, cell.round, limit or limit_of(cell, recorded))


def searched(tuner: TaskTuner, recorded: Table, times: Sequence[float], size: int, limit: int) -> Run:
    """Run rounds of ``size`` until ``limit`` trials, the end of the space, or 2 % from the optimum.

    Args:
        tuner: searches the table.
        recorded: the table.
        times: the simulated seconds at the end of each measurement. The list grows as the tuner measures.
        size: of a round.
        limit: the most trials.
    """
    found = Run([], [], [], [], 0)
    best, asked = math.inf, 0
    while asked < limit and not tuner.exhausted and (not found.slowdown or found.slowdown[-1] > DONE):
        for m in tuner.round(min(size, limit - asked), math.inf).measurements:
            asked += 1
            if m.ok and m.seconds < best:
                best = m.seconds
                found.trials.append(asked)
                found.seconds.append(round(times[asked - 1], 3))
                found.slowdown.append(round(best / recorded.optimum, 4))
        found.rounds.append(asked)
    return replace(found, asked=asked)


def limit_of(cell: Cell, recorded: Table) -> int:
    """The most trials of a run."""
    if cell.round == PUBLISHED_ROUND:
        return PUBLISHED_LIMIT
    return math.ceil(SHARE * len(recorded)) if cell.arm in BUDGETS else LIMIT


def method_of(cell: Cell, recorded: Table) -> Method:
    """The arm's method, with a cost model that scores the table at once."""
    named = make_arm(cell.arm)
    if parts_of(cell.arm)[0] == "ppo":
        named = replace(named, searcher=make_policy_search(PPO_STEPS))
    make = named.model
    return (
        named if make is None else replace(named, model=lambda space, seed: RecordedModel(make(space, seed), recorded))
    )


# Figures of runs ------------------------------------------------------------------------------------------------------


def upto(found: Run, limit: int) -> Run:
    """The run up to ``limit`` trials."""
    count = int(np.searchsorted(found.trials, limit, side="right"))
    return replace(found, trials=found.trials[:count], seconds=found.seconds[:count], slowdown=found.slowdown[:count])


def trials_to(found: Run, size: int) -> int:
    """The trials until within 5 % of the optimum; ``size``, that of the table, if the run never got there."""
    return next((t for t, s in zip(found.trials, found.slowdown, strict=True) if s <= NEAR), size)


def seconds_to(found: Run, thinking: float, whole: float) -> float:
    """The simulated seconds until within 5 % of the optimum; ``whole``, those of the table, if it never got there."""
    for trials, seconds, slowdown in zip(found.trials, found.seconds, found.slowdown, strict=True):
        if slowdown <= NEAR:
            return seconds + thinking * rounds_until(found, trials)
    return whole


def rounds_until(found: Run, trials: int) -> int:
    """The number of rounds with thinking up to a trial. The first round has none."""
    return int(np.searchsorted(found.rounds, trials))


def speed_after(found: Run, trials: float) -> float:
    """The optimum over the best latency after ``trials`` trials; 0 before the first measurement."""
    place = int(np.searchsorted(found.trials, trials, side="right")) - 1
    return 1.0 / found.slowdown[place] if place >= 0 else 0.0


def speed_by(found: Run, seconds: float, thinking: float) -> float:
    """The optimum over the best latency after ``seconds`` simulated seconds; 0 before the first measurement."""
    times = [s + thinking * rounds_until(found, t) for s, t in zip(found.seconds, found.trials, strict=True)]
    place = int(np.searchsorted(times, seconds, side="right")) - 1
    return 1.0 / found.slowdown[place] if place >= 0 else 0.0


def interval(values: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """The mean with its 95 % bootstrap interval."""
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(0)
    means = data[rng.integers(0, len(data), size=(RESAMPLES, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": round(float(data.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def row_of(recorded: Table, arm: str, size: int, runs: Sequence[Run], thinking: float) -> Any:
    """One row of the results."""
    searcher, sampler = parts_of(arm)
    whole = float(recorded.elapsed.sum()) * recorded.overlap
    limit = LIMIT if size == ROUND else PUBLISHED_LIMIT
    runs = [upto(r, limit) for r in runs]
    trials = [trials_to(r, len(recorded)) for r in runs]
    return {
        "table": recorded.name,
        "arm": arm,
        "searcher": searcher,
        "sampler": sampler,
        "round": size,
        "seeds": len(runs),
        "configs": len(recorded),
        "trials_to_5pct": interval(trials),
        "reached": sum(any(s <= NEAR for s in r.slowdown) for r in runs) / len(runs),
        "seconds_to_5pct": interval([seconds_to(r, thinking, whole) for r in runs]),
        "speed_at_trials": {n: interval([speed_after(r, n) for r in runs]) for n in AT_TRIALS},
        "speed_at_seconds": {s: interval([speed_by(r, s, thinking) for r in runs]) for s in AT_SECONDS},
        "runs": trials,
    }


def budget_row(recorded: Table, arm: str, runs: Sequence[Run]) -> Any:
    """The speed of the best config after shares of the table."""
    return {
        "table": recorded.name,
        "arm": arm,
        "speed_at_percent": {p: interval([speed_after(r, p / 100 * len(recorded)) for r in runs]) for p in AT_PERCENT},
    }


def summary(rows: Sequence[Any], size: int) -> list[Any]:
    """Over all tables, the geometric mean of the trials, and the ratio to AutoTVM's. Intervals resample the seeds."""
    rng = np.random.default_rng(0)
    groups: dict[str, list[NDArray[np.float64]]] = {}
    for row in rows:
        groups.setdefault(row["arm"], []).append(np.asarray(row["runs"], dtype=np.float64))

    def resampled(runs: list[NDArray[np.float64]]) -> tuple[float, NDArray[np.float64]]:
        logs = [np.log(r[rng.integers(0, len(r), size=(RESAMPLES, len(r)))].mean(axis=1)) for r in runs]
        return float(np.mean([np.log(r.mean()) for r in runs])), np.mean(logs, axis=0)

    figures = {key: resampled(runs) for key, runs in groups.items()}
    base = figures.get(BASELINE)
    lines = []
    for arm, (value, spread) in figures.items():
        searcher, sampler = parts_of(arm)
        mine = [row for row in rows if row["arm"] == arm]
        line = {
            "arm": arm,
            "searcher": searcher,
            "sampler": sampler,
            "round": size,
            "trials_to_5pct": _exp(value, spread),
            "reached": round(float(np.mean([row["reached"] for row in mine])), 3),
            "speed_at_trials": {
                n: round(float(np.mean([row["speed_at_trials"][n]["mean"] for row in mine])), 3) for n in AT_TRIALS
            },
            "seconds_to_5pct": round(math.exp(np.mean([math.log(row["seconds_to_5pct"]["mean"]) for row in mine])), 2),
        }
        if base is not None:
            line["of_autotvm"] = _exp(value - base[0], spread - base[1])
        lines.append(line)
    return sorted(lines, key=lambda line: line["trials_to_5pct"]["mean"])


def _exp(value: float, spread: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.exp(np.quantile(spread, [0.025, 0.975]))
    return {"mean": round(math.exp(value), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


# All runs -------------------------------------------------------------------------------------------------------------


def cells(tables: Sequence[str], seeds: int, searchers: Sequence[str], samplers: Sequence[str]) -> Iterator[Cell]:
    """The runs, seed after seed, so that an interrupted comparison is fair."""
    arms = name_arms(searchers, samplers)
    for seed in range(seeds):
        for name in tables:
            for arm in arms:
                yield Cell(name, arm, ROUND, seed)
            for arm in ARMS:
                if arm in arms:
                    yield Cell(name, arm, PUBLISHED_ROUND, seed)


def _work(path: Path, cell: Cell) -> tuple[Cell, Run]:
    return cell, run(path, cell)


def _quiet() -> None:
    """Limit each process to one thread, because there is a process per core."""
    # The libraries have read the environment by now, so that setting variables has no effect.
    threadpool_limits(1)


def every_run(paths: dict[str, Path], wanted: Sequence[Cell], cache_file: Path | None, jobs: int) -> dict[Cell, Run]:
    """The runs from the cache, and new ones that it lacks."""
    stamps = {name: f"{VERSION}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" for name, path in paths.items()}
    done: dict[Cell, Run] = {}
    if cache_file is not None and cache_file.exists():
        for line in cache_file.read_text().splitlines():
            entry = json.loads(line)
            cell = Cell(**entry["cell"])
            if entry["stamp"] == stamps.get(cell.table):
                done[cell] = Run(**entry["run"])
    missing = [cell for cell in wanted if cell not in done]
    began = time.monotonic()
    log = cache_file.open("a") if cache_file is not None else None
    try:
        with ProcessPoolExecutor(jobs, initializer=_quiet) as pool:
            works = pool.map(_work, [paths[c.table] for c in missing], missing, chunksize=8)
            for number, (cell, found) in enumerate(works, 1):
                done[cell] = found
                if log is not None:
                    entry = {"stamp": stamps[cell.table], "cell": asdict(cell), "run": asdict(found)}
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                if number % 100 == 0 or number == len(missing):
                    left = (time.monotonic() - began) / number * (len(missing) - number)
                    print(f"{number} of {len(missing)} runs, {left:.0f} s left", flush=True)
    finally:
        if log is not None:
            log.close()
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tables", type=Path, default=Path(__file__).parent / "tables", help="a directory")
    parser.add_argument("--only", help="names of tables, comma-separated")
    parser.add_argument("--searchers", default=",".join(SEARCHERS), help="comma-separated")
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--cache", type=Path, help="keeps finished runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, help="a directory for pictures (extra bench)")
    arguments = parser.parse_args()
    _quiet()
    paths = {path.stem: path for path in sorted(arguments.tables.glob("*.parquet"))}
    if arguments.only:
        paths = {name: paths[name] for name in arguments.only.split(",")}
    searchers, samplers = arguments.searchers.split(","), arguments.samplers.split(",")
    thinking = thinking_seconds(name_arms(searchers, samplers), ROUND)
    wanted = list(cells(list(paths), arguments.seeds, searchers, samplers))
    done = every_run(paths, wanted, arguments.cache, arguments.jobs)

    def groups(size: int) -> dict[tuple[str, str], list[Run]]:
        found: dict[tuple[str, str], list[Run]] = {}
        for cell in wanted:
            if cell.round == size:
                found.setdefault((cell.table, cell.arm), []).append(done[cell])
        return found

    def rows(size: int) -> list[Any]:
        return [
            row_of(table_of(paths[name]), arm, size, runs, thinking[arm]) for (name, arm), runs in groups(size).items()
        ]

    result: dict[str, Any] = {
        "command": f"python -m bench.search --seeds {arguments.seeds}",
        "machine": Target.parse("native").machine,
        "date": time.strftime("%Y-%m-%d"),
        "thinking_seconds": thinking,
        "tables": {name: table_of(path).about for name, path in paths.items()},
    }
    for key, size in (("rows", ROUND), ("arms", PUBLISHED_ROUND)):
        result[key] = rows(size)
        result[f"{key}_summary"] = summary(result[key], size)
        print(f"\nrounds of {size}, geometric mean over {len(paths)} tables, {arguments.seeds} seeds:")
        print(report(result[f"{key}_summary"]))
    result["budgets"] = [
        budget_row(table_of(paths[name]), arm, runs) for (name, arm), runs in groups(ROUND).items() if arm in BUDGETS
    ]
    print("\nspeed of the best after a share of the table, of the optimum's:")
    print(budget_report(result["budgets"]))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1))
    if arguments.plots is not None:
        from bench._plots import plot

        plot(result, {c: done[c] for c in wanted}, arguments.plots)


def budget_report(rows: Sequence[Any]) -> str:
    """Means over all tables as text."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row["speed_at_percent"] for row in rows if row["arm"] == arm]
        lines.append([arm, *(f"{np.mean([m[p]['mean'] for m in mine]):.3f}" for p in AT_PERCENT)])
    return text_table(["arm", *(f"{p} %" for p in AT_PERCENT)], lines)


def report(lines: Sequence[Any]) -> str:
    """The summary as text."""

    def shown(figure: dict[str, float] | None, digits: int) -> str:
        if figure is None:
            return "-"
        return f"{figure['mean']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"

    return text_table(
        [
            "arm",
            "searcher",
            "sampler",
            "trials to 5 %",
            "of AutoTVM's",
            "reached",
            "seconds",
            *(f"at {n}" for n in AT_TRIALS),
        ],
        [
            [
                line["arm"],
                line["searcher"],
                line["sampler"],
                shown(line["trials_to_5pct"], 0),
                shown(line.get("of_autotvm"), 2),
                f"{line['reached']:.2f}",
                f"{line['seconds_to_5pct']:.1f}",
                *(f"{line['speed_at_trials'][n]:.3f}" for n in AT_TRIALS),
            ]
            for line in lines
        ],
    )


if __name__ == "__main__":
    main()
