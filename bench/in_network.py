"""Times the kernels of an executable within their network, and alone, as tuning times them.

    python -m bench.in_network OUT [OUT ...] --json in_network.json

OUT is an executable of ``tilewright tune``. *In the network* each kernel is timed at its turn: its input was just
written, and its weights were last read one run ago. *Alone* it is called again and again, with all its data in the
caches. The table has the sums of both, and the time of the whole network. A row is a kernel, the largest loss first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.executable.executable import load_executable
from tilewright.processor import model_name
from tilewright.target import Target

#: Runs of the network, and calls of a kernel in a row.
RUNS, REPEATS = 40, 30
#: What stands for some readings, as in a tuning.
QUANTILE = 0.2
MOST_ROWS = 8


def profile(out: Path) -> dict[str, Any]:
    executable = load_executable(out)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(spec.shape).astype(spec.dtype) for spec in executable.inputs]
    executable.time(arrays, 5)
    placed = executable.profile(arrays, RUNS)
    if placed is None:
        raise SystemExit(f"{out} runs on Relax's virtual machine, which does not tell its kernels apart")
    alone = executable.profile(arrays, 5, REPEATS)
    assert alone is not None
    whole = executable.time(arrays, RUNS)
    kernels = [
        {"kernel": here.kernel, "us": _microseconds(here.seconds), "alone_us": _microseconds(there.seconds)}
        for here, there in zip(placed, alone, strict=True)
    ]
    return {
        "whole_us": _microseconds(whole),
        "in_network_us": sum(kernel["us"] for kernel in kernels),
        "alone_us": sum(kernel["alone_us"] for kernel in kernels),
        "kernels": kernels,
    }


def _microseconds(seconds: Any) -> float:
    return 1e6 * float(np.quantile(seconds, QUANTILE))


def show(networks: dict[str, Any]) -> str:
    lines = []
    for name, entry in networks.items():
        ratio = entry["in_network_us"] / entry["alone_us"]
        lines.append(
            f"{name}: {entry['whole_us']:.0f} us; its kernels {entry['in_network_us']:.0f} us in the network, "
            f"{entry['alone_us']:.0f} us alone: {ratio:.3f}"
        )
        worst = sorted(entry["kernels"], key=lambda kernel: kernel["alone_us"] - kernel["us"])[:MOST_ROWS]
        rows = [[k["kernel"] or "(copy)", f"{k['us']:.1f}", f"{k['alone_us']:.1f}"] for k in worst]
        lines.append(table(["kernel", "us", "alone us"], rows))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    networks = {str(out): profile(out) for out in arguments.out}
    print(show(networks))
    if arguments.json is not None:
        about = {"machine": model_name(), "cores": Target.parse("native").cores, "date": time.strftime("%Y-%m-%d")}
        write_json(arguments.json, {"networks": networks, **about})


if __name__ == "__main__":
    main()
