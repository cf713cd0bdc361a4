"""Compares measures of similarity by what tasks can lend each other, and measures what tasks share beyond a cost model.

    python -m bench.similarity --json similarity.json

The data are those to which the cost models are fitted (``bench/dataset.parquet``); no kernel is run. For each ordered
pair of comparable tasks of one network, the three best configs of the lender are carried over to the borrower. Their
latency there is estimated from the four nearest measurements.

- ``measures``: for each measure, Spearman's correlation over pairs with the speed of the borrower relative to its best.
  A measure of measurements is given one half of them, and is judged by the other half.
- ``residuals``: a model that was fitted to all other networks is subtracted from the latencies. A Gaussian process over
  the knobs learns the residuals of the lender. The figure is the correlation of its predictions with the residuals of
  the borrower, by similarity. A correlation of 0 means that tasks share nothing beyond the model.

Intervals (bootstrap) are over networks for the measures, and over pairs for the residuals.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench._agreement import RankingAgreement, Recorded
from bench.cost_models import HERE, fit
from bench.dataset import TASKS, chosen
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.cost.dataset import TaskData, read_data_set
from tilewright.cost.evaluate import bootstrap
from tilewright.cost.models import make_model
from tilewright.ops.registry import make_space
from tilewright.processor import model_name
from tilewright.share.similarity import Measure, ProgramLikeness, overlap
from tilewright.share.transfer import comparable, distance, map_configs
from tilewright.space.knob import Knob, points
from tilewright.space.space import DesignSpace
from tilewright.target import Target

#: Configs that are lent, and measured ones by which the latency of each is estimated.
LENT, NEAREST = 3, 4
#: Measurements that a task must have.
LEAST = 100
#: Edges of the bins of similarity.
BINS = (0.0, 0.3, 0.5, 0.7, 0.8, 1.0)
#: Of the process: the weight of a knob's own effect, and the variance of the noise as a share of all.
WEIGHT, NOISE = 0.5, 0.2
#: What a score is worth, and how many measurements that counts, as in ``search/bayesian``.
SLOPE, COUNT = 0.6, 4.0


@dataclass(frozen=True)
class Known:
    """A task of the data set, its space, and what a model of other networks leaves unexplained of its latencies."""

    network: str
    data: TaskData
    space: DesignSpace
    residuals: NDArray[np.float64]

    def half(self, which: int) -> Recorded:
        """Every second measurement."""
        return Recorded(self.space.knobs, self.data.configs[which::2], self.data.seconds[which::2])


def known(path: Path, target: Target) -> list[Known]:
    """The tasks of all networks, once for each network that has them."""
    data = read_data_set(path)
    found = []
    for network in data.networks:
        spaces = {task.key: make_space(task, target) for task in chosen(network, target, TASKS)}
        tasks = [t for t in data.of(network).tasks if t.ok.sum() >= LEAST and t.task in spaces]
        model = make_model("xgb_reg")
        fit(model, data.without(network))
        found += [Known(network, t, spaces[t.task], residuals(model.predict(t.nest), t.seconds)) for t in tasks]
        print(f"{network}: {len(tasks)} tasks", flush=True)
    return found


def residuals(scores: NDArray[np.float64], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(n,)``: the logarithm of latencies less what scores say of it; nan: failed."""
    z = (scores - scores.mean()) / max(float(scores.std()), 1e-12)
    ok = np.isfinite(seconds)
    values = np.where(ok, np.log(np.where(ok, seconds, 1.0)), np.nan)
    x, y = z[ok] - z[ok].mean(), values[ok] - values[ok].mean()
    slope = max(0.0, float((COUNT * SLOPE - x @ y) / (COUNT + x @ x)))
    rest = values + slope * z
    return np.asarray(rest - np.nanmean(rest))


def pairs(tasks: Sequence[Known]) -> Iterator[tuple[Known, Known]]:
    """Lender and borrower, of one network."""
    for one in tasks:
        for other in tasks:
            if one is not other and one.network == other.network and comparable(one.space.knobs, other.space.knobs):
                yield one, other


def carried(one: Known, other: Known) -> float:
    """How fast the best that is lent is for the borrower: its best latency over that; nan: nothing can be carried."""
    lender, borrower = one.half(1), other.half(1)
    ok = np.isfinite(borrower.seconds)
    best = lender.configs[np.argsort(np.where(np.isfinite(lender.seconds), lender.seconds, np.inf))[:LENT]]
    rows = map_configs(lender.knobs, best, other.space)
    if len(rows) == 0 or not ok.any():
        return math.nan
    apart = distance(borrower.knobs, rows, borrower.configs[ok])
    near = np.argsort(apart, axis=1, kind="stable")[:, :NEAREST]
    weights = np.exp(-np.take_along_axis(apart, near, axis=1))
    logs = (weights * np.log(borrower.seconds[ok])[near]).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-300)
    return float(borrower.seconds[ok].min() / np.exp(logs.min()))


def left_over(one: Known, other: Known) -> float:
    """The correlation of what is left of the borrower with what a process over knobs learnt from the lender."""
    seen, asked = np.isfinite(one.residuals), np.isfinite(other.residuals)
    told = _places(one.space.knobs, one.data.configs[seen])
    wanted = _places(other.space.knobs, other.data.configs[asked])
    if any(a.shape[1] != b.shape[1] for a, b in zip(told, wanted, strict=True)):
        return math.nan
    kernel = _kernel(told, told)
    solved = np.linalg.solve(kernel + NOISE * np.eye(len(kernel)), one.residuals[seen])
    return float(np.corrcoef(_kernel(wanted, told) @ solved, other.residuals[asked])[0, 1])


def _places(knobs: Sequence[Knob], configs: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    return [points(knob)[configs[:, column]] for column, knob in enumerate(knobs)]


def _kernel(left: list[NDArray[np.float64]], right: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The kernel of ``search/gaussian_process`` between configs of two spaces."""
    product = np.ones((len(left[0]), len(right[0])))
    for one, other in zip(left, right, strict=True):
        scaled = np.sqrt(3.0 * ((one[:, None] - other[None]) ** 2).sum(axis=2))
        product *= (1.0 + WEIGHT * (1.0 + scaled) * np.exp(-scaled)) / (1.0 + WEIGHT)
    return product


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The rank correlation of two arrays; equals share their rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def bench(path: Path, target: Target) -> dict[str, Any]:
    tasks = known(path, target)
    likeness = ProgramLikeness()
    agreement = RankingAgreement({task.data.task: task.half(0) for task in tasks}, likeness)
    measures: dict[str, Measure] = {"overlap": overlap, "likeness": likeness, "agreement": agreement}
    found = list(pairs(tasks))
    quality = np.asarray([carried(one, other) for one, other in found])
    rest = np.asarray([left_over(one, other) for one, other in found])
    values = {
        name: np.asarray([measure(one.space, other.space) for one, other in found])
        for name, measure in measures.items()
    }
    usable = np.isfinite(quality)
    networks = np.asarray([one.network for one, _ in found])
    result: dict[str, Any] = {"pairs": int(usable.sum()), "measures": {}, "residuals": []}
    for name, similarity in values.items():
        each = [
            spearman(similarity[usable & (networks == network)], quality[usable & (networks == network)])
            for network in dict.fromkeys(networks.tolist())
            if len(np.unique(similarity[usable & (networks == network)])) > 1
        ]
        mean, low, high = bootstrap([value for value in each if math.isfinite(value)])
        every = spearman(similarity[usable], quality[usable])
        result["measures"][name] = {"all_pairs": every, "mean": mean, "low": low, "high": high}
    for low_edge, high_edge in pairwise(BINS):
        inside = (values["likeness"] >= low_edge) & (values["likeness"] < high_edge) & np.isfinite(rest)
        if inside.any():
            mean, low, high = bootstrap(rest[inside].tolist())
            row = {
                "from": low_edge,
                "to": high_edge,
                "pairs": int(inside.sum()),
                "mean": mean,
                "low": low,
                "high": high,
            }
            result["residuals"].append(row | {"carried": float(np.nanmedian(quality[inside]))})
    return result | {"machine": model_name(), "date": time.strftime("%Y-%m-%d")}


def show(result: dict[str, Any]) -> str:
    def with_interval(entry: dict[str, float]) -> str:
        return f"{entry['mean']:.2f} ({entry['low']:.2f} to {entry['high']:.2f})"

    measures = [[name, f"{m['all_pairs']:.2f}", with_interval(m)] for name, m in result["measures"].items()]
    rest = [
        [f"{r['from']:g} to {r['to']:g}", str(r["pairs"]), f"{r['carried']:.2f}", with_interval(r)]
        for r in result["residuals"]
    ]
    first = table(["measure", "all pairs", "mean of networks"], measures)
    second = table(["likeness", "pairs", "speed carried over", "correlation of what is left"], rest)
    return f"{result['pairs']} pairs\n{first}\n\n{second}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "dataset.parquet")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with threadpool_limits(1):
        result = bench(arguments.data, Target.parse("native"))
    print(show(result))
    write_json(arguments.json, result)


if __name__ == "__main__":
    main()
