"""Measures how far repeated measurements of the same candidate differ.

    python -m bench.repeatability --json repeatability.json

The pool measures the six best of 24 candidates of each of a network's heaviest tasks again and again. The order is
random, each candidate is built anew each time, and builds and measurements run side by side as in any round. A row is a
task. It has the median over configs of the spread of their readings (standard deviation of their logarithm), and the
number of readings above 1.4 times the config's fastest, where tuning gives a candidate up.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import _models
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.pool import LocalPool
from tilewright.measure.rule import HOPELESS_FACTOR
from tilewright.methods.default import default, known_beforehand
from tilewright.ops.registry import make_space
from tilewright.processor import model_name
from tilewright.records.memory import MemoryStore
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.tuner import TaskTuner

#: Candidates of a task, and how many of the best are measured again.
CANDIDATES, BEST = 24, 6


def readings(task: Task, target: Target, pool: LocalPool, repeats: int) -> np.ndarray:
    """``(repeats, BEST)`` latencies in seconds; nan: failed."""
    rng = np.random.default_rng(0)
    space = make_space(task, target)
    tuner = TaskTuner(space, target, pool, MemoryStore(), rng, default(known_beforehand()[0]))
    while tuner.trials < CANDIDATES and not tuner.exhausted:
        tuner.round(CANDIDATES // 2, math.inf)
    configs = tuner.finalists(BEST, math.inf)
    found = np.full((repeats, len(configs)), np.nan)
    for row in found:
        order = rng.permutation(len(configs))
        measured = pool.measure(space, configs[order], tuner.best_seconds, math.inf)
        row[order] = [m.seconds if m.ok else np.nan for m in measured]
    return found


def row_of(task: Task, seconds: np.ndarray) -> dict[str, Any]:
    fastest = np.nanmin(seconds, axis=0)
    return {
        "task": task.name,
        "us": 1e6 * float(np.nanmedian(fastest)),
        "spread": float(np.nanmedian(np.nanstd(np.log(seconds), axis=0))),
        "lost": float(np.nanmean(seconds > HOPELESS_FACTOR * fastest)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--tasks", type=int, default=6, help="the heaviest")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    target = Target.parse("native")
    uses = sorted(
        extract(load(_models.model(arguments.model)), target).uses, key=lambda use: -use.weight * use.task.flop
    )
    with LocalPool(target) as pool:
        rows = [
            row_of(use.task, readings(use.task, target, pool, arguments.repeats)) for use in uses[: arguments.tasks]
        ]
    cells = [[r["task"], f"{r['us']:.0f}", f"{r['spread']:.1%}", f"{r['lost']:.0%}"] for r in rows]
    spread, lost = (float(np.mean([r[key] for r in rows])) for key in ("spread", "lost"))
    print(table(["task", "us", "spread", "taken for hopeless"], [*cells, ["mean", "", f"{spread:.1%}", f"{lost:.0%}"]]))
    result = {"rows": rows, "spread": spread, "lost": lost, "machine": model_name(), "date": time.strftime("%Y-%m-%d")}
    write_json(arguments.json, result)


if __name__ == "__main__":
    main()
