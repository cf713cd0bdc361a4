"""The page of a store: its networks and runs, which tasks were measured where, and which machine has which best."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from tilewright.jsonable import Json, JsonObject
from tilewright.records.overview import Overview, TaskSum
from tilewright.records.runs import RunRecord
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Filter, Headline, Page, Section, Table
from tilewright.report.dashboard_runs import LEGEND, machines_table, networks_section, runs_section, select_runs
from tilewright.report.specs import axis, field, mark, spec, tooltip
from tilewright.wording import counted

__all__ = ["dashboard_page", "export_csv", "export_json", "export_runs_csv", "select_tasks"]

#: Rows of the table of tasks, and machines and days that are drawn.
_ROWS, _MACHINES, _DAYS = 200, 8, 400
#: Options of a filter. The others are found by the address of the page.
_OPTIONS = 500
_HEAD = ("task", "machine", "template", "measured", "failed", "best ms", "GFLOP/s", "last")


def dashboard_page(overview: Overview, place: str, chosen: Mapping[str, str]) -> Page:
    """The page of a store.

    Args:
        overview: of the store, as it is now.
        place: of the store, for people.
        chosen: the filters: ``network``, ``target``, ``template`` and ``task`` (a part of the name); empty: all. That
            of a network leaves its runs, and the tasks of the latest one.
    """
    found, runs = select_tasks(overview, chosen), select_runs(overview, chosen)
    count, ok = sum(each.count for each in found), sum(each.ok for each in found)
    headlines = (
        Headline(fmt.count(len({run.network for run in runs})), "", "networks", good=bool(runs)),
        Headline(fmt.count(len(runs)), "", "runs"),
        Headline(fmt.count(count), "", "measurements", good=not runs),
        Headline(fmt.count(len({each.task for each in found})), "", "tasks"),
        Headline(fmt.count(len({each.target for each in found})), "", "machines"),
        Headline(fmt.percent(1 - ok / count if count else None), "", "of measurements failed"),
        Headline(*fmt.duration(sum(each.elapsed for each in found)), "of measuring"),
    )
    networks = networks_section(overview, runs)
    sections = (
        replace(networks, filters=_filters(overview, chosen)),
        runs_section(runs, chosen.get("network", "")),
        Section("tasks", "Tasks", _lead(found), (), (_tasks_table(overview, found[:_ROWS]),)),
        _machines(overview, found, runs),
        _trend(overview, {each.target for each in found}),
    )
    return Page(
        title="Records",
        subtitle=place,
        headlines=headlines,
        sections=tuple(s for s in sections if s.lead or s.tables or s.charts or s.filters),
        footer="Sums of the store as it is now; nothing here changes it.",
        downloads=(("export.csv", "tasks as CSV"), ("runs.csv", "runs as CSV"), ("export.json", "both as JSON")),
    )


def _filters(overview: Overview, chosen: Mapping[str, str]) -> tuple[Filter, ...]:
    everything = overview.tasks
    runs = overview.runs
    networks = sorted({run.network for run in runs})
    targets = sorted({each.target for each in everything} | {run.target for run in runs})
    templates = sorted({each.template for each in everything})
    return (
        Filter("network", "Network", chosen.get("network", ""), ("", *networks[:_OPTIONS])),
        Filter("target", "Machine", chosen.get("target", ""), ("", *targets[:_OPTIONS])),
        Filter("template", "Template of tasks", chosen.get("template", ""), ("", *templates[:_OPTIONS])),
        Filter("task", "Name of tasks", chosen.get("task", "")),
    )


def select_tasks(overview: Overview, chosen: Mapping[str, str]) -> list[TaskSum]:
    """The tasks that the filters leave, those measured last first."""
    words = chosen.get("task", "").casefold()
    network = chosen.get("network", "")
    its = {key for key, _ in overview.networks.get(network, ())}
    return [
        each
        for each in overview.tasks
        if (not network or each.task in its)
        and (not chosen.get("target") or each.target == chosen["target"])
        and (not chosen.get("template") or each.template == chosen["template"])
        and (not words or words in _name(overview, each).casefold() or words in each.task)
    ]


def export_csv(overview: Overview, chosen: Mapping[str, str]) -> str:
    """The tasks that the filters leave, as a table for other programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("task", "name", "target", "template", "count", "ok", "best_seconds", "last_time", "elapsed_seconds")
    )
    for each in select_tasks(overview, chosen):
        best = each.best_seconds if math.isfinite(each.best_seconds) else ""
        keys = (each.task, _safe(_name(overview, each)), each.target, each.template)
        writer.writerow((*keys, each.count, each.ok, best, each.last_time, each.elapsed))
    return text.getvalue()


def export_runs_csv(overview: Overview, chosen: Mapping[str, str]) -> str:
    """The runs that the filters leave, as a table for other programs."""
    text = io.StringIO()
    names = [field.name for field in fields(RunRecord) if field.name != "tasks"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for run in select_runs(overview, chosen):
        writer.writerow(["" if (value := getattr(run, name)) is None else _safe(value) for name in names])
    return text.getvalue()


def export_json(overview: Overview, chosen: Mapping[str, str]) -> str:
    """The tasks and the runs that the filters leave, as JSON: the keys are those of the tables' columns."""
    tasks = [{"name": _name(overview, each), **vars(each)} for each in select_tasks(overview, chosen)]
    for each in tasks:
        if not math.isfinite(each["best_seconds"]):
            each["best_seconds"] = None
    runs = [
        {name: value for name, value in vars(run).items() if name != "tasks"} for run in select_runs(overview, chosen)
    ]
    return json.dumps({"tasks": tasks, "runs": runs}, allow_nan=False)


def _safe(value: object) -> object:
    """A value of a table. A spreadsheet takes a text that begins like this for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _name(overview: Overview, each: TaskSum) -> str:
    return overview.names.get(each.task, ("", 0.0))[0] or each.task[:16]


def _lead(found: Sequence[TaskSum]) -> tuple[str, ...]:
    if len(found) <= _ROWS:
        return ()
    return (f"The {_ROWS} that were measured last, of {fmt.count(len(found))}. The export has all of them.",)


def _tasks_table(overview: Overview, found: Sequence[TaskSum]) -> Table:
    rows = []
    for each in found:
        best = each.best_seconds if math.isfinite(each.best_seconds) else None
        flop = overview.names.get(each.task, ("", 0.0))[1]
        rows.append(
            (
                _name(overview, each),
                each.target,
                each.template,
                fmt.count(each.count),
                fmt.count(each.count - each.ok),
                fmt.milliseconds(best),
                fmt.significant(flop / best / 1e9 if flop and best else None),
                fmt.day(each.last_time),
            )
        )
    return Table(_HEAD, tuple(rows), 3, "Tasks, those that were measured last first")


def _machines(overview: Overview, found: Sequence[TaskSum], runs: Sequence[RunRecord]) -> Section:
    """Which machine has which best, of the networks that several have tuned, and the tasks that several measured."""
    by_task: dict[str, dict[str, float]] = {}
    for each in found:
        if math.isfinite(each.best_seconds):
            best = by_task.setdefault(each.task, {})
            best[each.target] = min(best.get(each.target, math.inf), each.best_seconds)
    names = {each.task: _name(overview, each) for each in found}
    wins: dict[str, int] = {}
    rows = []
    for task, best in by_task.items():
        if len(best) > 1:
            order = sorted(best, key=best.__getitem__)
            wins[order[0]] = wins.get(order[0], 0) + 1
            rows.append(
                (names[task], order[0], order[1], fmt.milliseconds(best[order[0]]), fmt.milliseconds(best[order[1]]))
            )
    tables = [table for table in (machines_table(runs),) if table is not None]
    if rows:
        head = ("task", "fastest on", "then on", "ms", "ms there")
        tables.append(Table(head, tuple(rows[:_ROWS]), 3, "Tasks that several machines have measured"))
    winners = sorted(wins.items(), key=lambda item: -item[1])[:_MACHINES]
    lead = f"Of {counted(len(rows), 'task')} that several machines have measured: " if rows else ""
    lead += ", ".join(f"{target} has the best of {fmt.count(count)}" for target, count in winners)
    return Section("machines", "Which machine has which best", (f"{lead}.",) if rows else (), (), tuple(tables))


def _trend(overview: Overview, targets: set[str]) -> Section:
    """Measurements of each day."""
    days = [each for each in overview.days if each.target in targets and each.day > 0]
    if not days:
        return Section("trend", "Measurements over time")
    sums: dict[str, int] = {}
    for each in days:
        sums[each.target] = sums.get(each.target, 0) + each.count
    largest = sorted(sums, key=lambda target: -sums[target])[:_MACHINES]
    shown = sorted({each.day for each in days})[-_DAYS:]
    rows: list[JsonObject] = [
        {
            "day": fmt.day_of(each.day),
            "count": each.count,
            "target": each.target if each.target in largest else "others",
        }
        for each in days
        if each.day in set(shown)
    ]
    kinds: list[Json] = [*largest, *(["others"] if len(sums) > len(largest) else [])]
    content: JsonObject = {
        "mark": mark("bar", "", aria=False),
        "encoding": {
            "x": field("day", "ordinal", None, axis=axis(labelAngle=0, labelOverlap=True, labelPadding=9, grid=False)),
            "y": field("count", "quantitative", "measurements"),
            "color": field("target", "nominal", None, scale={"domain": kinds}, legend=LEGEND),
            "tooltip": tooltip(("day", "day"), ("target", "machine"), ("count", "measurements")),
        },
    }
    text = f"Measurements of {len(shown)} days."
    table = Table(
        ("day", "machine", "measured", "failed"),
        tuple(
            (fmt.day_of(e.day), e.target, fmt.count(e.count), fmt.count(e.count - e.ok))
            for e in reversed(days[-_DAYS:])
        ),
        2,
        "Measurements of each day (UTC), the latest first",
    )
    chart = Chart("trend", "Measurements of each day", text, spec(220, content, text, rows), table)
    return Section("trend", "Measurements over time", (), (chart,))
