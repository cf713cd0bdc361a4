"""A run as a page needs it: the report, its course, and the executable that came of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from tilewright.errors import OutputError
from tilewright.executable.manifest import Manifest, read_manifest
from tilewright.executable.plan import Plan
from tilewright.jsonable import Json
from tilewright.reading import parse_json, read_file
from tilewright.report.decoding import decode
from tilewright.report.history import History, TaskHistory, parse_events
from tilewright.report.network import Node, draw_network
from tilewright.tuning.report import TaskReport, TuneReport
from tilewright.tuning.run_events import TaskFunctions
from tilewright.tuning.run_log import LOG, REPORT
from tilewright.verify.verdict import Verdict
from tilewright.wording import counted

__all__ = ["Bench", "PeerTime", "Run", "make_live_run", "read_bench", "read_run"]

#: The most bytes of a report and of a log that are read: several times what the largest runs write.
_MOST_REPORT, _MOST_LOG = 64 << 20, 64 << 20


@dataclass(frozen=True)
class PeerTime:
    """Another runtime, timed by turns with the executable.

    Attributes:
        name: of the runtime.
        milliseconds: its median.
        ratio: the executable's median over the peer's: below 1, the executable is faster.
        low, high: the ends of the ratio's 95 % interval.
        problem: why it could not be timed; empty: it was.
    """

    name: str
    milliseconds: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    problem: str = ""

    @property
    def speed(self) -> float | None:
        """How many times as fast the executable is; None: not known."""
        return 1 / self.ratio if self.ratio else None

    @property
    def slowest(self) -> float | None:
        """The lower end of the 95 % interval of :attr:`speed`."""
        return 1 / self.high if self.high else None

    @property
    def fastest(self) -> float | None:
        """The upper end of the 95 % interval of :attr:`speed`."""
        return 1 / self.low if self.low else None


@dataclass(frozen=True)
class Bench:
    """What ``tilewright bench --json`` wrote.

    Attributes:
        milliseconds: the median of the executable.
        peers: that it was raced against.
        shapes: of the inputs, of an executable with several buckets; empty: it has one.
        others: the same for the further buckets.
    """

    milliseconds: float | None = None
    peers: tuple[PeerTime, ...] = ()
    shapes: str = ""
    others: tuple[Bench, ...] = ()


@dataclass(frozen=True)
class _Judged:
    """What a manifest says of its outputs."""

    verdict: Verdict | None = None


@dataclass(frozen=True)
class Run:
    """A run and its executable.

    Attributes:
        name: of the model, for people.
        place: the directory, for people.
        report: what the run reported; of an executable of an earlier version, empty.
        known: whether there is a report.
        history: its course.
        plan: of the executable; of one with several buckets, that of the one with the largest share of the tuning.
            None: it has none.
        drawn: the shapes of the inputs of the plan's bucket; empty: there is one.
        nodes: the calls of the plan, with their places.
        verdict: on the executable.
        machine: the name of the processor that the executable was built for, if its manifest has one.
        features: the extensions that its kernels may use.
        bytes: of each file of the executable, by name.
        bench: what was measured against peers afterwards; None: nothing.
        lacks: what the page cannot show, and why.
    """

    name: str
    place: str
    report: TuneReport
    known: bool = True
    history: History = field(default_factory=History)
    plan: Plan | None = None
    drawn: str = ""
    nodes: tuple[Node, ...] = ()
    verdict: Verdict | None = None
    machine: str = ""
    features: tuple[str, ...] = ()
    bytes: dict[str, int] = field(default_factory=dict)
    bench: Bench | None = None
    lacks: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[TaskReport, ...]:
        """The tasks of the network."""
        return self.report.tasks


def read_run(out: Path, bench: Path | None = None) -> Run:
    """Read the executable in ``out``, with the report and the log of its run, if these are there.

    Args:
        out: the directory of an executable.
        bench: the file of ``tilewright bench --json``; None: there is none.

    Raises:
        OutputError: ``out`` holds no executable, or a file cannot be read.
    """
    manifest = read_manifest(out)
    report, known, history, lacks = _read_report(out), (out / REPORT).is_file(), History(), []
    if not known:
        lacks.append(
            "This executable has no report of a run: an earlier version of Tilewright wrote it, or `build` did."
        )
    log = out / LOG
    if log.is_file():
        text = read_file(log, _MOST_LOG).decode("utf-8", errors="replace")
        history = parse_events(text.splitlines())
        if history.unread:
            lacks.append(f"{counted(history.unread, 'line')} of the log cannot be read, so its course has gaps.")
    elif known:
        lacks.append("The log of the run is missing, so its course is not shown.")
    target = manifest.get("target", {})
    plan, drawn = _read_plan(manifest, report)
    nodes = _draw(plan, history)
    return Run(
        name=report.model or str(manifest.get("name") or out.name),
        place=str(out),
        report=report,
        known=known,
        history=history,
        plan=plan if nodes else None,
        drawn=drawn if nodes else "",
        nodes=nodes,
        verdict=report.verdict or _read_verdict(manifest.get("verdict")),
        machine=str(target.get("machine") or target.get("mcpu") or ""),
        features=tuple(target.get("features", ())),
        bytes={name: _size(out / name) for name in manifest["sha256"]},
        bench=None if bench is None else read_bench(bench),
        lacks=tuple(lacks),
    )


def make_live_run(history: History, name: str, budget_seconds: float | None) -> Run:
    """A run that goes on, from what was heard of it so far.

    Args:
        history: its course so far.
        name: of the model.
        budget_seconds: of its budget; None: it has no time limit.
    """
    tasks = tuple(_live_task(each, history.tasks.get(each.key)) for each in history.functions)
    latencies = history.latencies
    report = TuneReport(
        model=name,
        budget_seconds=budget_seconds,
        wall_seconds=history.end,
        tasks=tasks,
        trials=sum(task.trials for task in tasks),
        before_seconds=latencies[0].seconds if latencies else None,
        after_seconds=latencies[-1].seconds if latencies else None,
    )
    return Run(name, "a run that goes on", report, known=False, history=history)


def _live_task(task: TaskFunctions, history: TaskHistory | None) -> TaskReport:
    rounds, space = ([], None) if history is None else (history.rounds, history.space)
    return TaskReport(
        name=task.name,
        kind="",
        key=task.key,
        weight=task.weight,
        flop=task.flop,
        best_seconds=rounds[-1].best if rounds else None,
        possible_seconds=(space.possible or None) if space is not None else None,
        touched_bytes=(space.touched or None) if space is not None else None,
        trials=sum(each.count for each in rounds),
        recorded=0 if space is None else space.recorded,
        rounds=len(rounds),
        failures={},
        exhausted=False,
        done=False,
        problem="",
    )


def read_bench(path: Path) -> Bench:
    """Read what ``tilewright bench --json`` wrote.

    Raises:
        OutputError: the file cannot be read, or is no such file.
    """
    content = _read_json(path, "what `tilewright bench --json` writes", "name another file with --bench")
    if isinstance(content, dict) and isinstance(buckets := content.get("buckets"), list) and buckets:
        first, *others = (_read_bucket(path, bucket) for bucket in buckets)
        return replace(first, others=tuple(others))
    return _read_bucket(path, content)


def _read_bucket(path: Path, content: Json) -> Bench:
    """What a file says of one bucket."""
    if not isinstance(content, dict) or not isinstance(content.get("peers"), dict):
        raise OutputError(f"a file of `tilewright bench --json` has peers, but {path} has none; name another file")
    ours = content.get("executable")
    peers = content["peers"]
    assert isinstance(peers, dict)
    return Bench(
        milliseconds=_number(ours.get("median_ms")) if isinstance(ours, dict) else None,
        peers=tuple(_read_peer(name, entry) for name, entry in peers.items()),
        shapes=str(content.get("shapes") or ""),
    )


def _read_peer(name: str, entry: Json) -> PeerTime:
    if not isinstance(entry, dict):
        return PeerTime(name, problem="not known")
    if "error" in entry:
        return PeerTime(name, problem=str(entry["error"]))
    return PeerTime(
        name,
        _number(entry.get("median_ms")),
        _number(entry.get("ratio")),
        _number(entry.get("ratio_low")),
        _number(entry.get("ratio_high")),
    )


def _read_report(out: Path) -> TuneReport:
    path = out / REPORT
    return decode(TuneReport, _read_json(path, "a report", "tune again") if path.is_file() else {})


def _read_json(path: Path, kind: str, remedy: str) -> Json:
    try:
        return parse_json(read_file(path, _MOST_REPORT))  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{kind} is a JSON file, but {path} cannot be read as one: {getattr(error, 'strerror', None) or error}; "
            f"{remedy}"
        ) from error


def _read_plan(manifest: Manifest, report: TuneReport) -> tuple[Plan | None, str]:
    """The plan, and the shapes that it is for, if there are several; None: there is none, or it is damaged."""
    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        if manifest["plan"] is not None:
            return Plan.from_json(manifest["plan"]), ""
        buckets = manifest.get("buckets") or []
        weights = [bucket.weight for bucket in report.buckets]
        place = weights.index(max(weights)) if weights and len(weights) == len(buckets) else len(buckets) - 1
        if buckets:
            shapes = (f"{each['name']}={'x'.join(map(str, each['shape']))}" for each in buckets[place]["inputs"])
            return Plan.from_json(buckets[place]["plan"]), " ".join(shapes)
    return None, ""


def _draw(plan: Plan | None, history: History) -> tuple[Node, ...]:
    """The calls of a plan as nodes; none: there is no plan, or it is damaged."""
    with contextlib.suppress(LookupError, TypeError, ValueError):
        return () if plan is None else tuple(draw_network(plan, history.functions))
    return ()


def _read_verdict(content: Json) -> Verdict | None:
    return decode(_Judged, {"verdict": content}).verdict


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
