"""Tests the verdict on executables: it must refuse wrong programs and accept right ones.

    python -m bench.verdict --json verdict.json
    python -m bench.verdict --quick
    python -m bench.verdict --networks unet,squeezenet

Some thirty networks are judged as ``tilewright tune`` judges its executables, each by its own reference and trials:

- *Right models* are the network's executable with default schedules, the same with Winograd's algorithms if it has 3x3
  convolutions, and ONNX Runtime (optimised, and not) or PyTorch. All must be accepted. ONNX Runtime's sigmoid, GELU and
  mish are imprecise far from zero. If a network's outputs lie there, its verdict is printed and not counted.
- *Mutants* are the network with one mistake (``bench/_mutators.py``), and its executable with one mistake in a kernel,
  in the packed weights or in the plan (``bench/_built_mutants.py``). ONNX Runtime runs the former, or the float64
  evaluator where ONNX Runtime is imprecise. All must be refused. A mutant is *equivalent* if its float64 outputs differ
  from the original's by at most ten times the difference of correct programs. It is listed, not counted.

The JSON file is written after each network. ``first_check`` is the time of checking the incumbent. The exit code is 1
if a mutant was missed, a right model was refused or not decided, or a network ended in an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import _models
from bench._judged import NetworkReport, Subject, judge_network
from bench._small_networks import SMALL
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.target import Target

__all__ = ["NETWORKS", "QUICK", "main", "problems", "run", "summary"]

#: Networks of the onnx package and of PyTorch, with the number of mutants of each sort that they get: they are large.
LARGE = {
    **dict.fromkeys(("squeezenet", "shufflenet", "inception_v1", "resnet50", "densenet121"), 8),
    **dict.fromkeys(("transformer", "mobile"), 8),
}
#: ONNX Runtime is off by more than rounding where these networks' outputs lie.
IMPRECISE = {
    "text_detector": "sigmoid of -16",
    "detector_head": "sigmoid of -16 and -25",
    "tails": "mish and GELU of less than -4",
}
NETWORKS = (*SMALL, *LARGE)
QUICK = ("residual", "encoder", "text_detector", "segmenter", "one_hot", "wide_range", "squeezenet")
#: What a first check may take: seconds, and a share of a budget of five minutes.
SECONDS, SHARE = 15.0, 0.05
_FIVE_MINUTES = 300.0


def subject(name: str, folder: Path, seed: int = 0) -> Subject:
    """What is judged under a name; a network of ours is written into ``folder``."""
    if name not in SMALL:
        made = _models.MADE.get(name)
        if made is None:
            return Subject(name, Path(_models.model(name)), most=LARGE[name], seed=seed)
        path = folder / f"{name}.pt2"
        _models.export(made, path)
        return Subject(name, path, most=LARGE[name], seed=seed)
    import onnx

    path = folder / f"{name}.onnx"
    onnx.save(SMALL[name](), str(path))
    return Subject(name, path, imprecise=IMPRECISE.get(name, ""), seed=seed)


def run(
    names: Sequence[str], about: dict[str, Any], path: Path | None, executables: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Judge network after network.

    Args:
        names: of the networks.
        about: goes into the report first.
        path: where the report is written after each network; None for nowhere.
        executables: whether executables are built; otherwise only other runtimes are judged.
        seed: of the places where mutants have their mistakes.

    Returns:
        The report.
    """
    target = Target.parse("native")
    networks: dict[str, NetworkReport] = {}
    errors: dict[str, str] = {}
    report: dict[str, Any] = {}
    began = time.monotonic()
    for name in names:
        begin = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as folder:
                networks[name] = judge_network(subject(name, Path(folder), seed), target, Path(folder), executables)
        except Exception as error:  # whatever it was, the other networks have their say as well
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}"
        else:
            print(_line(networks[name], time.monotonic() - begin), file=sys.stderr, flush=True)
        report = {**about, "seconds": time.monotonic() - began, **summary(networks.values()), "errors": errors}
        report["problems"] = problems(report)
        report["networks"] = {key: found.describe() for key, found in networks.items()}
        write_json(path, report)
    return report


def _line(found: NetworkReport, seconds: float) -> str:
    caught, accepted = sum(m.caught for m in found.counted), sum(r.accepted for r in found.counted_rights)
    return (
        f"{found.name}: {caught} of {len(found.counted)} mutants caught, "
        f"{accepted} of {len(found.counted_rights)} right models accepted, {seconds:.0f} s"
    )


def summary(networks: Any) -> dict[str, Any]:
    """The figures over all networks."""
    found = list(networks)
    mutants = [(n.name, m) for n in found for m in n.counted]
    rights = [(n.name, r) for n in found for r in n.counted_rights]
    return {
        "mutants": len(mutants),
        "caught": sum(m.caught for _, m in mutants),
        "missed": [f"{name}: {m.kind} ({m.site}, {m.runtime}): {m.evidence}" for name, m in mutants if not m.caught],
        "mutants_by_runtime": _counts(m.runtime for _, m in mutants),
        "mutants_by_kind": _counts(m.kind for _, m in mutants),
        "equivalent": [
            f"{n.name}: {m.kind} ({m.site}, {m.runtime}), {m.factor:.2g} times rounding"
            for n in found
            for m in n.mutants
            if m.equivalent
        ],
        "invalid": [f"{n.name}: {m.kind} ({m.site}): {m.evidence}" for n in found for m in n.mutants if m.invalid],
        "right_models": len(rights),
        "right_by_runtime": _counts(r.runtime for _, r in rights),
        "falsely_refused": sum(r.refused for _, r in rights),
        "undecidable": [f"{name}: {r.runtime}: {r.evidence}" for name, r in rights if not r.refused and not r.accepted],
        "refused": [f"{name}: {r.runtime}: {r.evidence}" for name, r in rights if r.refused],
        "imprecise": [f"{n.name}: {r.runtime}: {r.evidence}" for n in found for r in n.rights if r.imprecise],
        "not_imported": {n.name: n.problem for n in found if n.problem},
        "first_check": [_within(n.first_check) for n in found if n.first_check],
    }


def _within(check: dict[str, Any]) -> dict[str, Any]:
    return {**check, "within": check["total"] <= min(SECONDS, SHARE * _FIVE_MINUTES)}


def _counts(names: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts


def problems(report: dict[str, Any]) -> list[str]:
    """What was not as it should be, a line each; empty where all was."""
    return [
        *(f"an error: {name}: {error}" for name, error in report["errors"].items()),
        *(f"missed: {line}" for line in report["missed"]),
        *(f"no mutant, for it does not run: {line}" for line in report["invalid"]),
        *(f"falsely refused: {line}" for line in report["refused"]),
        *(f"not decided: {line}" for line in report["undecidable"]),
    ]


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    rows = []
    for name, found in report["networks"].items():
        counted = [m for m in found["mutants"] if not m["equivalent"] and not m["invalid"]]
        rights = [r for r in found["right"] if not r["imprecise"]]
        rows.append(
            [
                name,
                str(found["inputs"]),
                found["precision"],
                str(len(counted)),
                str(sum(m["caught"] for m in counted)),
                str(len(rights)),
                str(sum(r["outcome"] == "right" for r in rights)),
                f"{max((r['error'] or 0.0 for r in rights), default=0.0):.1e}",
            ]
        )
    head = ["network", "inputs", "reference", "mutants", "caught", "right models", "accepted", "largest error"]
    lines = [table(head, rows), "", _costs(report["first_check"]), ""]
    lines += [f"{key}: {report[key]}" for key in ("mutants", "caught", "right_models", "falsely_refused")]
    lines += [f"{key}: {len(report[key])}" for key in ("equivalent", "undecidable", "not_imported")]
    lines += [f"PROBLEM: {problem}" for problem in report["problems"]]
    return "\n".join([*lines, f"{report['machine']}, {report['threads']} threads; {report['seconds']:.0f} s"])


def _costs(checks: Sequence[dict[str, Any]]) -> str:
    """What the first check takes."""
    rows = [
        [
            check["network"],
            str(check["tasks"]),
            *(f"{check[key]:.1f}" for key in ("reference", "incumbent", "judging", "total")),
            f"{100 * check['total'] / _FIVE_MINUTES:.1f} %",
            f"{check['processor']:.1f}",
            "yes" if check["within"] else "no",
        ]
        for check in checks
    ]
    bounds = f"within {SECONDS:g} s and {100 * SHARE:g} % of 5 min"
    head = [
        "first check, seconds",
        "tasks",
        "reference",
        "incumbent",
        "judging",
        "total",
        "share",
        "processor",
        bounds,
    ]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="", help=f"comma-separated; all without it: {', '.join(NETWORKS)}")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--runtimes-only", action="store_true", help="build no executables")
    parser.add_argument("--seed", type=int, default=0, help="of the places where mutants have their mistakes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = tuple(arguments.networks.split(",")) if arguments.networks else QUICK if arguments.quick else NETWORKS
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        parser.error(f"networks are {', '.join(NETWORKS)}, but this is {unknown[0]!r}")
    target = Target.parse("native")
    about = {
        "command": "python -m bench.verdict" + ("" if names == NETWORKS else f" --networks {','.join(names)}"),
        "machine": target.machine,
        "threads": target.cores,
        "date": time.strftime("%Y-%m-%d"),
        "tvm": target.tvm_version,
    }
    report = run(names, about, arguments.json, not arguments.runtimes_only, arguments.seed)
    print(text(json.loads(json.dumps(report))))
    sys.exit(bool(report["problems"]))


if __name__ == "__main__":
    main()
