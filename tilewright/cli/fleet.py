"""``tilewright tune`` on many machines: its options, and several models or kinds of machine in one command."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias, cast

import typer

from tilewright.cli.boundary import write_json
from tilewright.cli.options import check_machine, check_model, check_out, records_place
from tilewright.cli.verbosity import Verbosity, remark, verbosity
from tilewright.errors import TilewrightError
from tilewright.interrupts import exit_code
from tilewright.jsonable import to_json_object
from tilewright.measure.process import ChildProcess, Lost

if TYPE_CHECKING:
    from tilewright.cli.tuning import TuneOptions
    from tilewright.fleet.away import Away
    from tilewright.fleet.fleet import Fleet
    from tilewright.target import Caches
    from tilewright.tuning.context import Workplace
    from tilewright.tuning.progress import Progress
    from tilewright.tuning.report import TuneReport

__all__ = ["Cluster", "FleetOption", "KindOption", "ModelsArgument", "check_fleet", "tune_several"]

ModelsArgument: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL", help="The model: an ONNX file, or a .pt2 file of torch.export.save. With --fleet also several."
    ),
]
FleetOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Measure on the nodes of a Ray cluster: ray://HOST:10001, HOST:6379, auto, or local, which starts one "
        "here. Needs the extra fleet.",
    ),
]
KindOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help="With --fleet: the kind of machine to tune for, such as znver4-8x (the beginning suffices), or all; "
        "several make an executable for each. Needed where the fleet has several kinds.",
    ),
]
#: Seconds between two lines of progress of a model.
_EVERY = 5.0


@dataclass(frozen=True)
class Cluster:
    """Whose machines measure.

    Attributes:
        address: of the cluster; empty: this machine measures.
        kinds: of machines; empty: the only one that there is.
        namespace: of the nodes' actors that another process has started; empty: this one starts them.
    """

    address: str
    kinds: tuple[str, ...] = ()
    namespace: str = ""

    @contextmanager
    def place(self, target: str, progress: Progress) -> Iterator[str | Workplace | Away]:
        """Where a command tunes: on this machine, here with the nodes of one kind, or on a node of another kind.

        Raises:
            FleetError: there is no cluster, or none of its nodes can measure what is wanted.
            MissingExtraError: Ray is not installed.
        """
        if not self.address:
            yield target
            return
        from tilewright.fleet.away import Away
        from tilewright.fleet.cluster import connected
        from tilewright.fleet.fleet import Fleet
        from tilewright.fleet.place import choose_kinds, is_own, workplace_of

        with connected(self.address, self.namespace) as crew:
            fleet = Fleet(crew, lambda line: progress.announce([line]))
            progress.announce([f"waiting for the nodes of the fleet ({self.address})"])
            fleet.gather()
            kind = choose_kinds(fleet, self.kinds)[0]
            if is_own(fleet.kinds[kind]):
                yield workplace_of(fleet, kind, cast("Caches", target.partition(":")[2] or "warm"))
            else:
                from tilewright.fleet.ray_post import hire_ray

                progress.announce([f"nodes of kind {kind} tune for their kind: this machine is of another one"])
                yield Away(fleet, kind, hire_ray)

    def joined(self) -> Cluster:
        """The cluster for other processes, which join this one's connection. To be asked for while there is one."""
        from tilewright.fleet.cluster import joining

        address, namespace = joining(self.address)
        return replace(self, address=address, namespace=namespace)


def check_fleet(address: str | None, kinds: Sequence[str] | None, models: Sequence[Path], target: str) -> None:
    """Refuse options that cannot go together, before anything is imported.

    Raises:
        TilewrightError: there are kinds or several models without a fleet, or a target that no fleet has.
        FleetError: the address has not the form of one.
    """
    if address is None:
        if kinds:
            raise TilewrightError("--kind chooses among the machines of a fleet, but there is no --fleet; name one")
        if len(models) > 1:
            raise TilewrightError(
                f"without --fleet one model is tuned at a time, but these are {len(models)}; tune them one by one, or "
                "add --fleet local"
            )
        return
    from tilewright.fleet.cluster import check_address

    check_address(address)
    if target.partition(":")[0] != "native":
        raise TilewrightError(f"a fleet tunes for the machines that it has, but --target is {target!r}; use --kind")


@dataclass
class _Job:
    """One model for one kind of machine, in a process of its own.

    Attributes:
        error: why it has no report: the class of the error, its message, and the exit code.
    """

    options: TuneOptions
    kind: str
    process: ChildProcess
    report: TuneReport | None = None
    error: tuple[str, str, int] | None = None
    next: float = 0.0
    told: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.options.model.stem} for {self.kind}"

    @property
    def ended(self) -> bool:
        return self.report is not None or self.error is not None


def tune_several(
    options: TuneOptions, models: Sequence[Path], out: Path | None, cluster: Cluster, json_file: Path | None
) -> None:
    """Tune several models, or for several kinds of machine, at once. Each has its budget and its executable.

    Args:
        options: what is asked for each.
        models: their files.
        out: the directory for the directories of the executables; None: the current one.
        cluster: whose machines measure.
        json_file: gets the reports.

    Raises:
        TilewrightError: bad input, before anything is tuned.
        Exit: a model could not be tuned, or there was an interrupt.
    """
    for model in models:
        check_model(model)
    check_machine()
    options = replace(options, records=str(records_place(options.records)))
    from tilewright.fleet.cluster import connected, joining
    from tilewright.fleet.fleet import Fleet
    from tilewright.fleet.place import choose_kinds
    from tilewright.records.fallback import open_for_tuning

    with ExitStack() as stack:
        open_for_tuning(str(options.records)).close()  # its errors come before anything is tuned
        crew = stack.enter_context(connected(cluster.address))
        fleet = Fleet(crew, remark)
        remark(f"waiting for the nodes of the fleet ({cluster.address})")
        fleet.gather()
        kinds = choose_kinds(fleet, cluster.kinds)
        jobs = []
        address, namespace = joining(cluster.address)
        for model, kind in [(model, kind) for model in models for kind in kinds]:
            place = (out or Path()) / (f"{model.stem}-tuned" + (f"-{kind}" if len(kinds) > 1 else ""))
            check_out(place)
            asked = replace(options, model=model, out=place)
            process = ChildProcess("tuning several models needs processes", "tilewright.cli.fleet_job")
            stack.callback(process.kill)
            process.send((asked, Cluster(address, (kind,), namespace)))
            jobs.append(_Job(asked, kind, process))
        interrupted = _follow(jobs, fleet)
    _conclude(jobs, fleet, json_file, interrupted=interrupted)


def _follow(jobs: Sequence[_Job], fleet: Fleet) -> bool:
    """Show how the jobs go until all have ended. Returns whether they were interrupted."""
    interrupts = 0
    while not all(job.ended for job in jobs):
        try:
            fleet.events(0.2)
            for job in jobs:
                while not job.ended and job.process.connection.poll(0):
                    _take(job, job.process.receive(), fleet)
        except KeyboardInterrupt:  # each job ends as a command of its own does
            interrupts += 1
            for job in jobs:
                if not job.ended:
                    os.kill(job.process.pid, signal.SIGINT)
            if interrupts > 1:
                raise
    return interrupts > 0


def _take(job: _Job, message: object, fleet: Fleet) -> None:
    """Take in what a job says."""
    if isinstance(message, Lost):
        job.error = ("MeasureError", f"its process ended: {message.reason}", 2)
        return
    assert isinstance(message, tuple)
    what, value = message
    if what == "report":
        job.report, job.told = value
    elif what == "error":
        job.error = value
    elif what == "lines":
        for line in value:
            remark(f"{job.name}: {line}")
    else:
        line, excluded = value
        for name, reason in excluded:  # one job has found out; the others must not trust the node either
            fleet.exclude_named(name, reason)
        if time.monotonic() >= job.next:
            job.next = time.monotonic() + _EVERY
            remark(f"{job.name}: {line}")


def _trials_of(name: str, jobs: Sequence[_Job]) -> int:
    """What a node has measured for all jobs together."""
    reports = [job.report for job in jobs if job.report is not None]
    return sum(node.trials for report in reports for node in report.nodes if node.name == name)


def _conclude(jobs: Sequence[_Job], fleet: Fleet, json_file: Path | None, *, interrupted: bool = False) -> None:
    """Report, and exit as an interrupted command; with 1 if a job met a bug or wrong outputs; with 2 for bad input."""
    from tilewright.cli.tune import summary, tell_page

    reports = []
    for job in jobs:
        about = {"file": str(job.options.model), "kind": job.kind, "out": str(job.options.out)}
        if job.report is not None:
            quiet = verbosity() is Verbosity.QUIET
            said = f"{job.name}:\n{summary(job.report, job.options.out, told=job.told)}"
            typer.echo(job.options.out if quiet else said)
            if job.options.page:
                tell_page(job.options.out)
            if not quiet:
                typer.echo()
            reports.append({**about, **to_json_object(job.report)})
        elif job.error is not None:
            kind, message, _ = job.error
            before = "" if kind == "KeyboardInterrupt" else "error: "
            typer.echo(f"{before}{job.name}: {message}", err=True)
            reports.append({**about, "error": {"type": kind, "message": message}})
    nodes = [replace(node, trials=_trials_of(node.name, jobs)) for node in fleet.report()]
    write_json(json_file, {"models": reports, "nodes": [to_json_object(node) for node in nodes]})
    code = min((job.error[2] for job in jobs if job.error is not None), default=0)
    if interrupted or code:
        raise typer.Exit(exit_code() if interrupted else code)
