"""``tilewright tune``: a model in, an executable out, within a budget."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import (
    JsonOption,
    ModelArgument,
    RecordsOption,
    ShapeOption,
    TargetOption,
    begin_reading,
    check_machine,
    check_model,
    check_out,
    check_target,
    parse_shapes,
    records_place,
)
from tilewright.cli.text import milliseconds
from tilewright.errors import TilewrightError
from tilewright.executable.replacing import reserve_out
from tilewright.interrupts import exit_code, holding
from tilewright.scratch import scratch
from tilewright.tuning.budget import Budget
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.methods.method import Method
    from tilewright.share.policy import Sharing

__all__ = ["tune"]

#: Names of ways to share.
SHARING = ("own", "published", "none")
#: Which executable an interrupted command leaves, by ``published`` of its report.
_PUBLISHED = {
    "tuned": "{out} holds the tuned executable, with the best schedules found so far",
    "incumbent": "{out} holds the incumbent, which is not tuned: it has default schedules, or the best on record",
    "earlier": "{out} still holds the earlier executable, untouched",
}
#: A command that takes longer than its budget by more than this factor says so.
_OVER = 1.05
_GO_ON = "the measurements are in the records, and the same command goes on from them"


@command
def tune(
    model: ModelArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", help="Where to write the executable; by default the model's name and -tuned."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Wall-clock time of the whole command: 90s, 5m, 1h30m; by default 5m."),
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="The most candidates to measure.")] = None,
    target: TargetOption = "native",
    records: RecordsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of all random numbers.")] = 0,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A whole published system, or Tilewright's own: default, autotvm, chameleon, schedule_sharing, gbfs, "
            "na2c or graph_cost_model.",
        ),
    ] = None,
    searcher: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="random, annealing, genetic, ppo, gbfs, na2c or bayesian."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="top, epsilon-greedy, diversity or adaptive; by default top."),
    ] = None,
    cost_model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The cost model to start from: a file of 'tilewright cost train', or none; by default our own.",
        ),
    ] = None,
    sharing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What similar tasks lend each other, and earlier networks in the records lend them: own (clusters of "
            "similar programs, and one cost model), published (cliques of overlapping spaces), or none; by default as "
            "the method has it.",
        ),
    ] = None,
    shape: ShapeOption = None,
    json_file: JsonOption = None,
) -> None:
    """Tune MODEL for this machine and write an executable. Ctrl-C keeps all measurements and still writes one."""
    from tilewright.cli import BEGAN

    # What is cheap to refuse is refused before the compiler is imported, which takes seconds.
    if budget is None and trials is None:
        budget = "5m"
    limits = Budget(None, trials) if budget is None else Budget.parse(budget, trials)
    out = out or Path(f"{model.stem}-tuned")
    check_target(target)
    if sharing is not None and sharing not in SHARING:
        raise TilewrightError(f"--sharing is one of {', '.join(SHARING)}, but this is {sharing!r}; correct it")
    shapes = parse_shapes(shape)
    check_model(model)
    check_out(out)
    check_machine()
    with ExitStack() as stack:
        stack.enter_context(reserve_out(out))
        stack.enter_context(scratch())
        how = _method(method, searcher, sampler, cost_model)
        place = records_place(records)
        reading = stack.enter_context(begin_reading(model, shapes))
        from tilewright.records.fallback import open_for_tuning

        store = open_for_tuning(place, tell=lambda note: print(note, file=sys.stderr))
        stack.callback(store.close)
        from tilewright.tuning.progress import progress_for
        from tilewright.tuning.session import tune as run_session

        try:
            result = run_session(
                reading,
                out,
                budget=limits,
                target=target,
                records=store,
                shapes=shapes,
                seed=seed,
                method=how,
                sharing=_sharing(sharing),
                progress=progress_for(),
                began=BEGAN,
            )
        except KeyboardInterrupt:  # before there was an executable, or a second one
            earlier = "; {out} still holds the earlier one, untouched" if (out / "manifest.json").is_file() else ""
            go_on = "" if store.kept else f"; {_GO_ON}"
            print(f"no executable was written{earlier.format(out=out)}{go_on}", file=sys.stderr)
            raise
    with holding():  # it is done; what is left is to say so
        write_json(json_file, result.report)
        print(summary(result.report, out, told=store.notes))
    if result.report["interrupted"]:
        raise typer.Exit(exit_code())


def _method(name: str | None, searcher: str | None, sampler: str | None, cost_model: str | None) -> Method:
    """How tasks are searched, by the names and the file that the command was given."""
    if name is not None and (searcher is not None or sampler is not None):
        raise TilewrightError(
            "--method names a whole system, and --searcher and --sampler its parts, but this command has both; "
            "leave one of them out"
        )

    from tilewright.methods.default import known_beforehand
    from tilewright.methods.parts import DEFAULT_SEARCHER, combine
    from tilewright.methods.registry import METHODS, make_method

    if name is not None and name not in METHODS:
        raise TilewrightError(f"a method is one of {', '.join(METHODS)}, but this is {name!r}; correct --method")
    # The published systems knew nothing beforehand.
    alone = cost_model == "none" or (cost_model is None and name not in (None, "default"))
    prior, problem = (None, "") if alone else known_beforehand(Path(cost_model) if cost_model else None)
    if problem:
        print(problem, file=sys.stderr)
    if searcher is not None or sampler is not None:
        return combine(searcher or DEFAULT_SEARCHER, sampler or "top", prior=prior)
    return make_method(name or "default", prior)


def _sharing(name: str | None) -> Sharing | bool:
    """What tasks borrow, by the name that the command was given; True: as the method has it."""
    from tilewright.share.policy import Sharing

    policies: dict[str | None, Sharing | bool] = {
        None: True,
        "own": Sharing(),
        "published": Sharing.published(),
        "none": False,
    }
    return policies[name]


def summary(report: Mapping[str, Any], out: Path, told: Sequence[str] = ()) -> str:
    """What came of it, in a few lines; says only what the report holds, and no note of ``told`` again."""
    failures = sum(report.get("failures", {}).values())
    lines = [
        f"{counted(report.get('trials', 0), 'trial')} in {report.get('wall_seconds', 0.0):.1f} s "
        f"({report.get('trials_per_second', 0.0):.1f} per second, {failures} failed)"
    ]
    disturbed = report.get("disturbance", {}).get("disturbed", 0)
    if disturbed:
        causes = ", ".join(report["disturbance"]["causes"])
        again = report["disturbance"]["remeasured"]
        lines.append(f"disturbed while timed: {counted(disturbed, 'candidate')} ({causes}); timed again: {again}")
    if report.get("interrupted"):
        lines.append("interrupted" if report.get("unrecorded") else f"interrupted; {_GO_ON}")
        lines.append(_PUBLISHED[report.get("published", "tuned")].format(out=out))
    before, after = report.get("before_seconds"), report.get("after_seconds")
    if before and after:
        lines.append(f"estimated latency: {milliseconds(before)} before, {milliseconds(after)} after")
    tasks, defaults = report.get("tasks", []), report.get("default_tasks", [])
    untuned = sum(task["name"] in defaults and not task["trials"] and not task["recorded"] for task in tasks)
    if untuned:
        lines.append(f"not tuned, so with default schedules: {untuned} of {counted(len(tasks), 'task')}")
    if as_they_were := len(defaults) - untuned:
        lines.append(f"tuned, but with default schedules: {as_they_were} of {counted(len(tasks), 'task')}")
    shared = report.get("sharing", {})
    if shared.get("compared"):
        best = sum(loan["best"] for loan in shared["borrowed"])
        lines.append(
            f"borrowed configs won {shared['won']:g} of {counted(int(shared['compared']), 'round')} "
            f"and are the best in {counted(best, 'task')}"
        )
    contest = report.get("in_place")
    if contest is not None:
        lines.append(
            f"timed inside the network: another schedule is faster for {len(contest['exchanged'])} of "
            f"{counted(contest['tasks'], 'task')}: {contest['before_ms']:.3f} ms before, "
            f"{contest['after_ms']:.3f} ms after"
        )
    race = report.get("final_race")
    if race is not None:
        rivals = f"tuned {race['tuned_ms']:.3f} ms, incumbent {race['incumbent_ms']:.3f} ms"
        kept = "" if race["kept"] == "tuned" else "; the incumbent is kept"
        lines.append(f"final race of whole executables: {rivals}{kept}")
    verdict = report.get("verdict")
    if verdict is not None:
        lines.append(f"outputs: {verdict['outcome']}; {verdict['evidence']}")
    lines += [f"note: {note}" for note in report.get("notes", []) if note not in told]
    seconds, wall = report.get("budget_seconds"), report.get("wall_seconds", 0.0)
    if seconds is not None and wall > _OVER * seconds:
        lines.append(
            f"over the budget of {seconds:g} s by {wall - seconds:.1f} s, to read, build and judge the network"
        )
    lines.append(f"executable: {out}; compare it with: tilewright bench {out} --against onnxruntime --against untuned")
    return "\n".join(lines)
