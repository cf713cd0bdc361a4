"""Measures a network's latency over the seconds of tuning, and its ratio to that of ONNX Runtime.

    python -m bench.five_minutes --models light --minutes 10 --cache DIR --json five.json

A network is tuned once, without records or (``--one-store``) with the records of the networks before it. The cost model
is the shipped one, fitted without this network (``bench/_held_out.py``). Executables are built from the records as they
were after 30 s, 1, 2, 5 and 10 minutes, up to the budget. All of them are raced against ONNX Runtime in one paired run,
by turns in processes of their own.

A mark counts the whole command. Its executable has the measurements up to the mark, less the seconds of finishing, and
then the contest of each task's best schedules in their places, in its share of the mark. The choice of algorithms is
that of the whole budget. The final race of each command is left out.

Tuned networks are kept in ``--cache``. If one was tuned for fewer minutes, a second command tunes it for the rest, from
the records of the first. Networks in the JSON file with as many minutes are not raced again. ``--plot FILE`` draws the
ratios over time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench import _models
from bench._curves import plot_ratios
from bench._each import each
from bench._held_out import held_out_file
from bench._models import export
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.compare import peers
from tilewright.compiling.build import build, replace_kernels
from tilewright.compiling.kernels import Kernels, Library
from tilewright.frontend.load import load
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.compare import compare, difference, latency
from tilewright.measure.peers import Entrant, Peer, race
from tilewright.measure.runner import NoRunner
from tilewright.processor import model_name
from tilewright.records import open_store
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query, Store
from tilewright.target import Target
from tilewright.tuning.budget import Budget
from tilewright.tuning.budget_plan import in_place_seconds
from tilewright.tuning.context import TuningContext
from tilewright.tuning.in_place import contest
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.tuning.selection import select_best
from tilewright.tuning.workshop import JudgedExecutable
from tilewright.verify.verdict import Outcome as Judgement
from tilewright.verify.verdict import Verdict

#: Seconds at which a network is looked at.
MARKS = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TURNS = 20
PEER = "onnxruntime"
#: A network is as good as tuned when its estimated latency is within this factor of the last.
SETTLED = 1.03
#: The verdict on executables that nobody judges.
UNJUDGED = Verdict(Judgement.UNDECIDABLE)


def tuned(name: str, minutes: float, folder: Path, records: Path, sharing: str) -> list[dict[str, Any]]:
    """Tune a network as far as that was not done before. Each command's report, with the time when it began.

    Raises:
        SystemExit: what was done before had other records, or shared otherwise.
    """
    reports: list[dict[str, Any]] = []
    while (report := folder / f"tune{f'-{len(reports) + 1}' if reports else ''}.json").exists():
        reports.append(json.loads(report.read_text()))
        used = reports[-1]["records"], reports[-1].get("sharing_by", sharing)
        if used != (str(records), sharing):
            raise SystemExit(
                f"a network is tuned on with the records and the sharing that it began with, but {report} says "
                f"{' and '.join(used)}, not {records} and {sharing}; name another --cache"
            )
    rest = 60 * minutes - sum(found["budget_seconds"] for found in reports)
    if rest > 0:
        folder.mkdir(parents=True, exist_ok=True)
        model = Path(_models.model(name)) if name not in _models.MADE else folder / f"{name}.pt2"
        if name in _models.MADE:
            export(_models.MADE[name], model)
        command = [sys.executable, "-m", "tilewright.cli", "tune", str(model), "--out", str(folder / "out")]
        command += ["--budget", f"{rest:g}s", "--records", str(records), "--sharing", sharing]
        command += ["--cost-model", str(held_out_file(name))]
        command += ["--json", str(folder / "running.json")]
        print("+", *command[2:], flush=True)
        began = time.time()
        subprocess.run(command, check=True)
        about = {"began": began, "records": str(records), "sharing_by": sharing}
        reports.append({**json.loads((folder / "running.json").read_text()), **about})
        write_json(report, reports[-1])
    return reports


def moment(reports: Sequence[dict[str, Any]], mark: float) -> float:
    """Until when (``time.time()``) measurements count that are to be built after so many seconds of the commands."""
    rest = mark
    for report in reports[:-1]:
        if rest <= report["budget_seconds"]:
            break
        rest -= report["budget_seconds"]
    else:
        report = reports[-1]
    finishing = report["build_seconds"] - (report.get("in_place") or {"seconds": 0.0})["seconds"]
    return float(report["began"] + rest - finishing - in_place_seconds(Budget(mark)))


def before(store: Store, moment: float) -> MemoryStore:
    """What a store held at a moment (``time.time()``)."""
    earlier = MemoryStore()
    earlier.add([m for m in store.scan(Query()) if m.time is not None and m.time <= moment])
    return earlier


def with_algorithms(name: str, target: Target, report: dict[str, Any]) -> Extraction:
    """The network's tasks, as they were when it was tuned."""
    network = load(_models.model(name))
    plain = extract(network, target)
    choices = {entry["conv"]: entry["chosen"] for entry in report["algorithms"]}
    named = {conv: choices[str(conv)] for conv, _ in plain.rewritten.convolutions if str(conv) in choices}
    return extract(network, target, named) if any(value != "direct" for value in named.values()) else plain


def executables(
    name: str, reports: Sequence[dict[str, Any]], folder: Path, marks: Sequence[float]
) -> dict[float, Path]:
    """By mark, the executable of what was known then."""
    report = reports[-1]
    target = target_of(report)
    extraction = with_algorithms(name, target, report)
    found: dict[float, Path] = {}
    kernels = Kernels(extraction, folder / "kernels")
    defaults, _ = compiled_defaults(extraction, kernels, folder)
    with open_store(report["records"]) as store:
        for mark in marks:
            tuner = known_then(extraction, before(store, moment(reports, mark)))
            selection, out = select_best(extraction, tuner), folder / f"at-{mark:g}"
            if not found:
                build(extraction, selection.functions, out, {}, kernels)
            else:  # weights are the same, and may be large
                replace_kernels(found[marks[0]], kernels.library(selection.functions, folder / "kernels.so"), out)
            share = in_place_seconds(Budget(mark))
            tuned = JudgedExecutable(out, extraction, selection, UNJUDGED)
            best = contest(kernels, tuner, tuned, defaults, share)
            if best is not None:
                replace_kernels(out, kernels.library(best.selection.functions, folder / "kernels.so"), out)
            found[mark] = out
    return found


def target_of(report: dict[str, Any]) -> Target:
    """What a network was tuned for."""
    return replace(Target.parse("native"), caches=report["caches"])


def compiled_defaults(extraction: Extraction, kernels: Kernels, folder: Path) -> tuple[JudgedExecutable, Library]:
    """The defaults, and their library in ``folder``."""
    began = time.monotonic()
    defaults = select_best(extraction, known_then(extraction, MemoryStore()))
    library = kernels.library(defaults.functions, folder / "defaults.so")
    return JudgedExecutable(folder, extraction, defaults, UNJUDGED, seconds=time.monotonic() - began), library


def known_then(extraction: Extraction, store: Store) -> NetworkTuner:
    """A tuner that knows what is in the store, and measures nothing."""
    budget = Budget(trials=1).start()
    tuner = NetworkTuner(
        extraction.uses, TuningContext(extraction.target, NoRunner(), store, budget, np.random.default_rng(0))
    )
    tuner.prepare()
    return tuner


def raced(built: dict[float, Path], others: Sequence[Entrant] = (), turns: int = TURNS) -> list[Peer]:
    """Race the executables of all marks against ONNX Runtime and whom else there is; the last mark's first."""
    ours = [Entrant(str(path), peers.executable, (str(path.absolute()),)) for path in dict.fromkeys(built.values())]
    model = next(iter(built.values())) / "model.onnx"  # the first has it
    entrants = [*ours[::-1], *others]
    if model.is_file():
        entrants.append(Entrant(PEER, peers.PEERS[PEER], (str(model.absolute()), "native")))
    return race(entrants, turns, 0.1, Target.parse("native").cores)


def bench(name: str, minutes: float, folder: Path, records: Path, sharing: str, turns: int) -> dict[str, Any]:
    reports = tuned(name, minutes, folder, records, sharing)
    marks = [mark for mark in MARKS if mark <= 60 * minutes]
    built = executables(name, reports, folder, marks)
    report, curve = reports[-1], joined(reports)
    trials = sum(found["trials"] for found in reports)
    found = {peer.name: peer for peer in raced(built, turns=turns)}
    final = found[str(built[marks[-1]])]
    peer = found.get(PEER)
    entries = {}
    for mark in marks:
        ours = found[str(built[mark])]
        entry: dict[str, Any] = {**latency(ours), "of_last": compare(ours, final)}
        if peer is not None and not peer.error:
            entry["ratio"] = compare(ours, peer)
            entry["difference"] = difference(ours.outputs, peer.outputs)
        entries[f"{mark:g}"] = entry
    return {
        "marks": entries,
        "peer": None if peer is None else {"name": PEER, "error": peer.error, **latency(peer)},
        "tasks": len(report["tasks"]),
        "trials": trials,
        "trials_per_second": trials / sum(found["trials"] / found["trials_per_second"] for found in reports),
        "curve": curve,
        "settled_seconds": settled(curve),
        "sharing": report.get("sharing"),
        "in_place": report.get("in_place"),
        "final_race": report["final_race"],
        "wall_seconds": sum(found["wall_seconds"] for found in reports),
        "commands": len(reports),
        "minutes": minutes,
        "turns": turns,
        "records": report["records"],
        "sharing_by": report.get("sharing_by"),
        "machine": model_name(),
        "cores": report["cores"],
        "date": report["date"],
    }


def joined(reports: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """The estimated latency over the seconds of all commands."""
    starts = np.cumsum([0.0] + [report["budget_seconds"] for report in reports])
    return [(start + t, s) for start, report in zip(starts, reports, strict=False) for t, s in report["curve"]]


def settled(curve: Sequence[tuple[float, float]]) -> float:
    """Seconds after which the estimated latency stayed within ``SETTLED`` of the last one."""
    last = curve[-1][1]
    return max((later for (_, before), (later, _) in pairwise(curve) if before > SETTLED * last), default=curve[0][0])


def show(done: dict[str, Any]) -> str:
    marks = [f"{mark:g}" for mark in MARKS if any(f"{mark:g}" in entry["marks"] for entry in done.values())]
    rows = []
    for name, entry in done.items():
        row = [name, str(entry["tasks"]), f"{entry['trials_per_second']:.1f}", f"{entry['settled_seconds']:.0f}"]
        for mark in marks:
            found = entry["marks"].get(mark)
            ratio = {} if found is None else found.get("ratio", {})
            row.append("-" if found is None else f"{found['median_ms']:.2f}")
            row.append("{ratio:.2f} ({ratio_low:.2f} to {ratio_high:.2f})".format(**ratio) if ratio else "-")
        rows.append(row)
    head = ["network", "tasks", "trials/s", f"within {SETTLED - 1:.0%} after s"]
    for mark in marks:
        head += [f"{mark} s: ms", "of ONNX Runtime"]
    return table(head, rows)


def enough(entry: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether a network's entry of an earlier command is what this one asks for."""
    long = entry["minutes"] >= arguments.minutes and entry.get("turns", TURNS) >= arguments.turns
    alike = entry.get("sharing_by", arguments.sharing) == arguments.sharing
    one_store = Path(entry.get("records", "")).parent == arguments.cache
    return bool(long and alike and one_store == arguments.one_store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="light", help="comma-separated; 'light': the nine of the onnx package")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sharing", default="own")
    parser.add_argument("--one-store", action="store_true", help="networks find what earlier ones left")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each executable in the final race")
    parser.add_argument("--cache", type=Path, default=Path("five-minutes"))
    parser.add_argument("--json", type=Path, default=Path("five.json"))
    parser.add_argument("--plot", type=Path, help="a PNG file to write")
    arguments = parser.parse_args()
    names = _models.LIGHT if arguments.models == "light" else arguments.models.split(",")

    def run(name: str) -> dict[str, Any]:
        folder = arguments.cache / name
        records = (arguments.cache if arguments.one_store else folder) / "records.db"
        return bench(name, arguments.minutes, folder, records, arguments.sharing, arguments.turns)

    done = each(names, arguments.json, run, lambda entry: enough(entry, arguments))
    print(show(done))
    if arguments.plot is not None:
        plot_ratios(done, arguments.plot)


if __name__ == "__main__":
    main()
