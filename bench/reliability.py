"""Injects faults, kills processes, shares a store, and malforms files. Takes at most 20 minutes on 2 cores.

    python -m bench.reliability --json reliability.json
    python -m bench.reliability --parts kills,writers

- ``faults``: a task is tuned in real workers. Three in ten candidates crash, hang, exhaust their memory or compute
  nonsense. A fault is *survived* if it costs its own candidate alone, with the right outcome and message.
- ``kills``: 50 times, at random moments, the command ``tilewright tune``, or a worker that starts, builds or measures,
  is killed. A kill of the command is *survived* if the records hold all that it had reported, none of its processes is
  left, and the same command goes on. A kill of a worker is survived if it costs one candidate at most.
- ``writers``: processes add to one store at the same time, and one of them is killed half-way.
- ``malformed``: every reader of outside data is given changed files. Those that are no longer valid must be *refused*
  with an error of Tilewright.

A record is *lost* if it was reported and is not in the store. It is *doubled* if a config that was measured once has
two latencies. The JSON file is written after each part, so that an error in one part does not lose the figures of the
others. The exit code is 1 if anything was not survived, lost, doubled, left behind, not refused or not tried to its
end, or if a part ended in an error.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from bench import _faults, _kills, _malformed, _models
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.target import Target

__all__ = ["PARTS", "STEPS", "main", "problems", "run", "summary", "text"]

#: A real network that is tuned again from the start in about half a minute.
NETWORK = "squeezenet"
TUNER_KILLS, WORKER_KILLS, WRITERS = 12, 38, 4
#: For all readers together; with imports, so that the step ends before its limit; and the share of its seconds
#: that each is tried for at least.
MALFORMED_SECONDS, MALFORMED_MOST, _LEAST_TRIED = 110.0, 180.0, 0.05
#: Added up in the summary.
_SUMS = (
    "kills",
    "kills_survived",
    "records_lost",
    "records_doubled",
    "orphans",
    "malformed_tried",
    "malformed_refused",
)
#: What must be 0 in every step that tells it.
_NONE_OF = ("records_lost", "records_doubled", "orphans", "others_failed", "runs_failed", "failed", "leftovers")


@dataclass(frozen=True)
class Step:
    """A part, or a half of one.

    Attributes:
        part: as it is called by ``--parts``.
        limit: seconds after which it is ended with an error. Together these are 20 minutes.
        measure: what it does; it gets a folder of its own and gives figures that are ready for JSON.
        wanted: how many kills there should be, where it kills.
    """

    part: str
    limit: float
    measure: Callable[[Path], dict[str, Any]]
    wanted: int = 0


def faults(_: Path) -> dict[str, Any]:
    return _faults.faults(seconds=210.0)


def tuners(folder: Path) -> dict[str, Any]:
    model = Path(_models.model(NETWORK))
    return _kills.kill_tuners(model, folder, kills=TUNER_KILLS, seconds=200.0, latest=20.0, last=140.0)


def workers(folder: Path) -> dict[str, Any]:
    return _kills.kill_workers(folder, kills=WORKER_KILLS, seconds=240.0)


def writers(folder: Path) -> dict[str, Any]:
    return _kills.writers(folder, count=WRITERS, seconds=15.0)


def malformed(_: Path) -> dict[str, Any]:
    found = _malformed.count(MALFORMED_SECONDS, most=MALFORMED_MOST)
    readers = {name: vars(counts) for name, counts in found.items()}
    sums = {key: sum(counts[key] for counts in readers.values()) for key in ("malformed_tried", "malformed_refused")}
    return {**sums, "wanted_seconds": MALFORMED_SECONDS / len(found), "readers": readers}


#: A limit is what the work may take, and what starting and ending may take on a busy machine.
STEPS: dict[str, Step] = {
    "faults": Step("faults", 230.0, faults),
    "tuners": Step("kills", 390.0, tuners, TUNER_KILLS),
    "workers": Step("kills", 290.0, workers, WORKER_KILLS),
    "writers": Step("writers", 70.0, writers),
    "malformed": Step("malformed", 220.0, malformed),
}
PARTS = tuple(dict.fromkeys(step.part for step in STEPS.values()))


class TookTooLongError(BaseException):
    """A step was not done within its seconds. As an interrupt, it is not for those to catch who expect errors."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End what is done inside after so many seconds, wherever it is, with :class:`TookTooLongError`."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TookTooLongError(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def run(parts: Iterable[str], about: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """Measure step after step.

    Args:
        parts: which.
        about: goes into the report first.
        path: where the report is written after each step; None for nowhere.

    Returns:
        The report: the sums over all steps, beside them each step's own figures, and the errors by step.
    """
    chosen, steps, errors = set(parts), dict[str, dict[str, Any]](), dict[str, str]()
    began = time.monotonic()
    report: dict[str, Any] = {}
    for name, step in STEPS.items():
        if step.part not in chosen:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as folder, limited(step.limit):
                steps[name] = step.measure(Path(folder))
        except (Exception, TookTooLongError) as error:  # whatever it was, the other steps have their say as well
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}"
        steps.setdefault(name, {})["seconds"] = time.monotonic() - begin
        report = {**about, "wall_seconds": time.monotonic() - began, **summary(steps), "steps": steps, "errors": errors}
        report["problems"] = problems(steps, errors)
        write_json(path, report)
    return report


def summary(steps: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures over all steps; None where no step has told one, so that nothing looks like a zero that is none."""

    def told(key: str) -> list[Any]:
        return [found[key] for found in steps.values() if key in found]

    sums = {key: sum(values) if (values := told(key)) else None for key in _SUMS}
    return {
        "faults": steps.get("faults", {}).get("faults"),
        **sums,
        "writers": steps.get("writers", {}).get("writers"),
        "longest_gap": max(told("longest_gap"), default=None),
    }


def problems(steps: dict[str, dict[str, Any]], errors: dict[str, str]) -> list[str]:
    """What was not as it should be, a line each; empty where all was."""
    found = [f"{name}: {error}" for name, error in errors.items()]
    for name, figures in steps.items():
        found += [f"{name}: {key} is {figures[key]}, not 0" for key in _NONE_OF if figures.get(key)]
        for kind, count in figures.get("faults", {}).items():
            if count["survived"] < count["injected"]:
                found.append(f"{name}: {count['survived']} of {count['injected']} {kind} survived")
        if figures.get("kills_survived", 0) < figures.get("kills", 0):
            found.append(f"{name}: {figures['kills_survived']} of {figures['kills']} kills survived")
        if figures.get("kills", STEPS[name].wanted) < STEPS[name].wanted:
            found.append(f"{name}: only {figures['kills']} of {STEPS[name].wanted} kills in its time")
        for reader, counts in figures.get("readers", {}).items():
            found += [f"{name}: {reader}: {failure}" for failure in sorted(set(counts["failures"]))]
            if counts["failures"]:
                continue
            if counts["malformed_refused"] < counts["malformed_tried"]:
                found.append(f"{name}: {reader}: {counts['malformed_refused']} of {counts['malformed_tried']} refused")
            wanted = figures.get("wanted_seconds", 0.0)
            if not counts["malformed_tried"] or counts.get("seconds", wanted) < _LEAST_TRIED * wanted:
                tried = f"{counts['malformed_tried']} files in {counts.get('seconds', 0.0):.1f} of {wanted:.1f} s"
                found.append(f"{name}: {reader}: not tried to its end, {tried}")
    return found


def text(report: dict[str, Any]) -> str:
    """A row for each kind of harm, and below what was not as it should be."""
    rows = [
        [f"fault: {kind}", str(count["injected"]), str(count["survived"])]
        for kind, count in (report["faults"] or {}).items()
    ]
    for name in ("tuners", "workers"):
        figures = report["steps"].get(name, {})
        if "kills" in figures:
            rows.append([f"kill -9 of {name}", str(figures["kills"]), str(figures["kills_survived"])])
    for reader, counts in report["steps"].get("malformed", {}).get("readers", {}).items():
        rows.append([f"malformed: {reader}", str(counts["malformed_tried"]), str(counts["malformed_refused"])])
    lines = [table(["harm", "tried", "survived or refused"], rows)] if rows else []
    told = ("records_lost", "records_doubled", "orphans", "writers", "longest_gap")
    lines += [f"{key}: {report[key]:.3g}" for key in told if report[key] is not None]
    lines += [f"seconds of {name}: {figures['seconds']:.0f}" for name, figures in report["steps"].items()]
    lines += [f"PROBLEM: {problem}" for problem in report["problems"]]
    about = f"{report['machine']}, {report['threads']} threads, {report['date']}; TVM {report['tvm']}"
    return "\n".join([*lines, f"{about}; {report['wall_seconds']:.0f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"parts are {', '.join(PARTS)}, but this is {unknown[0]!r}")
    target = Target.parse("native")
    about = {
        "command": "python -m bench.reliability" + ("" if set(parts) == set(PARTS) else f" --parts {arguments.parts}"),
        "machine": target.machine,
        "threads": target.cores,
        "date": time.strftime("%Y-%m-%d"),
        "tvm": target.tvm_version,
        "tilewright": _version(),
    }
    report = run(parts, about, arguments.json)
    print(text(report))
    sys.exit(bool(report["problems"]))


def _version() -> str | None:
    """Tilewright's; None where it is run from a folder without being installed."""
    try:
        return version("tilewright")
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
