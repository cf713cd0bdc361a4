"""Times a 1x1 convolution and the depthwise one that reads its result in one function, and in two.

    python -m bench.expansions --models mobilenetv2,mobilenetv3,efficientnet_b0 --json expansions.json

The pairs are those of networks of ``bench.network --models modern``. Each task is timed with the most likely configs of
its space, and counts with the fastest. Models that the JSON file holds are not timed again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench._modern import fetch
from bench.attention import best
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.frontend.load import load
from tilewright.graph.tasks import extract
from tilewright.measure.pool import LocalPool
from tilewright.processor import model_name
from tilewright.target import Target
from tilewright.task import Task


def time_model(name: str, target: Target, pool: LocalPool, count: int) -> list[dict[str, Any]]:
    """Milliseconds of the one function and of the two of each pair of a network."""
    extraction = extract(load(str(fetch(name).path)), target)
    known: dict[str, float] = {}

    def milliseconds(task: Task) -> float:
        if task.key not in known:
            known[task.key] = 1e3 * best(task, target, pool, count)
        return known[task.key]

    return [
        {
            "pair": str(pair).removeprefix("expansion "),
            "uses": uses,
            "one": milliseconds(pair.one),
            "two": [milliseconds(task) for task in pair.several],
        }
        for pair, uses in extraction.joints
    ]


def show(models: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for name, pairs in models.items():
        for pair in pairs:
            total = sum(pair["two"])
            parts = " + ".join(f"{ms:.3f}" for ms in pair["two"])
            cells = [f"{pair['one']:.3f}", f"{total:.3f} = {parts}", f"{pair['one'] / total:.2f}"]
            rows.append([name, pair["pair"], str(pair["uses"]), *cells])
    return table(["network", "data, result", "uses", "one, ms", "two, ms", "ratio"], rows, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mobilenetv2,mobilenetv3,efficientnet_b0", help="comma-separated")
    parser.add_argument("--configs", type=int, default=4, help="configs of each task")
    parser.add_argument("--json", type=Path, default=Path("expansions.json"))
    arguments = parser.parse_args()
    target = Target.parse("native")
    done = json.loads(arguments.json.read_text())["models"] if arguments.json.exists() else {}
    about = {"machine": model_name(), "cores": target.cores, "date": time.strftime("%Y-%m-%d")}
    with LocalPool(target) as pool:
        for name in arguments.models.split(","):
            if name not in done:
                done[name] = time_model(name, target, pool, arguments.configs)
                write_json(arguments.json, about | {"models": done})
    print(show(done))


if __name__ == "__main__":
    main()
