"""The page that compares two runs of one model."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.jsonable import JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Headline, Page, Section, Table
from tilewright.report.facts import TaskFacts, describe_tasks, latency
from tilewright.report.run import Run
from tilewright.report.specs import axis, field, layers, mark, spec, tooltip

__all__ = ["comparison_page"]

#: Tasks that are drawn: those whose time differs most.
_DRAWN = 20
_FIRST, _SECOND = "first", "second"


def comparison_page(first: Run, second: Run) -> Page:
    """The page that says what differs between two runs: latency, tasks, course and machine."""
    before, after = latency(first), latency(second)
    headlines = []
    if before and after:
        headlines.append(
            Headline(
                fmt.significant(before / after), "\u00d7", "as fast: second against first", "two separate timings", True
            )
        )
        headlines += [
            Headline(fmt.milliseconds(value), "ms", f"a run of the {name}", "median")
            for name, value in ((_FIRST, before), (_SECOND, after))
        ]
    notes = []
    if first.name != second.name:
        notes.append(
            f"The models differ: the first is {first.name}, the second {second.name}. Only equal tasks are compared."
        )
    if first.report.machine != second.report.machine or first.report.target != second.report.target:
        notes.append("They were tuned for different machines, so their times do not tell which schedules are better.")
    notes += [f"{name}: {lack}" for name, run in ((_FIRST, first), (_SECOND, second)) for lack in run.lacks]
    sections = (
        Section("summary", "What differs", tuple(notes), (), (_summary(first, second),)),
        _tasks(describe_tasks(first), describe_tasks(second)),
        Section("course", "How the runs went", (), tuple(filter(None, (_course(first, second),)))),
    )
    return Page(
        title=first.name if first.name == second.name else f"{first.name} and {second.name}",
        subtitle=f"{first.place} against {second.place}",
        headlines=tuple(headlines),
        sections=tuple(s for s in sections if s.charts or s.tables),
        footer=f"Made by tilewright report from {first.place} and {second.place}.",
    )


def _summary(first: Run, second: Run) -> Table:
    rows = [
        ("model", first.name, second.name),
        ("machine", first.report.machine, second.report.machine),
        ("date", first.report.date, second.report.date),
        ("method", first.report.method, second.report.method),
        ("budget, s", fmt.seconds(first.report.budget_seconds), fmt.seconds(second.report.budget_seconds)),
        ("trials", fmt.count(first.report.trials), fmt.count(second.report.trials)),
        ("a run, ms", fmt.milliseconds(latency(first)), fmt.milliseconds(latency(second))),
        ("estimated, ms", fmt.milliseconds(first.report.after_seconds), fmt.milliseconds(second.report.after_seconds)),
        ("published", first.report.published, second.report.published),
        ("outputs", *(run.verdict.outcome.value if run.verdict else "not known" for run in (first, second))),
        ("disturbed candidates", *(fmt.count(run.report.disturbance.disturbed) for run in (first, second))),
    ]
    return Table(("", _FIRST, _SECOND), tuple(rows), 3, "The two runs")


def _tasks(first: Sequence[TaskFacts], second: Sequence[TaskFacts]) -> Section:
    """The tasks that both have, those that differ most first."""
    known = {each.report.key: each for each in first if each.seconds}
    pairs = [(known[each.report.key], each) for each in second if each.report.key in known and each.seconds]
    pairs.sort(key=lambda pair: -abs((pair[0].seconds or 0.0) - (pair[1].seconds or 0.0)))
    if not pairs:
        return Section("tasks", "Where they differ")
    table = Table(
        ("task", "first ms", "second ms", "second / first", "difference ms"),
        tuple(
            (
                b.report.name,
                fmt.milliseconds(a.seconds),
                fmt.milliseconds(b.seconds),
                fmt.significant((b.seconds or 0.0) / (a.seconds or 1.0)),
                fmt.milliseconds((b.seconds or 0.0) - (a.seconds or 0.0)),
            )
            for a, b in pairs
        ),
        1,
        "Tasks of both runs",
    )
    rows: list[JsonObject] = [
        {
            "key": str(number),
            "name": fmt.short(b.report.name, 46),
            "first": 1e3 * (a.seconds or 0.0),
            "second": 1e3 * (b.seconds or 0.0),
        }
        for number, (a, b) in enumerate(pairs[:_DRAWN])
    ]
    x = field("first", "quantitative", "ms of a run")
    y = field("key", "ordinal", None, sort=None, axis=axis(labels=False, grid=False))
    tip = tooltip(("name", "task"), ("first", "first, ms"), ("second", "second, ms"))
    parts: list[JsonObject] = [
        {"mark": mark("rule", "edge", yOffset=7), "encoding": {"x": x, "x2": {"field": "second"}, "y": y}},
        {"mark": mark("point", "faintdot", size=50, yOffset=7), "encoding": {"x": x, "y": y, "tooltip": tip}},
        {
            "mark": mark("point", "dot", size=60, yOffset=7),
            "encoding": {"x": {**x, "field": "second"}, "y": y, "tooltip": tip},
        },
        {"mark": mark("text", "label", align="left", yOffset=-8, x=0), "encoding": {"y": y, "text": {"field": "name"}}},
    ]
    text = f"{len(pairs)} tasks are in both. {pairs[0][1].report.name} differs most."
    chart = Chart(
        "tasks",
        "Time of each task",
        text,
        spec(38 * len(rows) + 4, layers(*parts), text, rows),
        table,
        note="Grey: the first run. Coloured: the second.",
    )
    return Section("tasks", "Where they differ", (f"{len(pairs)} tasks are in both runs.",), (chart,))


def _course(first: Run, second: Run) -> Chart | None:
    """The estimated latency of both over the seconds of their budgets."""
    rows: list[JsonObject] = [
        {"run": name, "t": each.t, "ms": 1e3 * each.seconds}
        for name, run in ((_FIRST, first), (_SECOND, second))
        for each in run.history.latencies
    ]
    if not rows:
        return None
    content: JsonObject = {
        "mark": mark("line", "", interpolate="step-after", point=True),
        "encoding": {
            "x": field("t", "quantitative", "seconds since the start"),
            "y": field("ms", "quantitative", "estimated latency (ms)", scale={"zero": False}),
            "color": field("run", "nominal", None, scale={"domain": [_SECOND, _FIRST]}, legend={"orient": "top"}),
            "tooltip": tooltip(("run", "run"), ("t", "seconds"), ("ms", "ms")),
        },
    }
    text = "The estimated latency of both runs over their seconds."
    table = Table(
        ("run", "seconds", "estimated ms"),
        tuple((str(r["run"]), fmt.seconds(float(str(r["t"]))), fmt.significant(float(str(r["ms"])))) for r in rows),
        1,
        "Estimated latency, where it changed",
    )
    return Chart("course", "Estimated latency over the budget", text, spec(260, content, text, rows), table)
