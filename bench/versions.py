"""Whether another version of Tilewright tunes as well: the executables of both, from the same records, race by turns.

    git worktree add ../before v1
    python -m bench.versions --before ../before --models squeezenet,resnet50,shufflenet,transformer --json versions.json

Each network is tuned once to fill the records. Then both versions tune it with a copy of these records, the same seed
and the same budget. Both executables and a second one of this version race in one paired run: the second one says by
how much two runs of one version differ. Networks in the JSON file are not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import _models
from bench._each import each
from bench._models import export
from tilewright.cli.text import table
from tilewright.compare import peers
from tilewright.measure.compare import compare, latency
from tilewright.measure.peers import Entrant, race
from tilewright.processor import model_name
from tilewright.target import Target

ROOT = Path(__file__).parents[1]
MODELS = "squeezenet,resnet50,shufflenet,transformer"
TURNS = 20


def tune(checkout: Path, model: Path, out: Path, records: Path, seconds: float) -> None:
    """Tune a model with the version of a checkout, in this environment."""
    command = [sys.executable, "-m", "tilewright.cli", "tune", str(model), "--out", str(out), "--seed", "0"]
    command += ["--budget", f"{seconds:g}s", "--records", str(records)]
    subprocess.run(command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, check=True)


def bench(name: str, before: Path, seconds: float) -> dict[str, Any]:
    """Tune one network with both versions, and race the executables."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as place:
        folder = Path(place)
        model = Path(_models.model(name)) if name not in _models.MADE else folder / f"{name}.pt2"
        if name in _models.MADE:
            export(_models.MADE[name], model)
        tune(ROOT, model, folder / "first", folder / "records.db", seconds)
        outs = {"after": ROOT, "before": before, "after again": ROOT}
        for number, (label, checkout) in enumerate(outs.items()):
            records = folder / f"records-{number}.db"
            shutil.copy(folder / "records.db", records)
            tune(checkout, model, folder / label, records, seconds)
        entrants = [Entrant(label, peers.executable, (str(folder / label),)) for label in outs]
        target = Target.parse("native")
        after, old, again = race(entrants, TURNS, 0.3, target.cores)
    return {
        "seconds": seconds,
        "after": latency(after),
        "before": {**latency(old), **compare(after, old)},
        "after again": {**latency(again), **compare(after, again)},
        "machine": model_name(),
        "cores": target.cores,
        "date": time.strftime("%Y-%m-%d"),
    }


def show(networks: dict[str, Any]) -> str:
    """A row for each network: medians, and ratios with their 95 % intervals."""
    rows = []
    for name, entry in networks.items():
        row = [name, f"{entry['after']['median_ms']:.3f}"]
        for label in ("before", "after again"):
            found = entry[label]
            row.append(f"{found['ratio']:.3f} ({found['ratio_low']:.3f} to {found['ratio_high']:.3f})")
        rows.append(row)
    return table(["network", "this version, ms", "of the other version", "of a second run of this one"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other version")
    parser.add_argument("--models", default=MODELS, help="comma-separated")
    parser.add_argument("--seconds", type=float, default=60.0, help="the budget of each tuning")
    parser.add_argument("--json", type=Path, default=Path("versions.json"))
    arguments = parser.parse_args()
    before = arguments.before.absolute()
    done = each(arguments.models.split(","), arguments.json, lambda name: bench(name, before, arguments.seconds))
    print(show({name: done[name] for name in arguments.models.split(",")}))


if __name__ == "__main__":
    main()
