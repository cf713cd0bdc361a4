"""Compares networks in float32, int8 and bf16: Tilewright, ONNX Runtime and OpenVINO, by turns, in one table.

    python -m bench.precision --models resnet50,minilm --how static,bf16 --budget 2m --json p.json

Each network is tuned in each precision, with ``--budget`` each; ``--budget 0`` takes default schedules. Then all
runtimes take turns. In float32, the others get the network as it was exported, which they know to optimise. ``rows``
of the JSON file have for each model, runtime and precision: ``median_ms``; ``ratio``, the time divided by that of
Tilewright in float32, with its interval; and ``error``, the difference of the outputs from those of Tilewright in
float32 on one random input, relative to their norm. Models in the JSON file are not run again. ``peaks`` are the
operations per second that all cores reach on registers in each precision.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._quantised import PRECISIONS, write_exported, write_models
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.compare import peers
from tilewright.frontend.load import load
from tilewright.measure.compare import compare, latency
from tilewright.measure.limits import measure_limits
from tilewright.measure.peers import Entrant, Peer, Runnable, race
from tilewright.processor import model_name
from tilewright.target import Target
from tilewright.tvm_compat import wanted_threads

__all__ = ["build_default", "make_rows"]

#: The other runtimes, and the length of their turns in seconds.
_OTHERS: dict[str, Callable[[str, str], Runnable]] = {"onnxruntime": peers.onnxruntime, "openvino": peers.openvino}
_BLOCK_SECONDS = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        default="resnet50,mobilenetv3,efficientnet_b0,minilm,vit_tiny",
        help="comma-separated names or files",
    )
    parser.add_argument("--budget", default="2m", help="of each tuning; 0: default schedules")
    parser.add_argument("--against", default="onnxruntime,openvino", help="comma-separated")
    parser.add_argument("--blocks", type=int, default=12, help="turns of each runtime")
    parser.add_argument(
        "--how", default="static,bf16", help=f"the other precisions, comma-separated: {', '.join(PRECISIONS)}"
    )
    parser.add_argument("--target", default="native", help="what Tilewright compiles for; it must run here")
    parser.add_argument("--json", type=Path, default=Path("precision.json"))
    arguments = parser.parse_args()
    ways = arguments.how.split(",")
    if not set(ways) <= set(PRECISIONS):
        parser.error(f"--how is one or more of {', '.join(PRECISIONS)}, not {arguments.how!r}")
    done: dict[str, Any] = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    rows: list[dict[str, Any]] = done.get("rows", [])
    peaks = _measure_peaks(arguments.target)
    for name in arguments.models.split(","):
        if any(row["model"] == name for row in rows):
            continue
        against = [other for other in arguments.against.split(",") if other]
        rows += _compare(name, _Tuning(arguments.budget, arguments.target), against, arguments.blocks, ways)
        date = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        done = {"rows": rows, "budget": arguments.budget, "machine": model_name(), "date": date, "peaks": peaks}
        write_json(arguments.json, done)
    head = ["model", "runtime", "precision", "median ms", "of own float32", "error"]
    shown = [
        [r["model"], r["runtime"], r["precision"], f"{r['median_ms']:.3f}", f"{r['ratio']:.3f}", f"{r['error']:.2g}"]
        for r in rows
        if "failure" not in r
    ]
    print(table(head, shown))
    print(f"medians; {done['machine']}, {wanted_threads()} threads, {done['date'][:10]}")
    print("peaks, GOP/s: " + ", ".join(f"{name} {1e-9 * rate:,.0f}" for name, rate in peaks.items() if rate))


def _measure_peaks(text: str) -> dict[str, float | None]:
    """Operations per second on registers in each precision, of all cores; None: there is no instruction for it."""
    target = Target.parse(text)
    limits = measure_limits(target.cores, target.features)
    return {"float32": limits.peak, "int8": limits.dot, "bf16": limits.bf16_dot}


@dataclass(frozen=True)
class _Tuning:
    """How Tilewright's executables are made: the budget of each (0: default schedules), and the target."""

    budget: str
    target: str


def _compare(name: str, tuning: _Tuning, against: list[str], blocks: int, ways: list[str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as text:
        folder = Path(text)
        models = write_models(name, folder, ways, tuning.target)
        entrants = []
        for precision, path in models.items():
            _tune(path, folder / precision, tuning, folder)
            entrants.append(Entrant(f"tilewright-{precision}", peers.executable, (str(folder / precision),)))
        given = models | {"float32": write_exported(name, folder)}
        entrants += [
            Entrant(f"{other}-{precision}", _OTHERS[other], (str(path), "native"))
            for other in against
            for precision, path in given.items()
            if precision != "bf16"  # only Tilewright computes it in bfloat16
        ]
        print(f"+ {name}: {', '.join(entrant.name for entrant in entrants)}", flush=True)
        return make_rows(name, race(entrants, blocks, _BLOCK_SECONDS, wanted_threads()))


def make_rows(name: str, found: Sequence[Peer]) -> list[dict[str, Any]]:
    """The rows of a model.

    Args:
        name: of the model.
        found: the runs of each runtime, Tilewright's in float32 first. Names are such as ``openvino-int8``.
    """
    own = found[0]
    wanted = np.concatenate([np.asarray(o, np.float64).reshape(-1) for o in own.outputs])
    rows = []
    for peer in found:
        runtime, _, precision = peer.name.rpartition("-")
        row: dict[str, Any] = {"model": name, "runtime": runtime, "precision": precision}
        if peer.error:
            rows.append(row | {"failure": peer.error})
            continue
        compared = compare(peer, own)
        outputs = np.concatenate([np.asarray(o, np.float64).reshape(-1) for o in peer.outputs])
        rows.append(
            row
            | {"median_ms": latency(peer)["median_ms"], "error": _relative(outputs, wanted)}
            | {key: compared[key] for key in ("ratio", "ratio_low", "ratio_high")}
        )
    return rows


def _relative(outputs: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(outputs - wanted) / np.linalg.norm(wanted))


def build_default(path: Path, out: Path, target: str) -> None:
    """Write the executable of a model with default schedules.

    Args:
        path: the ONNX file.
        out: the executable's directory.
        target: what it is compiled for, as text.
    """
    from tilewright.compiling.build import build
    from tilewright.graph.tasks import extract
    from tilewright.ops.registry import make_space

    extraction = extract(load(path), Target.parse(target))
    spaces = {use.task.key: make_space(use.task, extraction.target) for use in extraction.uses}
    build(extraction, {key: s.schedule(s.default()).mod["main"] for key, s in spaces.items()}, out, {})


def _tune(path: Path, out: Path, tuning: _Tuning, folder: Path) -> None:
    if tuning.budget == "0":
        build_default(path, out, tuning.target)
        return
    command = ["tune", path, "--out", out, "--budget", tuning.budget, "--target", tuning.target]
    command += ["--records", folder / "records.db"]
    print("+ tilewright", *command, flush=True)
    subprocess.run([sys.executable, "-m", "tilewright.cli", *map(str, command)], check=True)


if __name__ == "__main__":
    main()
