"""Times the algorithms for 3x3 convolutions: direct, and Winograd's in three functions or in one.

    python -m bench.algorithms --models squeezenet,resnet50,vgg19 --json algorithms.json

Each algorithm of each convolution of the networks is timed with a few likely configs, as `tilewright tune` does before
tuning. An algorithm that has lost after its first stages is not timed further, and its figure is that of these stages.
The figures contain no time for reading weights from memory.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

from bench import _models
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.frontend.load import load
from tilewright.graph.convolution import ALGORITHMS
from tilewright.graph.tasks import extract
from tilewright.jsonable import to_json_object
from tilewright.measure.pool import LocalPool
from tilewright.processor import model_name
from tilewright.records.memory import MemoryStore
from tilewright.target import Target
from tilewright.tuning.algorithms import choose_algorithms


def timed(name: str, target: Target) -> list[dict[str, Any]]:
    """The convolutions of a network that have a choice, heaviest first."""
    convolutions = extract(load(_models.model(name)), target).rewritten.convolutions
    store = MemoryStore()
    with LocalPool(target, on_measurement=lambda m: store.add([m])) as pool:
        choices, _ = choose_algorithms(convolutions, target, pool, store, math.inf)
    return [to_json_object(choice.report()) for choice in choices]


def show(networks: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for name, choices in networks.items():
        for choice in choices:
            found = choice["milliseconds"]
            cells = [f"{found[a]:.3f}" if a in found else "-" for a in ALGORITHMS]
            rows.append([name, choice["conv"].partition(" stride")[0], str(choice["count"]), *cells, choice["chosen"]])
    return table(["network", "convolution", "count", *ALGORITHMS, "chosen"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="squeezenet,resnet50,vgg19,densenet121", help="comma-separated")
    parser.add_argument("--json", type=Path, default=Path("algorithms.json"), help="networks in it are not timed again")
    arguments = parser.parse_args()
    target = Target.parse("native")
    done = json.loads(arguments.json.read_text())["networks"] if arguments.json.exists() else {}
    about = {"machine": model_name(), "cores": target.cores, "date": time.strftime("%Y-%m-%d")}
    for name in arguments.models.split(","):
        if name not in done:
            done[name] = timed(name, target)
            write_json(arguments.json, {"networks": done, **about})
    print(show(done))


if __name__ == "__main__":
    main()
