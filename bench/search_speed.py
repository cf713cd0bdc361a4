"""Measures how long searchers take to propose 64 configs, on one core, with XGBoost where a searcher needs scores.

    taskset -c 0 python -m bench.search_speed --json speed.json

There are two spaces, of each of which 128 configs were told: the whole space of a 3x3 convolution as Tilewright tunes
it, whose programs have a closed form of 272 features; and AutoTVM's space of a convolution, 10^8 configs that are
scored on their knobs. Each figure is the median of several asks, with the least and the most. It covers refitting the
cost model, searching, and picking a batch. The time of refitting alone is shown as *fit*.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench._arms import make_arm
from bench._recorded import TASKS
from tilewright.cli.text import table
from tilewright.cost.model import CostModel, Programs
from tilewright.errors import SpaceError
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.methods.autotvm import quick
from tilewright.methods.method import Method
from tilewright.methods.parts import SEARCHERS
from tilewright.ops.registry import make_space
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample, size
from tilewright.space.knob import ChoiceKnob, SplitKnob
from tilewright.space.loop_nest import LoopNest
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.tuner import TaskTuner

if TYPE_CHECKING:
    from tvm.s_tir import Schedule

__all__ = ["thinking_seconds", "whole_space"]

TOLD, ASKED, ASKS = 128, 64, 5


class _Pretend:
    """A runner that takes no time: latencies are made up from the config."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        weights = np.linspace(0.3, 1.7, len(space.knobs))
        costs = 1e-3 * (1.0 + np.abs(configs - 2.0) @ weights)
        return [
            Measurement(space.task.key, self._target.key, space.template, tuple(row), Outcome.OK, (float(cost),))
            for row, cost in zip(configs.tolist(), costs, strict=True)
        ]


class _AutoTVMConvolution:
    """The knobs that AutoTVM has for a convolution of 512 to 512 channels on 28 x 28 pixels, on a GPU."""

    task = Task(key="convolution", name="convolution", kind="auto", flop=3.7e9, ir="")
    template = "autotvm/1"
    has_loop_nest = False
    knobs = (
        SplitKnob.exact("tile_f", 512, 4),
        SplitKnob.exact("tile_y", 28, 4),
        SplitKnob.exact("tile_x", 28, 4),
        SplitKnob.exact("tile_rc", 512, 2),
        SplitKnob.exact("tile_ry", 3, 2),
        SplitKnob.exact("tile_rx", 3, 2),
        ChoiceKnob.of("auto_unroll_max_step", [0, 512, 1500]),
        ChoiceKnob.of("unroll_explicit", [0, 1]),
    )

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        return np.ones(len(configs), dtype=np.bool_)

    def loop_nest(self, configs: Configs) -> LoopNest:
        raise SpaceError("knobs only")

    def default(self) -> NDArray[np.int32]:
        return np.zeros(len(self.knobs), dtype=np.int32)

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        raise SpaceError("knobs only")


def whole_space(target: Target) -> DesignSpace:
    """The whole space of a 3x3 convolution."""
    return make_space(task_of("conv3x3-128-28", TASKS["conv3x3-128-28"]()), target)


def thinking(space: DesignSpace, target: Target, method: Method, told: int, asked: int, asks: int) -> list[float]:
    """Seconds of each round's refitting, searching and picking."""
    store, runner = MemoryStore(), _Pretend(target)
    store.add(runner.measure(space, sample(space, np.random.default_rng(0), told), math.inf, math.inf))
    tuner = TaskTuner(space, target, runner, store, np.random.default_rng(1), method)
    return [tuner.round(asked, math.inf).thinking for _ in range(asks)]


def _timed(method: Method, spent: list[float]) -> Method:
    """The method, with the seconds of each fit of its cost model added to ``spent``."""
    make = method.model
    if make is None:
        return method

    def model(space: DesignSpace, seed: int) -> CostModel:
        made = make(space, seed)
        fit = made.fit

        def timed(programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
            began = time.perf_counter()
            fit(programs, seconds)
            spent.append(time.perf_counter() - began)

        made.fit = timed  # type: ignore[method-assign]
        return made

    return replace(method, model=model)


def thinking_seconds(arms: Sequence[str], asked: int) -> dict[str, float]:
    """The median seconds of four rounds on the whole space of a convolution after 64 configs, by arm."""
    target = Target.parse("native")
    space = whole_space(target)
    return {arm: round(median(thinking(space, target, make_arm(arm), 64, asked, 4)), 4) for arm in arms}


def _figure(seconds: Sequence[float], fits: Sequence[float]) -> str:
    fit = f", fit {median(fits):.3f}" if fits else ""
    return f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f}){fit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    target = Target.parse("native")
    spaces: dict[str, DesignSpace] = {"convolution": whole_space(target), "AutoTVM's": _AutoTVMConvolution()}
    methods = {name: make_arm(f"{name}+top") for name in SEARCHERS} | {"quick": quick()}
    result: dict[str, Any] = {
        "command": "python -m bench.search_speed",
        "machine": target.machine,
        "date": time.strftime("%Y-%m-%d"),
        "sizes": {name: size(space) for name, space in spaces.items()},
        "seconds": {name: {} for name in methods},
        "fit": {name: {} for name in methods},
    }
    for name, method in methods.items():
        for where, space in spaces.items():
            spent: list[float] = []
            result["seconds"][name][where] = thinking(space, target, _timed(method, spent), TOLD, ASKED, ASKS)
            result["fit"][name][where] = spent
    shown = [
        [name, *(_figure(figures[where], result["fit"][name][where]) for where in spaces)]
        for name, figures in result["seconds"].items()
    ]
    print(table(["searcher", *(f"{name}, {result['sizes'][name]:.2g} configs" for name in spaces)], shown))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
