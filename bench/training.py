"""Races steps of training with Tilewright against PyTorch and its compiler, from the first step and after tuning.

    python -m bench.training --models resnet18,mobilenetv3_large_100,vit_tiny_patch16_224 --minutes 5 --json t.json

Each network is trained on one batch of 16 with SGD and momentum.

- *From the first step.* Each arm trains alone, in a process of its own: Tilewright for ``--minutes``, tuning in the
  background from empty records; the others until their steps are regular. ``overtakes_seconds`` is the time after which
  Tilewright has taken more steps than the other arm, both counted from their first step. An arm that trained for less
  long goes on at its median step. ``slowest_step`` is the longest step as a multiple of the median of all steps;
  ``slowest_step_around`` as one of the median of the 16 steps around it, since steps become shorter while kernels are
  tuned. ``first_minute_lost`` is by how much the steps of the first minute took longer than as many of eager PyTorch,
  as a share. Steps in which PyTorch traces the network are left out of these three. ``full_speed_seconds`` is the time
  from the first step until steps are as fast as the last ones of that training, in another one that begins with its
  records. ``peak_memory`` is the most memory that the training process had, as a multiple of what eager PyTorch had,
  and ``peak_memory_again`` that of the training that begins with records. ``peak_bytes`` has it by arm.
- *After tuning.* All arms race by turns, each in a process of its own; Tilewright has what its records hold.
  ``step_ratio`` is the ratio of medians, with the interval of a bootstrap over turns. The better one of both layouts
  (channels first and last) counts for each arm of PyTorch.
- *Passes alone.* In the same race the forward pass, which saves activations and ends with the loss, and the backward
  pass are timed by themselves: ``forward_ratio`` and ``backward_ratio``, to the layout that is better for whole steps.
- *Kernels.* Tilewright trains once more, and each of its kernels is timed in its place in real steps. ``kernels`` has
  what each is for, its median, its operations and bytes, and the time that these take at the speed of a matrix product,
  of caches and of memory (``bound_us``). ``convolutions`` has the three kernels of each convolution, with all
  that belongs to them, as a share of the peak: that of a matrix product. Operations are those of computing directly, so
  Winograd's algorithm may exceed the peak. In this run parts keep our kernels even if PyTorch's are faster.
- *Gradients.* ``gradient_error`` is the largest difference to PyTorch in float64, relative to the largest gradient of
  the same parameter. Gradients that are 0 but for rounding are left out: ``gradients_left_out`` of them.
  ``gradient_errors`` has those of PyTorch in float32, too.

Images have their channels last in Tilewright's arm, too.

``--records FOLDER`` keeps the records and kernels of each network. With them ``--minutes 0`` races and times kernels
without training and tuning before, and ``--kernels-only`` times kernels alone.

``--gradients-only`` prints the errors of gradients alone, beside those of PyTorch in float32, and does not tune: the
worst parameter, and in brackets the median one. ``--steps N`` compares the weights after so many steps, too.

Networks in the JSON file are not run again. ``--plot FILE`` draws the seconds of a step over time. ``--models`` takes
names of timm, and ``encoder``, ``unet`` and ``lstm``. ``NAME:smooth`` has smooth functions in place of ReLU, hard swish
and maximum pooling: the gradients of those jump, and rounding decides on which side a number is.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench._alone import Alone, describe_memory, describe_steps, find_full_speed, find_overtaking, train_alone
from bench._curves import plot_steps
from bench._each import each
from bench._gradient_errors import measure_errors, show_errors
from bench._training_kernels import measure_kernels, show_kernels
from bench._training_models import BATCH, OWN
from bench._training_steps import Steps
from tilewright.cli.text import table
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, Peer, race
from tilewright.processor import model_name
from tilewright.target import Target

MODELS = "resnet18,resnet50,mobilenetv3_large_100,vit_tiny_patch16_224,encoder"
#: The arms of PyTorch, each in the layouts that are tried.
OTHERS = {"eager": ("eager", "eager-last"), "inductor": ("inductor", "inductor-last")}
#: Seconds that an arm of PyTorch trains alone, its compiling besides; turns of the race, and about how long one lasts.
_ALONE_SECONDS, _COMPILE_SECONDS, _TURNS, _TURN_SECONDS = 45.0, 75.0, 12, 2.0
#: Seconds that Tilewright trains once more with its records: its first step takes some of them.
_AGAIN_SECONDS = 30.0
#: The passes that are timed by themselves.
_PASSES = ("forward", "backward")


@dataclass(frozen=True)
class Plan:
    """How a network is benched.

    Attributes:
        name: of the network.
        minutes: that Tilewright trains and tunes; 0: it has the kernels of an earlier run.
        folder: of its records.
        share: of the time that Tilewright may take to prepare and tune kernels; None: its default.
    """

    name: str
    minutes: float
    folder: Path
    share: float | None = None

    @property
    def arms(self) -> list[str]:
        """The arms of PyTorch."""
        arms = [arm for layouts in OTHERS.values() for arm in layouts]
        return arms if self.has_images else [arm for arm in arms if not arm.endswith("-last")]

    @property
    def own(self) -> str:
        """The arm of Tilewright."""
        return "tilewright-last" if self.has_images else "tilewright"

    @property
    def has_images(self) -> bool:
        """Whether its inputs are images."""
        return self.name not in OWN or self.name == "unet"

    @property
    def threads(self) -> int:
        """On which each arm runs."""
        return Target.parse("native").cores

    @property
    def records(self) -> Path:
        """The file of its records."""
        return self.folder / f"{self.name}.db"

    def make_options(self, **others: str | float) -> dict[str, Any]:
        """Options of Tilewright."""
        return {"records": str(self.records), "threads": self.threads, **others}


def bench(plan: Plan) -> dict[str, Any]:
    """Train a network with all arms, and time the kernels of ours."""
    threads, cached = plan.threads, plan.make_options(mode="cached")
    alone = _train_each_alone(plan) if plan.minutes else {}
    entrants = [Entrant("tilewright", Steps, (plan.name, plan.own, threads, cached))]
    entrants += [Entrant(arm, Steps, (plan.name, arm, threads)) for arm in plan.arms]
    ours, *others = race(entrants, _TURNS, _TURN_SECONDS, threads)
    best = {
        key: min((other for other in others if other.name in layouts), key=lambda other: latency(other)["median_ms"])
        for key, layouts in OTHERS.items()
    }
    errors = measure_errors(plan.name, threads, cached, last=plan.has_images)
    found: dict[str, Any] = {"minutes": plan.minutes}
    for key in ("step", *_PASSES):
        mine, *theirs = (take_pass(peer, key) for peer in (ours, *others))
        of_name = {peer.name: peer for peer in theirs}
        found[f"{key}_ms"] = {peer.name: latency(peer) for peer in (mine, *theirs)}
        found[f"{key}_ratio"] = {
            which: {"arm": other.name, **compare(mine, of_name[other.name])} for which, other in best.items()
        }
    if alone:
        own, again, eager = (alone[arm] for arm in ("tilewright", "again", best["eager"].name))
        found["overtakes_seconds"] = {
            key: find_overtaking(own.ends, alone[other.name].ends) for key, other in best.items()
        }
        found |= describe_steps(own.ends, eager.ends)
        found["full_speed_seconds"] = find_full_speed(again.ends, own.ends)
        found |= describe_memory(alone, best["eager"].name)
    return {
        **found,
        "gradient_error": errors["gradients"]["tilewright"]["worst"],
        "gradient_errors": errors["gradients"],
        "gradients_left_out": errors["cancel"],
        **measure_kernels(plan.name, plan.own, threads, cached),
        "ends": {arm: [round(end, 3) for end in each.ends] for arm, each in alone.items()},
        **_describe_run(threads),
    }


def _train_each_alone(plan: Plan) -> dict[str, Alone]:
    """Train a network with each arm alone, by its name; ``again`` is Tilewright with its records."""
    if plan.records.exists():
        raise SystemExit(f"tuning starts from empty records, but {plan.records} exists; name another --records")
    share = {} if plan.share is None else {"share": plan.share}
    tuning = plan.make_options(mode="background", budget=f"{plan.minutes:g}m", **share)
    alone = {"tilewright": train_alone(plan.name, plan.own, 60.0 * plan.minutes, plan.threads, tuning)}
    alone["again"] = train_alone(plan.name, plan.own, _AGAIN_SECONDS, plan.threads, plan.make_options(mode="cached"))
    for arm in plan.arms:
        seconds = _ALONE_SECONDS + (_COMPILE_SECONDS if arm.startswith("inductor") else 0.0)
        alone[arm] = train_alone(plan.name, arm, seconds, plan.threads, {})
    return alone


def bench_kernels(plan: Plan) -> dict[str, Any]:
    """Time our kernels of a network, and nothing else."""
    found = measure_kernels(plan.name, plan.own, plan.threads, plan.make_options(mode="cached"))
    return {**found, **_describe_run(plan.threads)}


def take_pass(peer: Peer, key: str) -> Peer:
    """The seconds of ``forward`` or ``backward`` alone, out of those of whole steps; of ``step`` as they are."""
    if key == "step":
        return peer
    return Peer(peer.name, {n: [getattr(step, key) for step in steps] for n, steps in peer.blocks.items()})


def _describe_run(threads: int) -> dict[str, Any]:
    return {"machine": model_name(), "threads": threads, "date": time.strftime("%Y-%m-%d")}


def show(networks: Mapping[str, Any]) -> str:
    """A row for each network: whole steps; and another one: passes."""
    rows, passes = [], []
    for name, entry in networks.items():
        row = [name, f"{entry['step_ms']['tilewright']['median_ms']:.0f}"]
        for key in OTHERS:
            row.append(_show_ratio(entry["step_ratio"][key]))
            seconds = entry.get("overtakes_seconds", {}).get(key, math.nan)
            row.append("never" if seconds is None else "-" if math.isnan(seconds) else f"{seconds:.0f}")
        row += [f"{entry[key]:.2f}" if key in entry else "-" for key in ("slowest_step", "slowest_step_around")]
        row.append(f"{100 * entry['first_minute_lost']:.0f} %" if "first_minute_lost" in entry else "-")
        full = entry.get("full_speed_seconds", math.nan)
        row.append("never" if full is None else "-" if math.isnan(full) else f"{full:.0f}")
        row += [f"{entry[key]:.2f}" if key in entry else "-" for key in ("peak_memory", "peak_memory_again")]
        rows.append([*row, f"{entry['gradient_error']:.1e}"])
        row = [name]
        for key in _PASSES:
            row.append(f"{entry[f'{key}_ms']['tilewright']['median_ms']:.0f}")
            row += [_show_ratio(entry[f"{key}_ratio"][other]) for other in OTHERS]
        passes.append(row)
    header = ["network", "step, ms", "of eager", "overtakes, s", "of inductor", "overtakes, s"]
    header += ["slowest step", "of those around", "first minute lost", "full speed again, s"]
    header += ["peak memory", "again", "error"]
    means = [
        np.exp(np.mean([np.log(entry["step_ratio"][key]["ratio"]) for entry in networks.values()])) for key in OTHERS
    ]
    means_text = ", ".join(f"{mean:.2f} of {key}" for key, mean in zip(OTHERS, means, strict=True))
    head = ["network", *(text for key in _PASSES for text in (f"{key}, ms", *(f"of {other}" for other in OTHERS)))]
    return f"{table(header, rows)}\ngeometric means: {means_text}\n\n{table(head, passes)}"


def _show_ratio(ratio: Mapping[str, float]) -> str:
    return f"{ratio['ratio']:.2f} ({ratio['ratio_low']:.2f} to {ratio['ratio_high']:.2f})"


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
    parser.add_argument("--minutes", type=float, default=5.0, help="that Tilewright trains and tunes; 0: not at all")
    parser.add_argument("--json", type=Path, default=Path("training.json"))
    parser.add_argument("--records", type=Path, metavar="FOLDER", help="keeps what was tuned, for later runs")
    parser.add_argument("--share", type=float, help="of the time that preparing and tuning may take, such as 0.05")
    parser.add_argument("--kernels-only", action="store_true", help="time our kernels, and race nobody")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the seconds of a step over time")
    parser.add_argument("--gradients-only", action="store_true", help="print the errors of gradients, and time nothing")
    parser.add_argument("--steps", type=int, default=0, help="after which weights are compared, with --gradients-only")
    parser.add_argument("--batch", type=int, default=BATCH, help="inputs of a batch, with --gradients-only")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if arguments.gradients_only:
        print(show_errors(compare_gradients(names, arguments)))
        return
    if (not arguments.minutes or arguments.kernels_only) and arguments.records is None:
        parser.error("--minutes 0 and --kernels-only time the kernels of an earlier run, so they need its --records")
    with tempfile.TemporaryDirectory(prefix="tilewright-") as temporary:
        folder = Path(temporary) if arguments.records is None else arguments.records
        folder.mkdir(parents=True, exist_ok=True)
        plans = {name: Plan(name, arguments.minutes, folder, arguments.share) for name in names}
        once = bench_kernels if arguments.kernels_only else bench
        done = each(names, arguments.json, lambda name: once(plans[name]))
    found = {name: done[name] for name in names}
    if not arguments.kernels_only:
        print(show(found), end="\n\n")
    print(show_kernels(found))
    trained = {name: entry for name, entry in found.items() if entry.get("ends")}
    if arguments.plot and trained:
        plot_steps(trained, arguments.plot)


if __name__ == "__main__":
    main()
