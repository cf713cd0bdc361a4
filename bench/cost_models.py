"""Judges cost models by their ranking of unseen networks, and by the results of searches with them.

    python -m bench.cost_models --json c.json            # everything
    python -m bench.cost_models --quick --json c.json    # without the searches

- ``models``: one network is left out. Each model is fitted to the tasks of all other networks, and ranks the measured
  configs of the tasks that only this network has. Intervals are over tasks (bootstrap).
- ``tables``: each model is fitted to the data set without the tasks of the recorded tables, and ranks 1,000 random
  configs of each table. (The 10 fastest are a hundredth of these, and a fifteenth of a task's configs in ``models``.)
  Trees that were fitted to the other configs of the same table show what no model of other tasks can be expected to
  beat.
- ``end_to_end``: searches on the recorded tables from the template's default, as in tuning, by Tilewright's default
  method and by AutoTVM's with short rounds (``autotvm.quick``). They run without a prior, with each model as the prior,
  and with a prior that was fitted to another machine's programs (the same networks for the x86-64-v2 instruction set,
  with vectors of 4 instead of 8). Simulated seconds contain the thinking of the search, not the fitting of the prior.
- ``seconds``: the time to score 100,000 configs of a convolution on one core, features included, and to refit a model
  to 2,000 programs (a network from its present weights).

Folds and runs are kept in ``--cache``. They are not run again while data and models stay the same (``VERSION``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.replay import Clock, ReplayRunner, ReplaySpace, Table, rows_of
from bench.search import NEAR, ROUND, Run, _quiet, interval, row_of, searched, table_of
from bench.search_speed import thinking, whole_space
from tilewright.cli.text import table as text_table
from tilewright.cost.dataset import DataSet, read_data_set
from tilewright.cost.evaluate import Quality, bootstrap, evaluate, quality
from tilewright.cost.model import CostModel, Programs, take_rows
from tilewright.cost.models import MODELS, StoredModel, make_model, save_model
from tilewright.cost.neural import NeuralModel
from tilewright.cost.prior import SHIPPED, load_pretrained
from tilewright.cost.xgb import XGBoostModel
from tilewright.methods.autotvm import quick
from tilewright.methods.method import Method
from tilewright.methods.registry import make_method
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner

HERE = Path(__file__).parent
#: The version of a fold's or a run's code and of its form in the cache.
VERSION = 2
LIMIT = 96
AT = (16, 32, 48, 96)
#: The name of the model that was fitted to another machine's programs.
OTHER = "other_isa"
#: The name of trees that were fitted to other configs of the very table.
OWN = "the table's own"
#: The priors with which ``quick`` is run, and its number of seeds, because its runs take five times as long.
ONLINE, ONLINE_SEEDS = ("", "xgb_reg"), 10
MEASURES = ("pairwise_accuracy", "recall_at_10", "top1_regret")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "dataset.parquet")
    parser.add_argument("--other", type=Path, default=HERE / "dataset-sse.parquet", help="of another instruction set")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=50, help="of each search")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="no searches")
    parser.add_argument("--cache", type=Path, default=Path("cost_models_cache"), help="a directory")
    parser.add_argument(
        "--ship", metavar="MODEL", help="only fit this model to everything, and put it into the package"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    _quiet()
    if arguments.ship:
        print(f"{SHIPPED.stat().st_size / 1e6:.2f} MB" if ship(arguments.ship, arguments.data) else "")
        return
    arguments.cache.mkdir(parents=True, exist_ok=True)
    data = read_data_set(arguments.data)
    names = [name for name in arguments.models.split(",") if not MODELS[name].module or find_spec(MODELS[name].module)]
    result: dict[str, Any] = {
        "command": "python -m bench.cost_models" + (" --quick" if arguments.quick else ""),
        "machine": Target.parse("native").machine,
        "date": time.strftime("%Y-%m-%d"),
        "data": {"tasks": len(data.tasks), "programs": sum(map(len, data.tasks)), **data.about},
        "seconds": seconds_of(names, data),
    }
    print(speed_report(result["seconds"]))
    with ProcessPoolExecutor(arguments.jobs, initializer=_quiet) as pool:
        folds = [(name, network) for network in data.networks for name in names]
        found = pool.map(fold, [arguments.data] * len(folds), *zip(*folds, strict=True), [arguments.cache] * len(folds))
        per_task: dict[str, list[Quality]] = {name: [] for name in names}
        for (name, _), qualities in zip(folds, found, strict=True):
            per_task[name] += qualities
        result["models"] = {name: measures(qualities) for name, qualities in per_task.items()}
        print(f"\nnetworks left out, {len(next(iter(per_task.values())))} tasks:\n{quality_report(result['models'])}")
        priors = [*names, *([OTHER] if arguments.other.exists() else [])]
        files = dict(
            zip(
                priors,
                pool.map(
                    trained,
                    [arguments.other if name == OTHER else arguments.data for name in priors],
                    ["xgb_reg" if name == OTHER else name for name in priors],
                    [arguments.cache] * len(priors),
                ),
                strict=True,
            )
        )
        ranked = {name: [on_table(path, file) for path in tables()] for name, file in files.items()}
        ranked[OWN] = list(pool.map(on_own, tables()))
        result["tables"] = {name: measures(qualities) for name, qualities in ranked.items()}
        print(f"\n1,000 configs of each recorded table:\n{quality_report(result['tables'])}")
        if not arguments.quick:
            arms = [("default", prior) for prior in ("", *files)] + [("quick", prior) for prior in ONLINE]
            result["end_to_end"] = end_to_end(arms, files, arguments.seeds, arguments.cache, pool)
            result["end_to_end_summary"] = summary(result["end_to_end"])
            print(f"\nsearches on the tables, {arguments.seeds} seeds:\n{search_report(result['end_to_end_summary'])}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1))


# Fitting --------------------------------------------------------------------------------------------------------------


def fold(data_file: Path, name: str, network: str, cache_dir: Path) -> list[Quality]:
    """How a model ranks the tasks of ``network`` after it was fitted to those of all others."""
    file = cache_dir / f"fold-{name}-{network}-{stamp(data_file)}.json"
    if not file.exists():
        data = data_of(data_file)
        model = make_model(name)
        fit(model, data.without(network))
        alone = [task for task in data.of(network).tasks if task.networks == (network,)]
        file.write_text(json.dumps([asdict(q) for q in evaluate(model, alone)]))
    return [Quality(**q) for q in json.loads(file.read_text())]


def trained(data_file: Path, name: str, cache_dir: Path) -> Path:
    """The file of a model that was fitted to everything but the tasks of the recorded tables."""
    file = cache_dir / f"model-{name}-{stamp(data_file)}.npz"
    if not file.exists():
        keys = {table_of(path).task.key for path in tables()}
        data = data_of(data_file)
        save(name, DataSet(tuple(t for t in data.tasks if t.task not in keys), data.about), file)
    return file


def ship(name: str, data_file: Path) -> Path:
    """Fit a model to the whole data set and put it into the package."""
    save(name, data_of(data_file), SHIPPED)
    return SHIPPED


def save(name: str, data: DataSet, file: Path) -> None:
    model = make_model(name)
    fit(model, data)
    about = {**data.about, "tasks": len(data.tasks), "programs": sum(map(len, data.tasks))}
    save_model(name, model, data.tasks[0].template, about, file)


def fit(model: CostModel, data: DataSet) -> None:
    model.fit([task.nest for task in data.tasks], [task.seconds for task in data.tasks])


@cache
def data_of(path: Path) -> DataSet:
    return read_data_set(path)


def tables() -> list[Path]:
    return sorted((HERE / "tables").glob("*.parquet"))


def stamp(path: Path) -> str:
    return f"{VERSION}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"


# Ranking --------------------------------------------------------------------------------------------------------------


def measures(qualities: Sequence[Quality]) -> dict[str, dict[str, float]]:
    """Mean and interval of each measure."""
    return {
        measure: dict(zip(("mean", "low", "high"), bootstrap([getattr(q, measure) for q in qualities]), strict=True))
        for measure in MEASURES
    }


def on_table(path: Path, file: Path) -> Quality:
    """How a model ranks 1,000 random configs of a table."""
    recorded = table_of(path)
    rows = np.random.default_rng(0).permutation(len(recorded))[:1000]
    scores = load_pretrained(file).model.predict(recorded.nest)
    return quality(scores[rows], recorded.seconds[rows])


def on_own(path: Path) -> Quality:
    """How well trees that were fitted to all other configs of the table rank 1,000 configs.

    A model of other tasks can hardly be better. What is missing to 1 is the noise of the measurements, and the work of
    LLVM, which no feature describes.
    """
    recorded = table_of(path)
    rows = np.random.default_rng(0).permutation(len(recorded))
    model = make_model("xgb_reg")
    model.fit([take_rows(recorded.nest, rows[1000:])], [recorded.seconds[rows[1000:]]])
    return quality(model.predict(take_rows(recorded.nest, rows[:1000])), recorded.seconds[rows[:1000]])


def seconds_of(names: Sequence[str], data: DataSet) -> dict[str, dict[str, float]]:
    """The seconds of one core. This is processor time, so that other programs do not disturb it."""
    space = whole_space(Target.parse("native"))
    configs = sample(space, np.random.default_rng(0), 100_000)
    times = -(-2000 // len(data.tasks[0]))
    nests, measured = [data.tasks[0].nest] * times, [data.tasks[0].seconds] * times
    found = {}
    for name in names:
        model = make_model(name)
        fit(model, DataSet(data.tasks[:4]))
        began = time.process_time()
        model.predict(space.loop_nest(configs))
        scored = time.process_time() - began
        if isinstance(model, NeuralModel):
            model.warm = True
            again: CostModel = model
        else:
            again = XGBoostModel("rank" if name == "xgb_rank" else "regression")  # as it is fitted online
        began = time.process_time()
        again.fit(nests, measured)
        found[name] = {"score_100000": scored, "refit_2000": time.process_time() - began}
    return found


# Searching ------------------------------------------------------------------------------------------------------------


class _Looked:
    """A fitted model's scores of a table, computed once."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self._scores = scores

    ready = True

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        """Learn nothing."""

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        return self._scores[rows_of(programs)]


class _Once:
    """A model that scores the whole table after each fit, and then looks scores up."""

    def __init__(self, model: CostModel, whole: Programs) -> None:
        self._model = model
        self._whole = whole
        self._scores = model.predict(whole)

    @property
    def ready(self) -> bool:
        return self._model.ready

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        self._model.fit(programs, seconds)
        self._scores = self._model.predict(self._whole)

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        return np.asarray(self._scores[rows_of(programs)])


def method_of(name: str, prior: StoredModel | None) -> Method:
    """A method of ``METHODS``, or AutoTVM's for the short rounds of a network (``quick``)."""
    return quick(prior) if name == "quick" else make_method(name, prior)


def on_tables(method: Method, recorded: Table) -> Method:
    """The method, with a cost model that scores the table at once."""
    make = method.model
    if make is None:
        return method
    return replace(
        method, model=lambda space, seed: _Once(make(space, seed), ReplaySpace(recorded).loop_nest(recorded.configs))
    )


@cache
def scores_of(path: Path, file: Path) -> NDArray[np.float64]:
    return load_pretrained(file).model.predict(table_of(path).nest)


def search(path: Path, name: str, file: Path | None, seed: int) -> Run:
    """A search on a table, from the template's default."""
    recorded = table_of(path)
    prior = None
    if file is not None:
        stored = load_pretrained(file)
        prior = replace(stored, template=recorded.template, model=_Looked(scores_of(path, file)))
    clock, times = Clock(), list[float]()
    runner = ReplayRunner(recorded, clock, lambda m: times.append(clock.now))
    rng = np.random.default_rng(seed)
    target = Target.parse("native")
    space = ReplaySpace(recorded)
    method = on_tables(method_of(name, prior), recorded)
    tuner = TaskTuner(space, target, runner, MemoryStore(), rng, method, clock=clock)
    return searched(tuner, recorded, times, ROUND, LIMIT)


def end_to_end(
    arms: Sequence[tuple[str, str]], files: dict[str, Path], seeds: int, cache_dir: Path, pool: ProcessPoolExecutor
) -> list[Any]:
    """A row of each table and arm."""
    log = cache_dir / "runs.jsonl"
    done: dict[str, Run] = {}
    if log.exists():
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            done[entry["key"]] = Run(**entry["run"])

    def key(path: Path, name: str, prior: str, seed: int) -> str:
        return f"{VERSION} {stamp(path)} {name} {files[prior].name if prior else ''} {seed}"

    counts = {arm: seeds if arm[0] == "default" else min(seeds, ONLINE_SEEDS) for arm in arms}
    cells = [(path, *arm, seed) for seed in range(seeds) for path in tables() for arm in arms if seed < counts[arm]]
    missing = [cell for cell in cells if key(*cell) not in done]
    began = time.monotonic()
    with log.open("a") as out:
        works = pool.map(
            search,
            [path for path, _, _, _ in missing],
            [name for _, name, _, _ in missing],
            [files.get(prior) for _, _, prior, _ in missing],
            [seed for _, _, _, seed in missing],
            chunksize=8,
        )
        for number, (cell, found) in enumerate(zip(missing, works, strict=True), 1):
            done[key(*cell)] = found
            out.write(json.dumps({"key": key(*cell), "run": asdict(found)}) + "\n")
            out.flush()
            if number % 200 == 0 or number == len(missing):
                left = (time.monotonic() - began) / number * (len(missing) - number)
                print(f"{number} of {len(missing)} runs, {left:.0f} s left", flush=True)
    target = Target.parse("native")
    space = whole_space(target)
    rows = []
    for name, prior in arms:
        method = method_of(name, load_pretrained(files[prior]) if prior else None)
        thought = float(np.median(thinking(space, target, method, 48, ROUND, 3)))
        for path in tables():
            runs = [done[key(path, name, prior, seed)] for seed in range(counts[name, prior])]
            row = {"method": name, "model": prior or "none", **row_of(table_of(path), name, ROUND, runs, thought)}
            row["slowdown_at"] = {n: interval([slowdown_after(r, n) for r in runs]) for n in AT}
            row["runs_at"] = {n: [slowdown_after(r, n) for r in runs] for n in AT}
            row["thinking_seconds"] = thought
            rows.append(row)
    return rows


def slowdown_after(run: Run, trials: int) -> float:
    """The best latency after ``trials`` trials over the optimum."""
    place = int(np.searchsorted(run.trials, trials, side="right")) - 1
    return run.slowdown[place] if place >= 0 else math.inf


def summary(rows: Sequence[Any]) -> list[Any]:
    """The means over all tables. Intervals resample the seeds."""
    rng = np.random.default_rng(0)
    lines = []
    for method, model in dict.fromkeys((row["method"], row["model"]) for row in rows):
        mine = [row for row in rows if (row["method"], row["model"]) == (method, model)]
        line: dict[str, Any] = {"method": method, "model": model, "slowdown_at": {}}
        for n in AT:
            values = np.asarray([row["runs_at"][n] for row in mine])
            drawn = values[:, rng.integers(0, values.shape[1], size=(2000, values.shape[1]))].mean(axis=(0, 2))
            low, high = np.quantile(drawn, [0.025, 0.975])
            line["slowdown_at"][n] = {"mean": float(values.mean()), "low": float(low), "high": float(high)}
        line["reached"] = float(np.mean([row["reached"] for row in mine]))
        line["trials_to_5pct"] = math.exp(np.mean([math.log(row["trials_to_5pct"]["mean"]) for row in mine]))
        line["seconds_to_5pct"] = math.exp(np.mean([math.log(row["seconds_to_5pct"]["mean"]) for row in mine]))
        line["thinking_seconds"] = mine[0]["thinking_seconds"]
        lines.append(line)
    return lines


# Reports --------------------------------------------------------------------------------------------------------------


def shown(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def quality_report(models: dict[str, Any]) -> str:
    rows = [[name, *(shown(figures[measure]) for measure in MEASURES)] for name, figures in models.items()]
    return text_table(["model", "pairwise accuracy", "recall@10", "top-1 regret"], rows)


def speed_report(seconds: dict[str, dict[str, float]]) -> str:
    rows = [[name, *(f"{value:.2f}" for value in figures.values())] for name, figures in seconds.items()]
    return text_table(["model", "100,000 scores (s)", "refit of 2,000 (s)"], rows)


def search_report(lines: Sequence[Any]) -> str:
    rows = [
        [
            line["method"],
            line["model"],
            *(shown(line["slowdown_at"][n]) for n in AT),
            f"{line['reached']:.2f}",
            f"{line['trials_to_5pct']:.0f}",
            f"{line['seconds_to_5pct']:.1f}",
            f"{line['thinking_seconds']:.2f}",
        ]
        for line in lines
    ]
    heads = [*(f"after {n}" for n in AT), f"within {NEAR - 1:.0%}", "trials", "seconds", "thinking"]
    return text_table(["method", "prior", *heads], rows, left=2)


if __name__ == "__main__":
    main()
