"""Compares operators on windows, images, indices and quantised numbers with ONNX Runtime, for random attributes.

    python -m bench.importer_windows --count 40 --json windows.json
    python -m bench.importer_windows --only 'Pool|Resize' --seed 7

For each operator, nodes with random attributes and shapes are drawn. Up to 20 of them are one model. It is built with
default schedules, and its outputs are compared with ONNX Runtime's. A node that ONNX Runtime refuses is drawn again.
Nodes in segments are counted, with the reasons. The exit code is 1 if an output is wrong or a node is refused.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from bench._drawn_operators import DRAWS, Draw
from bench._operators import Finding, Trial, compose, find_differences, run_reference
from tilewright.cli.boundary import write_json
from tilewright.errors import TilewrightError

__all__ = ["draw_trials", "main"]

#: The most draws for each node that is wanted: ONNX Runtime refuses some.
_MOST_DRAWS = 200
#: The most nodes of one model. With more, it takes long to find the node that fails.
_TOGETHER = 20


def draw_trials(draw: Draw, count: int, seed: int, opset: int) -> dict[str, Trial]:
    """Nodes that ONNX Runtime runs, by name.

    Args:
        draw: draws one node.
        count: the number of nodes.
        seed: the same seed gives the same nodes.
        opset: the version of ONNX's operators.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Trial] = {}
    for _ in range(_MOST_DRAWS * count):
        trial = draw(rng)
        try:
            run_reference(*compose({"t": trial}, opset))
        except Exception:  # ONNX Runtime's errors share no base class
            continue
        found[f"{trial.operator}{len(found)}"] = trial
        if len(found) == count:
            break
    return found


def _try(trials: dict[str, Trial], opset: int) -> list[Finding]:
    """The findings of trials. They run together; if that fails, each runs alone."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as place:
        try:
            return find_differences(trials, Path(place), opset)
        except TilewrightError as error:
            if len(trials) == 1:
                return [Finding(next(iter(trials)), "refused", str(error))]
    return [finding for name, trial in trials.items() for finding in _try({name: trial}, opset)]


def main(arguments: list[str] | None = None) -> int:
    """Run the bench. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="nodes for each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a regular expression of operators")
    parser.add_argument("--opset", type=int, default=20)
    parser.add_argument("--json", help="write the figures to this file")
    chosen = parser.parse_args(arguments)
    report: dict[str, object] = {}
    wrong = 0
    for operator, draw in DRAWS.items():
        if not re.search(chosen.only, operator):
            continue
        trials = draw_trials(draw, chosen.count, chosen.seed, chosen.opset)
        names, findings = list(trials), []
        for begin in range(0, len(names), _TOGETHER):
            findings += _try({name: trials[name] for name in names[begin : begin + _TOGETHER]}, chosen.opset)
        counts = Counter(finding.outcome for finding in findings)
        wrong += counts["wrong"] + counts["refused"]
        print(f"{operator}: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())))
        for finding in findings:
            if finding.outcome != "right":
                shapes = [
                    getattr(i, "shape", getattr(getattr(i, "values", None), "shape", None))
                    for i in trials[finding.name].inputs
                ]
                print(f"  {finding.outcome} {shapes} {dict(trials[finding.name].attributes)}: {finding.message}")
        sys.stdout.flush()
        report[operator] = {
            **counts,
            "messages": {finding.name: finding.message for finding in findings if finding.outcome != "right"},
        }
    if chosen.json:
        write_json(Path(chosen.json), report)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
