"""Compares methods on whole design spaces with real measurements: 4 tasks, several seeds, equal seconds each.

    python -m bench.search_live --seeds 5 --seconds 20 --json live.json

For each seed and task the methods tune by turns, in random order, each without records and with the template's default
first, as a network's tasks are tuned (rounds of 16). Then the best config of each is measured again, interleaved, in
one race. The result of a method is its latency in the race over the fastest latency there.

The JSON file is written after each race, and races that it holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench._arms import make_arm
from bench._recorded import TASKS
from bench.search import ROUND, interval
from tilewright.cli.text import table
from tilewright.cost.models import load_model
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import robust_seconds
from tilewright.measure.pool import LocalPool
from tilewright.methods.autotvm import quick
from tilewright.methods.method import Method
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.space import DesignSpace
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner

LIVE = ("dense-512x1024x1024", "conv3x3-128-28", "conv7x7s2-first", "depthwise3x3-256-28")
METHODS = ("quick", "random+top", "annealing+adaptive", "chameleon", "default")
#: Stands between a method's name and the file of its prior.
WITH = "+prior="
#: How often each of the best is measured in the race.
ROUNDS = 7


def method(name: str) -> Method:
    """``quick``, or an arm of ``bench/_arms.py``. A name that ends in ``+prior=FILE`` has a model of ``cost train``."""
    plain, _, file = name.partition(WITH)
    prior = load_model(Path(file)) if file else None
    return quick(prior) if plain == "quick" else make_arm(plain, prior)


def tune(
    space: DesignSpace, target: Target, pool: LocalPool, searching: Method, seed: int, seconds: float
) -> TaskTuner:
    """One method's turn."""
    deadline = time.monotonic() + seconds
    tuner = TaskTuner(space, target, pool, MemoryStore(), np.random.default_rng(seed), searching)
    while time.monotonic() < deadline and not tuner.exhausted:
        tuner.round(ROUND, deadline)
    return tuner


def race(space: DesignSpace, pool: LocalPool, tuners: dict[str, TaskTuner]) -> dict[str, float]:
    """Seconds of what each has found, measured by turns."""
    names = [name for name, tuner in tuners.items() if tuner.best_config is not None]
    configs = [tuners[name].best_config for name in names]
    repeats: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS):
        order = np.random.default_rng(number).permutation(len(names))
        rows = np.asarray([configs[i] for i in order], dtype=np.int32)
        for i, m in zip(order.tolist(), pool.measure(space, rows, math.inf, math.inf), strict=True):
            repeats[names[i]].extend(m.repeats)
    return {name: robust_seconds(tuple(times)) for name, times in repeats.items() if times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each method on each task")
    parser.add_argument("--methods", default=",".join(METHODS), help="see method(); comma-separated")
    parser.add_argument("--tasks", default=",".join(LIVE))
    parser.add_argument("--json", type=Path, default=Path("live.json"))
    arguments = parser.parse_args()
    target = Target.parse("native")
    methods = arguments.methods.split(",")
    result: dict[str, Any] = {"races": []}
    if arguments.json.exists():
        result = json.loads(arguments.json.read_text())
    races = [r for r in result["races"] if alike(r, methods, arguments.seconds)]
    done = {(r["task"], r["seed"]) for r in races}
    result |= {
        "command": f"python -m bench.search_live --seeds {arguments.seeds} --seconds {arguments.seconds:g}",
        "machine": target.machine,
        "date": time.strftime("%Y-%m-%d"),
    }
    made = {name: method(name) for name in methods}  # with PyTorch imported, and models read
    with LocalPool(target) as pool:
        # Workers take seconds to start, which would be the first method's.
        first = make_space(task_of(LIVE[0], TASKS[LIVE[0]]()), target)
        for name in methods:
            TaskTuner(first, target, pool, MemoryStore(), np.random.default_rng(0), made[name]).round(2, math.inf)
        for seed in range(arguments.seeds):
            for name in arguments.tasks.split(","):
                if (name, seed) in done:
                    continue
                space = make_space(task_of(name, TASKS[name]()), target)
                order = np.random.default_rng(seed).permutation(len(methods))
                tuners = {
                    methods[i]: tune(space, target, pool, made[methods[i]], seed, arguments.seconds) for i in order
                }
                seconds = race(space, pool, tuners)
                trials = {key: tuner.trials for key, tuner in tuners.items()}
                about = {"task": name, "seed": seed, "budget": arguments.seconds}
                races.append({**about, "seconds": seconds, "trials": trials})
                result["races"].append(races[-1])
                arguments.json.write_text(json.dumps(result, indent=1))
                fastest = min(seconds.values())
                print(name, seed, {k: (round(s / fastest, 3), trials[k]) for k, s in seconds.items()}, flush=True)
    print(report(races, methods))


def alike(race: dict[str, Any], methods: Sequence[str], seconds: float) -> bool:
    """Whether these methods, and maybe others, took part in a race, with as many seconds each."""
    return set(methods) <= set(race["trials"]) and bool(race.get("budget", seconds) == seconds)


def report(races: Sequence[Any], methods: Sequence[str]) -> str:
    """Latency over the fastest of each race, by task and over all: means with 95 % intervals."""
    tasks = list(dict.fromkeys(r["task"] for r in races))
    lines = []
    for name in methods:
        groups = [[r for r in races if r["task"] == task] for task in tasks]
        figures = [_shown([_slowdown(r, name) for r in group]) for group in [*groups, races]]
        lines.append([name, *figures, f"{np.mean([r['trials'][name] for r in races]):.0f}"])
    return table(["method", *tasks, "all", "trials"], lines)


def _slowdown(found: Any, name: str) -> float:
    return float(found["seconds"].get(name, math.inf) / min(found["seconds"].values()))


def _shown(values: Sequence[float]) -> str:
    figure = interval(values)
    return f"{figure['mean']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


if __name__ == "__main__":
    main()
