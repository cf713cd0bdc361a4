"""Compares the tuning of networks with sharing and without it, by time and by latency.

    python -m bench.sharing --models squeezenet,bvlc_alexnet --limit 64 --json sharing.json

Each network is tuned four times, each time without records. All arms have the searcher of Tilewright's default method
and its cost model, fitted without this network (``bench/_held_out.py``):

- ``off``: every task has ``--limit`` trials.
- ``schedule_sharing``: the published policy of that method (Yu, TVM conference 2019). Representatives of clusters have
  ``--limit`` trials. Every other task measures the best ten configs of its representative and nothing else.
- ``default``: the sharing of Tilewright's default method, and its scheduler, in ``--share`` of the seconds of ``off``.
- ``alone``: the scheduler without sharing, with as many seconds. The difference to ``default`` is due to sharing.

At the end the best configs of all four are raced by turns in one process. A network's latency is the sum of weight x
latency. No task has more trials than ``--limit`` in any arm. ``time_ratio`` is an arm's seconds over those of ``off``.
``performance_ratio`` is the latency of ``off`` over the arm's: below 1 the arm is slower. Networks in the JSON file are
not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import _models
from bench._curves import plot_sharing
from bench._held_out import held_out
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.frontend.load import load
from tilewright.graph.tasks import TaskUse, extract
from tilewright.jsonable import to_json
from tilewright.measure.pool import LocalPool
from tilewright.methods.method import Method
from tilewright.methods.registry import make_method
from tilewright.ops.registry import make_space
from tilewright.processor import model_name
from tilewright.records.memory import MemoryStore
from tilewright.share.cluster import agglomerative_clusters
from tilewright.share.policy import Sharing
from tilewright.share.similarity import similarity_matrix
from tilewright.share.transfer import map_configs
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.tuning.budget import Budget
from tilewright.tuning.context import Scheduling, TuningContext
from tilewright.tuning.report import NetworkReport
from tilewright.tuning.roofline import measure_roofline
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.tuner import TaskTuner

MODELS = "squeezenet,resnet50,shufflenet,bvlc_alexnet,transformer,mobile"
ROUND = 16
#: How often the best configs are raced.
TURNS = 3
ARMS = ("off", "schedule_sharing", "default", "alone")
#: The best config of each task by its key, and the seconds and trials that were needed to find them.
Found = tuple[dict[str, Configs], float, int]


class Bench:
    """One network.

    Args:
        uses: its tasks.
        target: what is tuned for.
        pool: measures.
        method: how tasks are searched.
        seed: of everything random.
    """

    def __init__(self, uses: Sequence[TaskUse], target: Target, pool: LocalPool, method: Method, seed: int) -> None:
        self.uses, self.target, self.pool, self.method, self.seed = uses, target, pool, method, seed
        self.spaces: dict[str, DesignSpace] = {use.task.key: make_space(use.task, target) for use in uses}
        self.clusters = 0
        #: The milliseconds of each task in the race, of all its uses together, by arm.
        self.parts: dict[str, dict[str, float]] = {}
        self.reports: list[NetworkReport] = []

    def off(self, limit: int) -> Found:
        """Each task by itself."""
        began, store = time.monotonic(), self._store()
        tuners = [self._tuned(store, use.task.key, number, limit) for number, use in enumerate(self.uses)]
        return self._found(tuners, began)

    def published(self, policy: Sharing, limit: int) -> Found:
        """Representatives are tuned, and the other tasks take over their best configs."""
        began, store = time.monotonic(), self._store()
        keys = list(self.spaces)
        matrix = similarity_matrix([self.spaces[key] for key in keys], policy.measure)
        clusters = policy.cluster(keys, matrix, policy.threshold)
        self.clusters = len(clusters)
        tuners = []
        for cluster in clusters:
            donor = self._tuned(store, cluster.representative, keys.index(cluster.representative), limit)
            tuners.append(donor)
            for key in cluster.members:
                if key != cluster.representative:
                    tuner = self._tuner(store, key, keys.index(key))
                    lent = map_configs(donor.space.knobs, donor.finalists(policy.top, math.inf), tuner.space)
                    waiting = tuner.suggest(lent)
                    tuner.round(waiting + 1, math.inf)  # the default too, by which outputs are checked
                    tuners.append(tuner)
        return self._found(tuners, began)

    def scheduled(self, seconds: float, sharing: Sharing | None, limit: int) -> Found:
        """The scheduler of ``tilewright tune``, with at most ``limit`` trials of a task."""
        began, store = time.monotonic(), self._store()
        budget = Budget(seconds).start(began=began)
        context = TuningContext(self.target, self.pool, store, budget, np.random.default_rng(self.seed))
        tuner = NetworkTuner(
            self.uses,
            context,
            method=replace(self.method, sharing=sharing),
            scheduling=Scheduling(task_trials=limit),
            roofline=measure_roofline(self.target.cores),
            make_space=lambda task, _: self.spaces[task.key],
        )
        tuner.run(finalists=0)
        self.reports.append(tuner.report())
        return self._found(list(tuner.tuners.values()), began)

    def race(self, arms: dict[str, Found]) -> dict[str, list[float]]:
        """The network's latency in seconds by each arm's configs, for each race of them; see ``parts``, too."""
        latencies = {name: [0.0] * TURNS for name in arms}
        for use in self.uses:
            space = self.spaces[use.task.key]
            rows = {name: found[0].get(use.task.key, np.asarray(space.default())[None]) for name, found in arms.items()}
            configs = np.unique(np.concatenate(list(rows.values())), axis=0)
            part: dict[str, list[float]] = {name: [] for name in arms}
            for turn in range(TURNS):
                measured = self.pool.race(space, configs, math.inf)
                seconds = {m.config: m.seconds for m in measured if m.ok}
                for name, row in rows.items():
                    part[name].append(use.weight * seconds.get(tuple(row[0].tolist()), math.nan))
                    latencies[name][turn] += part[name][-1]
            self.parts[use.task.name] = {name: 1e3 * float(np.median(values)) for name, values in part.items()}
        return latencies

    def _store(self) -> MemoryStore:
        store = MemoryStore()
        self.pool.on_measurement = lambda m: store.add([m])
        return store

    def _tuner(self, store: MemoryStore, key: str, number: int) -> TaskTuner:
        rng = np.random.default_rng([self.seed, number])
        return TaskTuner(self.spaces[key], self.target, self.pool, store, rng, self.method)

    def _tuned(self, store: MemoryStore, key: str, number: int, limit: int) -> TaskTuner:
        tuner = self._tuner(store, key, number)
        while tuner.trials < limit and not tuner.exhausted:
            tuner.round(min(ROUND, limit - tuner.trials), math.inf)
        return tuner

    def _found(self, tuners: Sequence[TaskTuner], began: float) -> Found:
        best = {t.space.task.key: t.best_config[None] for t in tuners if t.best_config is not None}
        return best, time.monotonic() - began, sum(t.trials for t in tuners)


def bench(name: str, limit: int, share: float, seed: int) -> dict[str, Any]:
    target = Target.parse("native")
    uses = extract(load(_models.model(name)), target).uses
    method = make_method("default", held_out(name))
    policy = make_method("schedule_sharing").sharing
    assert policy is not None
    with LocalPool(target) as pool:
        run = Bench(uses, target, pool, method, seed)
        warm = next(iter(run.spaces.values()))
        pool.measure(warm, np.asarray(warm.default())[None], math.inf, math.inf)  # until workers are there
        agglomerative_clusters(["a", "b"], np.eye(2))  # until scikit-learn is: a command imports it once
        arms: dict[str, Found] = {}
        steps: dict[str, Callable[[], Found]] = {
            "off": lambda: run.off(limit),
            "schedule_sharing": lambda: run.published(policy, limit),
            "default": lambda: run.scheduled(share * arms["off"][1], method.sharing, limit),
            "alone": lambda: run.scheduled(share * arms["off"][1], None, limit),
        }
        for arm, step in steps.items():
            arms[arm] = step()
            print(f"{name}: {arm}: {arms[arm][1]:.0f} s, {arms[arm][2]} trials", flush=True)
        latencies = run.race(arms)
    off = np.asarray(latencies["off"])
    figures = {
        arm: {
            "seconds": found[1],
            "trials": found[2],
            "latency_ms": 1e3 * float(np.median(latencies[arm])),
            "time_ratio": found[1] / arms["off"][1],
            "performance_ratio": float(np.median(off / np.asarray(latencies[arm]))),
            "turns": (off / np.asarray(latencies[arm])).tolist(),
        }
        for arm, found in arms.items()
    }
    return {
        "tasks": len(uses),
        "published_clusters": run.clusters,
        "limit": limit,
        "time_ratio": figures["default"]["time_ratio"],
        "performance_ratio": figures["default"]["performance_ratio"],
        "arms": figures,
        "parts_ms": run.parts,
        "sharing": next(to_json(report.sharing) for report in run.reports if report.sharing is not None),
        "machine": model_name(),
        "cores": target.cores,
        "date": time.strftime("%Y-%m-%d"),
    }


def summary(networks: dict[str, Any]) -> dict[str, Any]:
    """Over all networks: the geometric mean, the lowest and the highest ratio of each arm."""
    found: dict[str, Any] = {}
    for arm in ARMS[1:]:
        for ratio in ("time_ratio", "performance_ratio"):
            values = np.asarray([entry["arms"][arm][ratio] for entry in networks.values()])
            found.setdefault(arm, {})[ratio] = {
                "mean": float(np.exp(np.log(values).mean())),
                "low": float(values.min()),
                "high": float(values.max()),
            }
    return found


def show(networks: dict[str, Any]) -> str:
    head = ["network", "tasks", "off s", "off ms"]
    head += [f"{arm} {what}" for arm in ARMS[1:] for what in ("time", "performance")]
    rows = []
    for name, entry in networks.items():
        off = entry["arms"]["off"]
        row = [name, str(entry["tasks"]), f"{off['seconds']:.0f}", f"{off['latency_ms']:.2f}"]
        for arm in ARMS[1:]:
            turns = entry["arms"][arm]["turns"]
            row.append(f"{entry['arms'][arm]['time_ratio']:.2f}")
            row.append(f"{entry['arms'][arm]['performance_ratio']:.3f} ({min(turns):.3f} to {max(turns):.3f})")
        rows.append(row)
    if networks:
        row = ["mean (range)", "", "", ""]
        for ratios in summary(networks).values():
            row += [f"{r['mean']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in ratios.values()]
        rows.append(row)
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS, help="comma-separated")
    parser.add_argument("--limit", type=int, default=64, help="trials of a task that is tuned to the end")
    parser.add_argument(
        "--share", type=float, default=0.148, help="of the seconds of tuning without sharing; what runs is finished"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("sharing.json"))
    parser.add_argument("--plot", type=Path, help="a PNG file to write")
    arguments = parser.parse_args()
    done: dict[str, Any] = json.loads(arguments.json.read_text())["networks"] if arguments.json.exists() else {}
    for name in arguments.models.split(","):
        if name not in done:
            done[name] = bench(name, arguments.limit, arguments.share, arguments.seed)
            write_json(arguments.json, {"networks": done, "summary": summary(done)})
    print(show(done))
    if arguments.plot is not None:
        plot_sharing(done, arguments.plot)


if __name__ == "__main__":
    main()
