"""Measures what the records of earlier networks, and a cost model of this machine, gain for the next network.

    python -m bench.five_minutes --minutes 10 --cache nine
    python -m bench.earlier --cache nine --models inception_v1,resnet50 --seconds 60 --json earlier.json

Each network is tuned four times, for the same time: from nothing; from the records of all other networks in
``--cache``; from the shipped cost model, fitted without this network; and from both. All four executables are raced
against ONNX Runtime in one paired run. Networks in the JSON file are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import _models
from bench._each import each
from bench._held_out import held_out_file
from bench.five_minutes import PEER, raced
from tilewright.cli.text import table
from tilewright.measure.compare import compare, latency
from tilewright.records import open_store
from tilewright.records.store import Query
from tilewright.target import model_name

#: By arm: whether it has the records of the other networks, and whether it has a fitted cost model.
ARMS = {"nothing": (False, False), "records": (True, False), "model": (False, True), "both": (True, True)}


def others(cache: Path, name: str, file: Path) -> int:
    """Write the records of all networks in the cache but one into a new store. How many networks those are."""
    found = [path for path in sorted(cache.glob("*/records.db")) if path.parent.name != name]
    with open_store(file) as store:
        for path in found:
            with open_store(path) as earlier:
                for task in earlier.tasks():
                    store.describe(task)
                store.add(list(earlier.scan(Query())))
    return len(found)


def tuned(name: str, arm: str, seconds: float, records: Path, folder: Path) -> dict[str, Any]:
    """Tune a network into ``folder/ARM``; the report."""
    _, fitted = ARMS[arm]
    report = folder / f"{arm}.json"
    command = [sys.executable, "-m", "tilewright.cli", "tune", str(_models.model(name)), "--out", str(folder / arm)]
    command += ["--budget", f"{seconds:g}s", "--records", str(records), "--json", str(report)]
    command += ["--cost-model", str(held_out_file(name)) if fitted else "none"]
    print("+", *command[2:], flush=True)
    subprocess.run(command, check=True)
    found = json.loads(report.read_text())
    assert isinstance(found, dict)
    return found


def bench(name: str, cache: Path, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as folder:
        return arms_of(name, cache, seconds, Path(folder))


def arms_of(name: str, cache: Path, seconds: float, folder: Path) -> dict[str, Any]:
    reports = {}
    for arm, (known, _) in ARMS.items():
        records = folder / f"{arm}.db"
        networks = others(cache, name, records) if known else 0
        reports[arm] = tuned(name, arm, seconds, records, folder) | {"networks": networks}
    peers = {peer.name: peer for peer in raced({i: folder / arm for i, arm in enumerate(ARMS)})}
    last = peers[str(folder / "both")]
    arms = {}
    for arm, report in reports.items():
        peer = peers[str(folder / arm)]
        loans = report["sharing"]["borrowed"]
        arms[arm] = {
            **latency(peer),
            "ratio": compare(peer, peers[PEER]),
            "of_both": compare(peer, last),
            "networks": report["networks"],
            "trials": report["trials"],
            "curve": report["curve"],
            "borrowed": sum(loan["earlier"] for loan in loans),
            "borrowed_is_best": sum(loan["earlier"] and loan["best"] for loan in loans),
            "won": report["sharing"]["won"],
            "compared": report["sharing"]["compared"],
            "believed": any(model["believed"] for model in report["sharing"]["models"].values()),
            "final_race": report["final_race"],
        }
    return {
        "arms": arms,
        "tasks": len(reports["both"]["tasks"]),
        "seconds": seconds,
        "machine": model_name(),
        "cores": reports["both"]["cores"],
        "date": time.strftime("%Y-%m-%d"),
    }


def show(done: dict[str, Any]) -> str:
    rows = []
    for name, entry in done.items():
        for arm, found in entry["arms"].items():
            row = [name, arm, str(entry["tasks"]), str(found["trials"]), f"{found['borrowed_is_best']}"]
            # Where there was no time for every task, there is no estimate.
            row += [f"{1e3 * found['curve'][place][1]:.2f}" if found["curve"] else "-" for place in (0, -1)]
            row.append(f"{found['median_ms']:.2f}")
            for which in ("ratio", "of_both"):
                row.append("{ratio:.3f} ({ratio_low:.3f} to {ratio_high:.3f})".format(**found[which]))
            rows.append(row)
    head = ["network", "known beforehand", "tasks", "trials", "best borrowed from earlier"]
    return table([*head, "first estimate: ms", "last", "executable: ms", "of ONNX Runtime", "of both"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("five-minutes"), help="of bench.five_minutes")
    parser.add_argument("--models", default="inception_v1,resnet50", help="comma-separated light networks")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, default=Path("earlier.json"))
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    print(show(each(names, arguments.json, lambda name: bench(name, arguments.cache, arguments.seconds))))


if __name__ == "__main__":
    main()
