"""Measures the gain by timing a task's best schedules in their places within the network.

    python -m bench.in_place --cache five-minutes --models squeezenet,resnet50 --json in_place.json

The networks are those that `bench.five_minutes` has tuned into ``--cache``. Three executables of each are built from
the same records: with the defaults, with the best schedule of each task alone, and with the best of a few in their
places (in the contest's share of a budget of five minutes). They are raced in one paired run, by turns in processes of
their own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from bench._each import each
from bench.five_minutes import UNJUDGED, compiled_defaults, known_then, target_of, with_algorithms
from tilewright.cli.text import table
from tilewright.compare import peers
from tilewright.compiling.build import build, replace_kernels
from tilewright.compiling.kernels import Kernels
from tilewright.jsonable import to_json
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, race
from tilewright.processor import model_name
from tilewright.records import open_store
from tilewright.tuning.budget import Budget
from tilewright.tuning.budget_plan import in_place_seconds
from tilewright.tuning.in_place import contest
from tilewright.tuning.selection import select_best
from tilewright.tuning.workshop import JudgedExecutable

#: The budget in seconds of which the contest has its share.
BUDGET = 300.0
BLOCKS = 40


def bench(name: str, cache: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as folder:
        return compared(name, cache, Path(folder))


def compared(name: str, cache: Path, folder: Path) -> dict[str, Any]:
    report = json.loads((cache / name / "tune.json").read_text())
    target = target_of(report)
    extraction = with_algorithms(name, target, report)
    kernels = Kernels(extraction, folder / "kernels")
    defaults, library = compiled_defaults(extraction, kernels, folder)
    with open_store(report["records"]) as store:
        tuner = known_then(extraction, store)
    alone = select_best(extraction, tuner)
    build(extraction, alone.functions, folder / "alone", {}, kernels)
    replace_kernels(folder / "alone", library, folder / "defaults")
    out, share = folder / "alone", in_place_seconds(Budget(BUDGET))
    best = contest(kernels, tuner, JudgedExecutable(out, extraction, alone, UNJUDGED), defaults, share)
    assert best is not None
    replace_kernels(out, kernels.library(best.selection.functions, folder / "best.so"), folder / "in_place")
    entrants = [Entrant(n, peers.executable, (str(folder / n),)) for n in ("in_place", "alone", "defaults")]
    first, second, third = race(entrants, BLOCKS, 0.1, target.cores)
    return {
        "in_place": latency(first),
        "alone": {**latency(second), "in_place_of": compare(first, second)},
        "defaults": {**latency(third), "in_place_of": compare(first, third)},
        "contest": to_json(best.report),
        "machine": model_name(),
        "cores": target.cores,
        "date": time.strftime("%Y-%m-%d"),
    }


def show(done: dict[str, Any]) -> str:
    rows = []
    for name, entry in done.items():
        contest = entry["contest"]
        row = [name, f"{len(contest['exchanged'])} of {contest['tasks']}", f"{contest['seconds']:.1f}"]
        row += [f"{entry[which]['median_ms']:.2f}" for which in ("defaults", "alone", "in_place")]
        for which in ("defaults", "alone"):
            row.append("{ratio:.3f} ({ratio_low:.3f} to {ratio_high:.3f})".format(**entry[which]["in_place_of"]))
        rows.append(row)
    head = ["network", "exchanged", "seconds", "defaults: ms", "best alone: ms", "best in place: ms"]
    return table([*head, "in place, of defaults", "in place, of alone"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("five-minutes"), help="of bench.five_minutes")
    parser.add_argument("--models", default="squeezenet,resnet50")
    parser.add_argument("--json", type=Path, default=Path("in_place.json"))
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    print(show(each(names, arguments.json, lambda name: bench(name, arguments.cache))))


if __name__ == "__main__":
    main()
