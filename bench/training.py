"""Races steps of training with Tilewright against PyTorch and its compiler, from the first step and after tuning.

    python -m bench.training --models resnet18,mobilenetv3_large_100,vit_tiny_patch16_224 --minutes 5 --json t.json

Each network is trained on one batch of 16 with SGD and momentum.

- *From the first step.* Each arm trains alone, in a process of its own: Tilewright for ``--minutes``, tuning in the
  background from empty records; the others until their steps are regular. ``overtakes_seconds`` is the time after which
  Tilewright has taken more steps than the other arm, both counted from their first step. An arm that trained for less
  long goes on at its median step.
- *After tuning.* All arms race by turns, each in a process of its own; Tilewright has what its records hold.
  ``step_ratio`` is the ratio of medians, with the interval of a bootstrap over turns. The better one of both layouts
  (channels first and last) counts for each arm of PyTorch.
- *Gradients.* ``gradient_error`` is the largest difference to PyTorch in float64, relative to the largest gradient of
  the same parameter. Gradients that are 0 but for rounding are left out.

Images have their channels last in Tilewright's arm, too.

``--gradients-only`` prints these errors alone, beside those of PyTorch in float32, and does not tune: the worst
parameter, and in brackets the median one. ``--steps N`` compares the weights after so many steps, too.

Networks in the JSON file are not run again. ``--plot FILE`` draws the seconds of a step over time. ``--models`` takes
names of timm, and ``encoder``, ``unet`` and ``lstm``.
"""

from __future__ import annotations

import argparse
import bisect
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench._curves import plot_steps
from bench._each import each
from bench._gradient_errors import measure_errors, show_errors
from bench._training_models import BATCH
from bench._training_steps import Steps
from tilewright.cli.text import table
from tilewright.measure.compare import compare, latency
from tilewright.measure.peer_process import PeerProcess
from tilewright.measure.peers import Entrant, race
from tilewright.target import Target, model_name

MODELS = "resnet18,resnet50,mobilenetv3_large_100,vit_tiny_patch16_224,encoder"
#: The arms of PyTorch, each in the layouts that are tried.
OTHERS = {"eager": ("eager", "eager-last"), "inductor": ("inductor", "inductor-last")}
#: Seconds that an arm of PyTorch trains alone, its compiling besides; turns of the race, and about how long one lasts.
_ALONE_SECONDS, _COMPILE_SECONDS, _TURNS, _TURN_SECONDS = 45.0, 75.0, 12, 2.0
#: The first steps, in which PyTorch traces the network. They are no slow steps of Tilewright's.
_TRACING = 2


def train_alone(name: str, arm: str, seconds: float, threads: int, options: Mapping[str, Any]) -> list[float]:
    """The ends of the steps of an arm, in seconds from its start."""
    process = PeerProcess(threads)
    try:
        process.start(Steps, (name, arm, threads, dict(options)))
        return list(process.call("run", seconds))
    finally:
        process.kill()


def find_overtaking(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The seconds after which more steps were taken than the other arm took, for good; None if that did not come.

    Args:
        ours: the ends of the steps.
        theirs: those of the other arm. What it would have done after its last one is its median step.
    """
    regular = float(np.median(np.diff(theirs[len(theirs) // 2 :])))
    overtaken: float | None = None
    for count, end in enumerate(ours, 1):
        other = bisect.bisect_right(theirs, end)
        if other == len(theirs):
            other += int((end - theirs[-1]) / regular)
        overtaken = (end if overtaken is None else overtaken) if count > other else None
    return overtaken


def bench(name: str, minutes: float) -> dict[str, Any]:
    """Train a network with all arms."""
    threads = Target.parse("native").cores
    arms = [arm for layouts in OTHERS.values() for arm in layouts]
    own = "tilewright-last"
    if not _has_images(name):
        arms, own = [arm for arm in arms if not arm.endswith("-last")], "tilewright"
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        options = {"records": str(Path(folder, "records.db")), "threads": threads}
        tuning = {**options, "mode": "background", "budget": f"{minutes:g}m"}
        alone = {"tilewright": train_alone(name, own, 60.0 * minutes, threads, tuning)}
        for arm in arms:
            seconds = _ALONE_SECONDS + (_COMPILE_SECONDS if arm.startswith("inductor") else 0.0)
            alone[arm] = train_alone(name, arm, seconds, threads, {})
        cached = {**options, "mode": "cached"}
        entrants = [Entrant("tilewright", Steps, (name, own, threads, cached))]
        entrants += [Entrant(arm, Steps, (name, arm, threads)) for arm in arms]
        ours, *others = race(entrants, _TURNS, _TURN_SECONDS, threads)
        error = measure_errors(name, threads, cached, last=own.endswith("-last"))["gradients"]["tilewright"]["worst"]
    steps = {ours.name: latency(ours), **{other.name: latency(other) for other in others}}
    best = {
        key: min((other for other in others if other.name in layouts), key=lambda other: latency(other)["median_ms"])
        for key, layouts in OTHERS.items()
    }
    spans = np.diff([0.0, *alone["tilewright"]])
    return {
        "minutes": minutes,
        "step_ratio": {key: {"arm": other.name, **compare(ours, other)} for key, other in best.items()},
        "overtakes_seconds": {
            key: find_overtaking(alone["tilewright"], alone[other.name]) for key, other in best.items()
        },
        "slowest_step": float(spans[_TRACING:].max() / np.median(spans[_TRACING:])),
        "gradient_error": error,
        "step_ms": steps,
        "ends": {arm: [round(end, 3) for end in ends] for arm, ends in alone.items()},
        "machine": model_name(),
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
    }


def _has_images(name: str) -> bool:
    from bench._training_models import OWN

    return name not in OWN or name == "unet"


def show(networks: Mapping[str, Any]) -> str:
    """A row for each network."""
    rows = []
    for name, entry in networks.items():
        row = [name, f"{entry['step_ms']['tilewright']['median_ms']:.0f}"]
        for key in OTHERS:
            ratio, seconds = entry["step_ratio"][key], entry["overtakes_seconds"][key]
            row.append(f"{ratio['ratio']:.2f} ({ratio['ratio_low']:.2f} to {ratio['ratio_high']:.2f})")
            row.append("never" if seconds is None else f"{seconds:.0f}")
        rows.append([*row, f"{entry['slowest_step']:.2f}", f"{entry['gradient_error']:.1e}"])
    header = ["network", "step, ms", "of eager", "overtakes, s", "of inductor", "overtakes, s", "slowest step", "error"]
    means = [
        np.exp(np.mean([np.log(entry["step_ratio"][key]["ratio"]) for entry in networks.values()])) for key in OTHERS
    ]
    means_text = ", ".join(f"{mean:.2f} of {key}" for key, mean in zip(OTHERS, means, strict=True))
    return f"{table(header, rows)}\ngeometric means: {means_text}"


def compare_gradients(names: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The errors of gradients and weights by network."""
    threads = Target.parse("native").cores
    options = {"mode": "now", "budget": "1s", "threads": threads}
    return each(
        names,
        arguments.json,
        lambda name: measure_errors(name, threads, options, arguments.steps, arguments.batch),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS, help="comma-separated")
    parser.add_argument("--minutes", type=float, default=5.0, help="that Tilewright trains and tunes")
    parser.add_argument("--json", type=Path, default=Path("training.json"))
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the seconds of a step over time")
    parser.add_argument("--gradients-only", action="store_true", help="print the errors of gradients, and time nothing")
    parser.add_argument("--steps", type=int, default=0, help="after which weights are compared, with --gradients-only")
    parser.add_argument("--batch", type=int, default=BATCH, help="inputs of a batch, with --gradients-only")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if arguments.gradients_only:
        print(show_errors(compare_gradients(names, arguments)))
        return
    done = each(names, arguments.json, lambda name: bench(name, arguments.minutes))
    found = {name: done[name] for name in names}
    print(show(found))
    if arguments.plot:
        plot_steps(found, arguments.plot)


if __name__ == "__main__":
    main()
