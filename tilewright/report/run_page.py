"""The page of a run: what was gained, where the time goes, what more budget is worth, and whether to trust it."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.report import figures as fmt
from tilewright.report.choices import choices_section
from tilewright.report.content import Chart, Headline, Page, Section, Table
from tilewright.report.facts import TaskFacts, copies, describe_tasks, find_gain, find_peers, latency
from tilewright.report.graph_chart import graph_chart
from tilewright.report.html import render
from tilewright.report.machine import roofline_facts
from tilewright.report.run import Run
from tilewright.report.run_charts import (
    latency_chart,
    machine_chart,
    memory_chart,
    peers_chart,
    peers_table,
    phases_chart,
)
from tilewright.report.run_shapes import shapes_section
from tilewright.report.search_charts import search_choice
from tilewright.report.task_charts import roofline_chart, time_chart
from tilewright.tuning.report import TuneReport
from tilewright.verify.verdict import Outcome
from tilewright.wording import counted

__all__ = ["render_run", "run_page"]

_PUBLISHED = {
    "tuned": "the tuned executable",
    "incumbent": "the incumbent, which is not tuned",
    "onnxruntime": "ONNX Runtime on the whole model",
    "earlier": "an earlier executable, which was not touched",
}
#: Tasks of which the page says what more trials are worth.
_WORTH = 5
#: The most bytes of a page, and the numbers of candidates that are tried, one after the other, to keep to that.
_MOST_BYTES, _MOST_TRIALS = 1_450_000, (6000, 3000, 1500, 500, 0)


def render_run(run: Run) -> str:
    """The page of a run as HTML of less than 1.5 MB: of long runs it has fewer candidates."""
    text = ""
    for most in _MOST_TRIALS:
        text = render(run_page(run, most_trials=most))
        if len(text) < _MOST_BYTES:
            break
    return text


def run_page(run: Run, *, most_trials: int = _MOST_TRIALS[0], live: str = "", state: str = "") -> Page:
    """The page of a run.

    Args:
        run: what happened.
        most_trials: the most candidates that it holds.
        live: the address of the page's updates; empty: the run has ended.
        state: what goes on at the moment.
    """
    facts = describe_tasks(run)
    sections = (
        _gain(run),
        shapes_section(run),
        _time(run, facts),
        _worth(run, facts),
        _trust(run),
        _search(run, facts, most_trials),
        choices_section(run, facts),
        _course(run),
        _machine(run),
    )
    report = run.report
    cores = f"{report.cores} cores" if report.cores else ""
    about = [part for part in (report.machine or run.machine, cores, report.date) if part]
    return Page(
        title=run.name,
        subtitle=", ".join(about) or run.place,
        headlines=_headlines(run, facts),
        sections=tuple(section for section in sections if _says_something(section)),
        footer="This page follows the run." if live else f"Made by tilewright report from {run.place}.",
        live=live,
        state=state,
    )


def _says_something(section: Section) -> bool:
    parts = (section.lead, section.charts, section.tables, section.facts, section.points)
    return any(parts) or section.choice is not None


def _headlines(run: Run, facts: Sequence[TaskFacts]) -> tuple[Headline, ...]:
    """The numbers at the top."""
    found, gain = [], find_gain(run)
    if gain is not None and gain.ratio:
        than = "before tuning" if gain.name == "before tuning" else "TVM's own build"
        found.append(
            Headline(
                fmt.significant(gain.speed),
                "\u00d7",
                f"as fast as {than}",
                f"95 %: {fmt.interval(gain.slowest, gain.fastest)}",
                True,
            )
        )
    elif (race := run.report.final_race) is not None and race.kept == "incumbent":
        interval = fmt.interval(race.ratio_low, race.ratio_high)
        found.append(
            Headline("no gain", "", "the final race kept what was before", f"tuned / before, 95 %: {interval}")
        )
    elif run.report.published == "tuned" and run.report.before_seconds and run.report.after_seconds:
        ratio = run.report.before_seconds / run.report.after_seconds
        found.append(Headline(fmt.significant(ratio), "\u00d7", "estimated, against first results", "not raced", True))
    now = latency(run)
    if now is not None:
        # The digits of less than 0.01 ms do not fit a line.
        value, unit = (fmt.milliseconds(now), "ms") if now >= 1e-5 else (fmt.significant(1e6 * now), "\u00b5s")
        found.append(Headline(value, unit, "a run takes", "median"))
    runtime = next((peer for peer in find_peers(run) if peer.name == "onnxruntime" and peer.ratio), None)
    if runtime is not None:
        found.append(
            Headline(
                fmt.significant(runtime.speed),
                "\u00d7",
                "as fast as ONNX Runtime",
                f"95 %: {fmt.interval(runtime.slowest, runtime.fastest)}",
            )
        )
    reached = _reached(facts)
    if reached is not None:
        found.append(Headline(f"{100 * reached:.0f}", "%", "of the roofline", "weighted by time"))
    if run.verdict is not None:
        words = {Outcome.RIGHT: "right", Outcome.WRONG: "wrong", Outcome.UNDECIDABLE: "not decidable"}
        error = "" if run.verdict.error is None else f"largest error {run.verdict.error:.1e}"
        found.append(Headline(words[run.verdict.outcome], "", "outputs", error))
    return tuple(found)


def _reached(facts: Sequence[TaskFacts]) -> float | None:
    """The share of the roofline that the network reaches."""
    known = [(each.seconds, each.bound) for each in facts if each.seconds and each.bound]
    total = sum(seconds for seconds, _ in known)
    return min(1.0, sum(bound for _, bound in known) / total) if total else None


def _charts(*charts: Chart | None) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _gain(run: Run) -> Section:
    lead, gain, now = [], find_gain(run), latency(run)
    if gain is not None and gain.ratio and gain.milliseconds:
        than = "with the schedules before tuning" if gain.name == "before tuning" else f"as {gain.name}"
        lead.append(
            f"Raced by turns, a run took {fmt.significant(gain.ratio * gain.milliseconds)} ms, and "
            f"{fmt.significant(gain.milliseconds)} ms {than}."
        )
    elif (race := run.report.final_race) is not None and race.kept == "incumbent":
        lead.append(
            f"Raced by turns, a run of the tuned executable took {fmt.significant(race.tuned_ms)} ms, and "
            f"{fmt.significant(race.incumbent_ms)} ms with the schedules before tuning, which were kept."
        )
    elif run.report.before_seconds and run.report.after_seconds:
        lead.append(
            f"The estimated latency fell from {fmt.milliseconds(run.report.before_seconds)} ms, when every task had "
            f"its first result, to {fmt.milliseconds(run.report.after_seconds)} ms. It was not raced as a whole."
        )
    runtime = run.report.runtime_race
    if runtime is not None and runtime.kept == "onnxruntime":
        lead.append(
            f"ONNX Runtime took {fmt.significant(runtime.onnxruntime_ms)} ms on the whole model, and the executable "
            f"{fmt.significant(runtime.executable_ms)} ms, so ONNX Runtime runs it."
        )
    peers = find_peers(run)
    if run.known and not lead and not peers:
        lead.append("Nothing was raced, so the gain is not known. A longer budget leaves time for races.")
    if run.known:
        lead.append(f"The directory holds {_PUBLISHED.get(run.report.published, run.report.published)}.")
    lead += run.lacks
    chart = peers_chart(run)
    tables = (peers_table(peers, now),) if peers and chart is None else ()
    return Section("gain", "What did I gain?", tuple(lead), _charts(chart, latency_chart(run)), tables)


def _time(run: Run, facts: Sequence[TaskFacts]) -> Section:
    known = [each for each in facts if each.seconds]
    lead = []
    if known:
        first = known[: max(1, min(3, len(known)))]
        share = sum(each.share or 0.0 for each in first)
        lead.append(f"{counted(len(first), 'task')} of {len(known)} take {fmt.percent(share, 2)} of the time.")
        if any(each.in_place for each in facts):
            lead.append("Kernels were timed in their places in the running network.")
            if (spent := copies(run)) > 0.0:
                lead.append(f"Copies and parts of other runtimes take {fmt.milliseconds(spent)} ms besides.")
        else:
            lead.append("Each task was timed alone, and its time multiplied by its calls.")
        if len(run.report.buckets) > 1:
            lead.append("The tasks of all input shapes are counted together, by their shares of the tuning.")
    return Section(
        "time",
        "Where does the time go?",
        tuple(lead),
        _charts(time_chart(facts), graph_chart(run, facts), roofline_chart(run.report.roofline, facts)),
    )


def _worth(run: Run, facts: Sequence[TaskFacts]) -> Section:
    """What more budget is worth."""
    hopeful = sorted((each for each in facts if each.saving > 0), key=lambda each: -each.saving)
    total = sum(each.seconds or 0.0 for each in facts)
    if not total:
        return Section("worth", "What is worth more of my budget?")
    saving = sum(each.saving for each in hopeful)
    untried = [
        each for each in facts if not each.report.trials and not each.report.recorded and not each.report.problem
    ]
    lead = []
    if hopeful:
        lead.append(
            f"Twice as many trials are expected to save {fmt.milliseconds(saving)} ms, or "
            f"{fmt.percent(saving / total)} of the time, by the mean learning curve and within the rooflines."
        )
    if untried:
        lead.append(f"{counted(len(untried), 'task')} had no trial at all. A larger budget reaches such tasks first.")
    table = Table(
        ("task", "trials", "ms per run", "expected saving ms", "room to the roofline ms"),
        tuple(
            (
                each.report.name,
                fmt.count(each.report.trials + each.report.recorded),
                fmt.milliseconds(each.seconds),
                fmt.milliseconds(each.saving),
                fmt.milliseconds(max(0.0, (each.seconds or 0.0) - (each.bound or 0.0)) if each.bound else None),
            )
            for each in hopeful[:_WORTH]
        ),
        1,
        "Tasks for which more trials promise most",
    )
    return Section("worth", "What is worth more of my budget?", tuple(lead), tables=(table,) if hopeful else ())


def _reference_facts(report: TuneReport) -> list[tuple[str, str]]:
    """How the outputs differ from those of the model that ``--reference`` names."""
    if report.reference is None:
        return []
    return [
        (
            f"Output {output.name} against {report.reference.model}",
            f"cosine {output.cosine:.6f}, largest relative error {fmt.significant(output.largest_relative_error)}",
        )
        for output in report.reference.outputs
    ]


def _trust(run: Run) -> Section:
    report, verdict, lead = run.report, run.verdict, []
    facts: list[tuple[str, str]] = []
    if verdict is not None:
        facts.append(("Outputs", verdict.outcome.value))
        if verdict.error is not None:
            facts.append(("Largest error", f"{verdict.error:.2e} of the largest output"))
        if verdict.inputs:
            facts.append(("Judged on", counted(verdict.inputs, "input")))
        if verdict.precision:
            facts.append(("Reference", verdict.precision))
        lead.append(f"{verdict.evidence[:1].upper()}{verdict.evidence[1:]}." if verdict.evidence else "")
    else:
        later = run.history.running() is not None
        lead.append("The outputs are judged later." if later else "No verdict on the outputs is known.")
    race = report.final_race
    if race is not None:
        facts.append(
            (
                "Final race",
                f"tuned {fmt.significant(race.tuned_ms)} ms, before {fmt.significant(race.incumbent_ms)} ms; "
                f"kept: {race.kept}",
            )
        )
    contest = report.in_place
    if contest is not None:
        facts.append(
            (
                "Timed in the network",
                f"{len(contest.exchanged)} of {counted(contest.tasks, 'task')} got another schedule: "
                f"{fmt.significant(contest.before_ms)} ms before, {fmt.significant(contest.after_ms)} ms after",
            )
        )
    if report.disturbance.disturbed:
        facts.append(
            (
                "Disturbed while timed",
                f"{counted(report.disturbance.disturbed, 'candidate')} "
                f"({', '.join(f'{cause} {n}' for cause, n in report.disturbance.causes.items())}); "
                f"timed again: {report.disturbance.remeasured}",
            )
        )
    facts += _reference_facts(report)
    if report.unchecked_kernels:
        facts.append(("Not compared with defaults", counted(len(report.unchecked_kernels), "kernel")))
    points = [f"{name}: {why}" for name, why in report.wrong_kernels.items()]
    points += [f"{name} spoiled the outputs, and got another schedule." for name in report.replaced_tasks]
    points += report.notes
    return Section(
        "trust",
        "Can I trust it?",
        tuple(filter(None, lead)),
        _charts(machine_chart(run)),
        (),
        tuple(facts),
        None,
        tuple(points),
    )


def _search(run: Run, facts: Sequence[TaskFacts], most_trials: int) -> Section:
    choice = search_choice(run, facts, most_trials)
    lead = []
    if run.report.method:
        lead.append(
            f"The method was {run.report.method}: {counted(run.report.trials, 'trial')}, "
            f"{fmt.significant(run.report.trials_per_second)} per second."
        )
    return Section("search", "What the searcher tried", tuple(lead) if choice else (), choice=choice)


def _course(run: Run) -> Section:
    report = run.report
    lead = []
    if report.wall_seconds and report.budget_seconds:
        begin = "The command has taken" if run.history.running() is not None else "The command took"
        spent, budget = fmt.seconds(report.wall_seconds), fmt.seconds(report.budget_seconds)
        lead.append(f"{begin} {spent} s of a budget of {budget} s.")
    tables = []
    plan = report.budget_plan or {}
    rows = []
    for name, step in plan.items():
        if isinstance(step, dict):
            planned = step.get("seconds")
            rows.append(
                (
                    name,
                    str(step.get("why") or ""),
                    fmt.seconds(planned) if isinstance(planned, int | float) else "no limit",
                )
            )
    if rows:
        tables.append(Table(("step", "why", "planned s"), tuple(rows), 2, "How the budget was planned"))
    return Section(
        "course", "How the run went", tuple(lead), _charts(phases_chart(run), memory_chart(run)), tuple(tables)
    )


def _machine(run: Run) -> Section:
    report, roofline = run.report, run.report.roofline or {}
    facts = [
        ("Processor", report.machine or run.machine),
        ("Cores", str(report.cores or "")),
        ("Target", report.target),
        ("Caches while timing", report.caches),
        ("Extensions", ", ".join(run.features)),
        ("Date", report.date),
        (
            "Executable",
            f"{fmt.megabytes(sum(run.bytes.values()))} MB in {counted(len(run.bytes), 'file')}" if run.bytes else "",
        ),
        ("Largest worker", f"{fmt.megabytes(report.worker_peak_bytes)} MB" if report.worker_peak_bytes else ""),
    ]
    facts += roofline_facts(roofline)
    nodes = Table(
        ("node", "state", "kind", "cores", "trials"),
        tuple(
            (n.name, f"{n.state} {n.reason}".strip(), n.kind, str(n.cores), fmt.count(n.trials)) for n in report.nodes
        ),
        3,
        "Nodes of the fleet",
    )
    return Section(
        "machine", "The machine", (), (), (nodes,) if report.nodes else (), tuple((n, v) for n, v in facts if v)
    )
