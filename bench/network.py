"""Tunes networks and compares each with its peers, in one table.

    python -m bench.network --models squeezenet,resnet50,transformer --budget 5m --json networks.json

A model is a file, the short name of a light network of the onnx package, `transformer`, a PyTorch encoder, or one of
fourteen networks of today (`--models modern`; `bench/_modern.py` lists them). All
runtimes have one thread for each usable core. Models in the JSON file are not tuned again, so that an interrupted run
goes on where it stopped. A peer that cannot run a model has a dash in the table, and the reason in the JSON file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import _models, _modern
from bench._packages import UnreachableError
from tilewright.cli.bench import raced
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.compare.peers import PEERS
from tilewright.errors import TilewrightError

LIGHT = ",".join(_models.LIGHT)  # all nine
#: What is no ONNX file: by its name, what makes it, and how PyTorch runs it.
MADE = {
    "transformer": (
        _models.transformer,
        {"pytorch": _models.transformer_eager, "pytorch-compiled": _models.transformer_compiled},
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        default="squeezenet,resnet50",
        help="comma-separated; 'light' is all light networks, 'all' the transformer too, 'modern' fourteen of today",
    )
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--against", default=",".join(PEERS), help="comma-separated")
    parser.add_argument("--blocks", type=int, default=20, help="turns of each runtime")
    parser.add_argument("--records", type=Path, help="by default empty ones, so that nothing is known beforehand")
    parser.add_argument("--json", type=Path, default=Path("networks.json"))
    arguments = parser.parse_args()
    done: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    failed = False
    names = {"light": LIGHT, "all": f"{LIGHT},{','.join(MADE)}", "modern": ",".join(_modern.MODERN)}
    for name in names.get(arguments.models, arguments.models).split(","):
        if name in done:
            continue
        try:
            against = arguments.against.split(",")
            done[name] = tune_and_bench(name, arguments.budget, against, arguments.blocks, arguments.records)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {' '.join(error.cmd[2:4])} ended with {error.returncode}", file=sys.stderr)
            failed = True
            continue
        except (TilewrightError, UnreachableError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        write_json(arguments.json, done)
    show(done)
    sys.exit(failed)


def tune_and_bench(name: str, budget: str, against: list[str], blocks: int, records: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as text:
        folder = Path(text)
        out, tuned = folder / "out", folder / "tune.json"
        store = records or folder / "records.db"
        path, peers = model(name), dict(PEERS)
        options: tuple[str, ...] = ()
        if name in _modern.MODERN:
            modern = _modern.fetch(name)
            path, peers, options = modern.path, peers | dict(modern.peers), modern.options
        elif name in MADE:
            path = folder / f"{name}.pt2"
            made, own = MADE[name]
            _models.export(made, path)
            peers |= own
        tilewright("tune", path, *options, "--out", out, "--budget", budget, "--records", store, "--json", tuned)
        print(f"+ {name} against {', '.join(against)}", flush=True)
        report = raced(out, against, blocks=blocks, peers=peers)
        return {"budget": budget, "tune": json.loads(tuned.read_text()), "bench": report}


def tilewright(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "tilewright.cli", *map(str, arguments)]
    print("+ tilewright", *map(str, arguments), flush=True)
    subprocess.run(command, check=True)


def model(name: str) -> Path:
    if Path(name).exists():
        return Path(name)
    spec = find_spec("onnx")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


def show(done: dict[str, Any]) -> None:
    peers = list(dict.fromkeys(peer for entry in done.values() for peer in entry["bench"]["peers"]))
    rows = []
    for name, entry in done.items():
        tuned, raced = entry["tune"], entry["bench"]
        row = [name, entry["budget"], f"{tuned['wall_seconds']:.0f}", str(tuned["trials"])]
        row += [f"{tuned['trials_per_second']:.1f}", f"{raced['median_ms']['tilewright']:.2f}"]
        for peer in peers:
            result = raced["peers"].get(peer, {})
            if "ratio" in result:
                row.append(f"{result['median_ms']:.2f}")
                row.append(f"{result['ratio']:.3f} ({result['ratio_low']:.3f} .. {result['ratio_high']:.3f})")
            else:
                row += ["-", "-"]
        best = _modern.best_ratio(raced["peers"])
        rows.append([*row, "-" if best is None else f"{best:.3f}"])
    head = ["network", "budget", "wall s", "trials", "trials/s", "tilewright ms"]
    for peer in peers:
        head += [f"{peer} ms", "ratio (95 % interval)"]
    print(table([*head, "to the best"], rows))
    for peer in peers:
        ratios = [entry["bench"]["peers"].get(peer, {}).get("ratio") for entry in done.values()]
        show_mean(peer, [ratio for ratio in ratios if ratio is not None])
    bests = [_modern.best_ratio(entry["bench"]["peers"]) for entry in done.values()]
    show_mean("the best", [ratio for ratio in bests if ratio is not None])
    for where in dict.fromkeys(
        (e["bench"]["machine"], e["bench"]["threads"], e["bench"]["date"][:10]) for e in done.values()
    ):
        print(f"medians; {where[0]}, {where[1]} threads, {where[2]}")


def show_mean(peer: str, ratios: list[float]) -> None:
    if ratios:
        count = f"{len(ratios)} network{'s' if len(ratios) > 1 else ''}"
        print(f"geometric mean of the ratios to {peer}: {statistics.geometric_mean(ratios):.3f} over {count}")


if __name__ == "__main__":
    main()
