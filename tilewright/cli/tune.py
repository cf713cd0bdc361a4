"""``tilewright tune``: makes a tuned executable of a model within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.completing import complete_from
from tilewright.cli.fleet import Cluster, FleetOption, KindOption, ModelsArgument, check_fleet, tune_several
from tilewright.cli.inputs import FixOption, SampleOption, ShapeOption, WeightOption, make_shape_request
from tilewright.cli.options import (
    JsonOption,
    RecordsOption,
    TargetOption,
    check_machine,
    check_model,
    check_out,
    check_target,
)
from tilewright.cli.precision import MaxErrorOption, PrecisionOption, check_precision, prepare_precision
from tilewright.cli.reference import ReferenceOption, check_reference, prepare_reference
from tilewright.cli.report import PAGE, write_report
from tilewright.cli.text import accuracy_table, milliseconds
from tilewright.cli.tuning import GO_ON, MethodNames, TuneOptions, check_sharing, make_display, run_tuning
from tilewright.cli.verbosity import Verbosity, remark, verbosity
from tilewright.errors import OutputError, TilewrightError
from tilewright.executable.replacing import reserve_out
from tilewright.interrupts import exit_code, holding
from tilewright.jsonable import to_json_object
from tilewright.scratch import scratch
from tilewright.tuning.budget import Budget
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.cli.live import LiveProgress
    from tilewright.tuning.report import TuneReport

__all__ = ["summary", "tell_page", "tune"]

#: The executable that an interrupted command leaves, by ``published`` of its report.
_PUBLISHED = {
    "tuned": "{out} holds the tuned executable, with the best schedules found so far",
    "incumbent": "{out} holds the incumbent, which is not tuned: it has default schedules, or the best on record",
    "earlier": "{out} still holds the earlier executable, untouched",
}
#: A command reports a time above this multiple of its budget.
_OVER = 1.05


@command
def tune(
    model: ModelsArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="The directory of the executable. By default the model's name and -tuned."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="The time of the whole command: 90s, 5m, 1h30m. By default 5m."),
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="The most candidates to measure.")] = None,
    target: TargetOption = "native",
    records: RecordsOption = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The seed of all random numbers.")] = 0,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_from("tilewright.methods.registry", "METHODS"),
            help="The method of the search: Tilewright's own (default), or a published system (autotvm, chameleon, "
            "schedule_sharing, gbfs, na2c or graph_cost_model).",
        ),
    ] = None,
    searcher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_from("tilewright.methods.parts", "SEARCHERS"),
            help="The searcher: random, annealing, genetic, ppo, gbfs, na2c or bayesian (the default).",
        ),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_from("tilewright.methods.parts", "SAMPLERS"),
            help="The sampler: top (the default), epsilon-greedy, diversity or adaptive.",
        ),
    ] = None,
    cost_model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The cost model to begin with: a file of 'tilewright cost train', or none. By default the "
            "shipped one.",
        ),
    ] = None,
    sharing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_from("tilewright.cli.tuning", "SHARING"),
            help="What similar tasks lend each other: own (clusters of similar programs, the best two configs), "
            "published (cliques of overlapping spaces, the best ten), or none; by default as the method has it.",
        ),
    ] = None,
    precision: PrecisionOption = "float32",
    max_error: MaxErrorOption = None,
    reference: ReferenceOption = None,
    shape: ShapeOption = None,
    sample: SampleOption = None,
    fix: FixOption = None,
    weight: WeightOption = None,
    fleet: FleetOption = None,
    kind: KindOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page on this machine while the run goes on (extra live).")
    ] = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Do not write report.html, a page about the run, into OUT.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Tune MODEL for this machine and write an executable. Ctrl-C keeps all measurements and still writes one."""
    # Cheap checks come before the import of the compiler, which takes seconds.
    if budget is None and trials is None:
        budget = "5m"
    options = TuneOptions(
        model=model[0],
        out=out or Path(f"{model[0].stem}-tuned"),
        budget=Budget(None, trials) if budget is None else Budget.parse(budget, trials),
        target=target,
        records=records,
        seed=seed,
        names=MethodNames(method, searcher, sampler, cost_model, sharing),
        verbosity=verbosity(),
        page=not no_report,
        live=live,
        precision=precision,
        max_error=max_error,
    )
    check_target(target)
    alone = len(model) == 1 and not fleet
    check_precision(precision, max_error, alone=alone)
    check_reference(reference, model[0], alone=alone)
    check_sharing(sharing)
    options = replace(options, request=make_shape_request(shape, sample, fix, weight))
    check_fleet(fleet, kind, model, target)
    if len(model) > 1 or len(kind or []) > 1 or kind == ["all"]:
        if live:
            raise TilewrightError(
                "--live serves the page of one run, but several models or kinds are named; leave it out, or name one"
            )
        tune_several(options, model, out, Cluster(fleet or "", tuple(kind or ())), json_file)
    else:
        cluster = Cluster(fleet or "", tuple(kind or ()))
        _tune_one(options, cluster, json_file, named=out is not None, reference=reference)


def _tune_one(
    options: TuneOptions, cluster: Cluster, json_file: Path | None, *, named: bool, reference: Path | None = None
) -> None:
    """Tune one model on this machine, or on the machines of one kind.

    Args:
        options: what is asked for.
        cluster: whose machines measure.
        json_file: is given the report; None: no file is.
        named: whether the user has named ``--out``.
        reference: the model that outputs are compared with besides; None: none.
    """
    from tilewright.cli import BEGAN

    out = options.out
    check_model(options.model)
    check_out(out)
    check_machine()
    if not named:  # said before the minutes of a tuning, and again with the result
        remark(f"no --out was given, so the executable goes to {out.absolute()}")
    with ExitStack() as ending, ExitStack() as stack:
        stack.enter_context(reserve_out(out))
        stack.enter_context(scratch())
        model = options.model
        options = prepare_reference(prepare_precision(options, stack), reference, model)
        progress = _serve_page(options) if options.live else None
        try:
            report, told = run_tuning(options, cluster, stack, BEGAN, progress)
        except BaseException:
            if progress is not None:
                progress.finish(None)
            raise
        ending.enter_context(holding())  # the work is done: only the report and the cleaning up are left
        write_json(json_file, to_json_object(report))
        print(out if verbosity() is Verbosity.QUIET else summary(report, out, told=told))
        if options.page:
            tell_page(out)
        if progress is not None:
            progress.finish(out)
    if report.interrupted:
        raise typer.Exit(exit_code())


def _serve_page(options: TuneOptions) -> LiveProgress:
    """Begin to serve the page of the run, beside the usual display."""
    from tilewright.cli.live import LiveProgress

    return LiveProgress(make_display(options.verbosity), options.model.stem, options.budget.seconds)


def tell_page(out: Path) -> None:
    """Write the page about the run. If that fails, the executable is there all the same."""
    try:
        write_report(out, out / PAGE)
        said = f"report: {out / PAGE}"
    except OutputError as error:
        said = f"note: {error}"
    if verbosity() is not Verbosity.QUIET:
        print(said)


def summary(report: TuneReport, out: Path, told: Sequence[str] = ()) -> str:
    """The report in a few lines, without the notes in ``told``."""
    failed = sum(report.failures.values())
    lines = [
        f"{counted(report.trials, 'trial')} in {report.wall_seconds:.1f} s "
        f"({report.trials_per_second:.1f} per second, {failed} failed)"
    ]
    disturbance = report.disturbance
    if disturbance.disturbed:
        lines.append(
            f"disturbed while timed: {counted(disturbance.disturbed, 'candidate')} ({', '.join(disturbance.causes)}); "
            f"timed again: {disturbance.remeasured}"
        )
    if report.interrupted:
        lines.append("interrupted" if report.unrecorded else f"interrupted; {GO_ON}")
        lines.append(_PUBLISHED[report.published].format(out=out))
    if report.before_seconds and report.after_seconds:
        lines.append(
            f"estimated latency: {milliseconds(report.before_seconds)} before, "
            f"{milliseconds(report.after_seconds)} after"
        )
    lines += [
        f"with {bucket.shapes}: {milliseconds(bucket.estimated_seconds)} estimated, {counted(bucket.tasks, 'task')}"
        for bucket in report.buckets
    ]
    lines += _summary_of_tasks(report)
    contest, race = report.in_place, report.final_race
    if contest is not None:
        lines.append(
            f"timed inside the network: another schedule is faster for {len(contest.exchanged)} of "
            f"{counted(contest.tasks, 'task')}: {contest.before_ms:.3f} ms before, {contest.after_ms:.3f} ms after"
        )
    if race is not None:
        rivals = f"tuned {race.tuned_ms:.3f} ms, incumbent {race.incumbent_ms:.3f} ms"
        kept = "" if race.kept == "tuned" else "; the incumbent is kept"
        lines.append(f"final race of whole executables: {rivals}{kept}")
    if report.runtime_race is not None:
        runtime = report.runtime_race
        rivals = f"executable {runtime.executable_ms:.3f} ms, ONNX Runtime {runtime.onnxruntime_ms:.3f} ms"
        lines.append(f"race against ONNX Runtime on the whole model: {rivals}; kept: {runtime.kept}")
    if report.verdict is not None:
        lines.append(f"outputs: {report.verdict.outcome.value}; {report.verdict.evidence}")
    if report.reference is not None:
        found = report.reference
        samples = counted(found.samples, "random sample" if found.random else "sample")
        lines.append(f"outputs against {found.model} in ONNX Runtime, on {samples}:\n{accuracy_table(found.outputs)}")
    lines += [f"note: {note}" for note in report.notes if note not in told]
    seconds, wall = report.budget_seconds, report.wall_seconds
    if seconds is not None and wall > _OVER * seconds:
        lines.append(
            f"over the budget of {seconds:g} s by {wall - seconds:.1f} s, to read, build and judge the network"
        )
    bench = f"tilewright bench {quote(str(out))} --against onnxruntime --against untuned"
    lines.append(f"executable: {out}; compare it with: {bench}")
    return "\n".join(lines)


def _summary_of_tasks(report: TuneReport) -> list[str]:
    """How many tasks run with what."""
    lines, count = [], counted(len(report.tasks), "task")
    defaults = set(report.default_tasks)
    untuned = sum(task.name in defaults and not task.trials and not task.recorded for task in report.tasks)
    if untuned:
        lines.append(f"not tuned, so with default schedules: {untuned} of {count}")
    if as_they_were := len(report.default_tasks) - untuned:
        lines.append(f"tuned, but with default schedules: {as_they_were} of {count}")
    shared = report.sharing
    if shared is not None and shared.compared:
        best = sum(loan.best for loan in shared.borrowed)
        lines.append(
            f"borrowed configs won {shared.won:g} of {counted(shared.compared, 'round')} "
            f"and are the best in {counted(best, 'task')}"
        )
    return lines
