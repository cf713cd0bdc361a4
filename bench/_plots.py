"""Pictures of the results of ``bench.search``: speed of the best config over trials and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bench.search import Cell, Run

__all__ = ["plot"]

#: The sampler with which a searcher is shown; all others with ``top``.
_SHOWN = {"annealing": "epsilon-greedy"}


def plot(result: Mapping[str, Any], runs: Mapping[Cell, Run], directory: Path) -> None:
    """Write ``search-trials.png``, ``search-seconds.png`` and ``search-arms.png``."""
    from bench._arms import name_arm, parts_of
    from bench.search import PUBLISHED_ROUND, ROUND

    directory.mkdir(parents=True, exist_ok=True)
    tables = sorted({cell.table for cell in runs})
    searchers = list(dict.fromkeys(parts_of(cell.arm)[0] for cell in runs))
    methods = [name_arm(s, _SHOWN.get(s, "top")) for s in searchers]
    thinking = result["thinking_seconds"]
    trials = np.unique(np.geomspace(8, 256, 60).astype(int)).astype(float)
    seconds = np.geomspace(2, 80, 60)
    _write(
        directory / "search-trials.png",
        tables,
        methods,
        trials,
        "trials",
        lambda t, m: _over_trials(_of(runs, t, m, ROUND), trials),
    )
    _write(
        directory / "search-seconds.png",
        tables,
        methods,
        seconds,
        "simulated seconds",
        lambda t, m: _over_seconds(_of(runs, t, m, ROUND), seconds, thinking[m]),
    )
    arms = list(dict.fromkeys(c.arm for c in runs if c.round == PUBLISHED_ROUND))
    _write(
        directory / "search-arms.png",
        tables,
        arms,
        trials,
        "trials, rounds of 64",
        lambda t, m: _over_trials(_of(runs, t, m, PUBLISHED_ROUND), trials),
    )


def _of(runs: Mapping[Cell, Run], table: str, arm: str, size: int) -> list[Run]:
    """The runs of one arm on one table, up to the same number of trials."""
    from bench.search import LIMIT, PUBLISHED_LIMIT, ROUND, upto

    return [
        upto(found, LIMIT if size == ROUND else PUBLISHED_LIMIT)
        for cell, found in runs.items()
        if cell.table == table and cell.arm == arm and cell.round == size
    ]


def _over_trials(runs: Sequence[Run], trials: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(runs, trials)``: speed relative to the optimum."""
    from bench.search import speed_after

    return np.asarray([[speed_after(found, t) for t in trials.tolist()] for found in runs])


def _over_seconds(runs: Sequence[Run], seconds: NDArray[np.float64], thinking: float) -> NDArray[np.float64]:
    """The same over time."""
    from bench.search import speed_by

    return np.asarray([[speed_by(found, s, thinking) for s in seconds.tolist()] for found in runs])


def _write(path: Path, tables: Sequence[str], methods: Sequence[str], x: Any, label: str, of: Any) -> None:
    import matplotlib as mpl

    mpl.use("Agg")

    from matplotlib import pyplot as plt

    columns = 4
    lines = -(-(len(tables) + 1) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.2 * columns, 2.5 * lines), sharex=True, sharey=True)
    flat = np.ravel(axes)
    colours = plt.get_cmap("tab10").colors
    every: dict[str, list[Any]] = {}
    for axis, name in zip(flat, tables, strict=False):
        for colour, method in zip(colours, methods, strict=False):
            curves = of(name, method)
            every.setdefault(method, []).append(curves.mean(axis=0))
            axis.plot(x, curves.mean(axis=0), color=colour, linewidth=1.2)
            # 95 % of the mean's normal approximation: enough for a picture.
            error = 1.96 * curves.std(axis=0) / np.sqrt(len(curves))
            axis.fill_between(x, curves.mean(axis=0) - error, curves.mean(axis=0) + error, color=colour, alpha=0.2)
        axis.set_title(name, fontsize=8)
    overall = flat[len(tables)]
    for colour, (method, curves) in zip(colours, every.items(), strict=False):
        overall.plot(x, np.mean(curves, axis=0), color=colour, linewidth=1.6, label=method)
    overall.set_title("mean of all", fontsize=8)
    overall.legend(fontsize=6, loc="lower right")
    for axis in flat[len(tables) + 1 :]:
        axis.axis("off")
    for axis in flat:
        axis.set_xscale("log")
        axis.set_ylim(0.6, 1.01)
        axis.set_xticks([n for n in (2, 5, 10, 20, 50, 100, 200) if x[0] <= n <= x[-1]])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("speed of the best, of the optimum's", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
