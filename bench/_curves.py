"""Pictures of tuning over time, of the gain by sharing, and of steps of training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plot_ratios", "plot_sharing", "plot_steps"]

_ARMS = {"schedule_sharing": "published", "default": "Tilewright's", "alone": "no sharing"}


def plot_ratios(done: Mapping[str, Any], path: Path) -> None:
    """The ratio to ONNX Runtime of each network of ``bench.five_minutes`` over the seconds of its tuning."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    colours = plt.get_cmap("tab10")
    for number, (name, entry) in enumerate(done.items()):
        marks = {float(mark): found["ratio"] for mark, found in entry["marks"].items() if "ratio" in found}
        ratios = [marks[mark]["ratio"] for mark in marks]
        off = [
            [ratio - marks[mark]["ratio_low"] for mark, ratio in zip(marks, ratios, strict=True)],
            [marks[mark]["ratio_high"] - ratio for mark, ratio in zip(marks, ratios, strict=True)],
        ]
        colour = colours(number % 10)
        axes.errorbar(list(marks), ratios, yerr=off, marker="o", markersize=4, capsize=2, color=colour, label=name)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    ticks = sorted({float(mark) for entry in done.values() for mark in entry["marks"]})
    axes.set_xticks(ticks, [f"{tick:g} s" if tick < 60 else f"{tick / 60:g} min" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="budget of the whole command", ylabel="latency / ONNX Runtime's (below 1: faster)")
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize="small", ncols=2)
    _write(figure, path)


def plot_sharing(networks: Mapping[str, Any], path: Path) -> None:
    """Time and performance of each arm of ``bench.sharing``, relative to tuning every task."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for (arm, label), marker in zip(_ARMS.items(), "sox", strict=True):
        found = [entry["arms"][arm] for entry in networks.values()]
        times = [100.0 * entry["time_ratio"] for entry in found]
        axes.scatter(times, [100.0 * entry["performance_ratio"] for entry in found], marker=marker, label=label)
    for name, entry in networks.items():
        own = entry["arms"]["default"]
        place = (100.0 * own["time_ratio"], 100.0 * own["performance_ratio"])
        axes.annotate(name, place, xytext=(6, 0), textcoords="offset points", fontsize="x-small", va="center")
    axes.axhline(100.0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="time, % of tuning every task", ylabel="performance, %", xlim=(0, None))
    axes.legend(fontsize="small")
    _write(figure, path)


def plot_steps(networks: Mapping[str, Any], path: Path) -> None:
    """The milliseconds of the steps of each network of ``bench.training`` over time, a panel for each network."""
    plt = _pyplot()
    figure, panels = plt.subplots(1, len(networks), figsize=(5 * len(networks), 4), layout="constrained", squeeze=False)
    for axes, (name, entry) in zip(panels[0], networks.items(), strict=True):
        for arm, ends in entry["ends"].items():
            steps = [1e3 * (end - begin) for begin, end in itertools.pairwise(ends)]
            axes.plot(ends[1:], steps, linewidth=1.0, label=arm)
        axes.set(title=name, xlabel="seconds since the first step began", ylabel="milliseconds of a step")
        axes.set_yscale("log")
        axes.legend(fontsize="small")
    _write(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _write(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
