"""The page of a store: which tasks were measured on which machines, how the work went on, who has which best."""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Mapping, Sequence

from tilewright.jsonable import Json, JsonObject
from tilewright.records.overview import Overview, TaskSum
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Filter, Headline, Page, Section, Table
from tilewright.report.specs import axis, field, mark, spec, tooltip

__all__ = ["dashboard_page", "export_csv", "select_tasks"]

#: Rows of the table of tasks, and machines and days that are drawn.
_ROWS, _MACHINES, _DAYS = 200, 8, 400
_HEAD = ("task", "machine", "template", "measured", "failed", "best ms", "GFLOP/s", "last")


def dashboard_page(overview: Overview, place: str, chosen: Mapping[str, str]) -> Page:
    """The page of a store.

    Args:
        overview: of the store, as it is now.
        place: of the store, for people.
        chosen: the filters: ``task`` (a part of the name), ``target`` and ``template``; empty: all.
    """
    everything = overview.tasks
    found = select_tasks(overview, chosen)
    targets = sorted({each.target for each in everything})
    templates = sorted({each.template for each in everything})
    filters = (
        Filter("task", "Task", chosen.get("task", "")),
        Filter("target", "Machine", chosen.get("target", ""), ("", *targets)),
        Filter("template", "Template", chosen.get("template", ""), ("", *templates)),
    )
    count, ok = sum(each.count for each in found), sum(each.ok for each in found)
    headlines = (
        Headline(fmt.count(count), "", "measurements", good=True),
        Headline(fmt.count(len({each.task for each in found})), "", "tasks"),
        Headline(fmt.count(len({each.target for each in found})), "", "machines"),
        Headline(fmt.percent(1 - ok / count if count else None), "", "of them failed"),
        Headline(fmt.significant(sum(each.elapsed for each in found) / 3600), "h", "of measuring"),
    )
    sections = (
        Section("tasks", "Tasks", _lead(found), (), (_tasks_table(overview, found[:_ROWS]),), filters=filters),
        _machines(overview, found),
        _trend(overview, {each.target for each in found}),
    )
    return Page(
        title="Records",
        subtitle=place,
        headlines=headlines,
        sections=tuple(s for s in sections if s.tables or s.charts or s.filters),
        footer="Sums of the store as it is now; nothing here changes it.",
        download="export.csv",
    )


def select_tasks(overview: Overview, chosen: Mapping[str, str]) -> list[TaskSum]:
    """The tasks that the filters leave, those measured last first."""
    words = chosen.get("task", "").casefold()
    return [
        each
        for each in overview.tasks
        if (not chosen.get("target") or each.target == chosen["target"])
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
        # A spreadsheet takes a text that begins like this for a formula.
        name = _name(overview, each)
        safe = f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
        keys = (each.task, safe, each.target, each.template)
        writer.writerow((*keys, each.count, each.ok, best, each.last_time, each.elapsed))
    return text.getvalue()


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
                _date(each.last_time),
            )
        )
    return Table(_HEAD, tuple(rows), 3, "Tasks, those that were measured last first")


def _machines(overview: Overview, found: Sequence[TaskSum]) -> Section:
    """Which machine has which best, of the tasks that several machines have measured."""
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
                (names[task], order[0], fmt.milliseconds(best[order[0]]), order[1], fmt.milliseconds(best[order[1]]))
            )
    if not rows:
        return Section("machines", "Which machine has which best")
    lead = ", ".join(
        f"{target} has {count}" for target, count in sorted(wins.items(), key=lambda item: -item[1])[:_MACHINES]
    )
    head = ("task", "fastest on", "ms", "then on", "ms ")
    table = Table(head, tuple(rows[:_ROWS]), 2, "Tasks that several machines have measured")
    return Section("machines", "Which machine has which best", (f"Of {len(rows)} tasks, {lead}.",), (), (table,))


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
        {"day": _day(each.day), "count": each.count, "target": each.target if each.target in largest else "others"}
        for each in days
        if each.day in set(shown)
    ]
    kinds: list[Json] = [*largest, *(["others"] if len(sums) > len(largest) else [])]
    content: JsonObject = {
        "mark": mark("bar", "", aria=False),
        "encoding": {
            "x": field("day", "ordinal", None, axis=axis(labelAngle=0, labelOverlap=True, grid=False)),
            "y": field("count", "quantitative", "measurements"),
            "color": field("target", "nominal", None, scale={"domain": kinds}, legend={"orient": "top", "columns": 2}),
            "tooltip": tooltip(("day", "day"), ("target", "machine"), ("count", "measurements")),
        },
    }
    text = f"Measurements of {len(shown)} days."
    table = Table(
        ("day", "machine", "measured", "failed"),
        tuple((_day(e.day), e.target, fmt.count(e.count), fmt.count(e.count - e.ok)) for e in reversed(days[-_DAYS:])),
        2,
        "Measurements of each day (UTC), the latest first",
    )
    chart = Chart("trend", "Measurements of each day", text, spec(220, content, text, rows), table)
    return Section("trend", "Measurements over time", (), (chart,))


def _day(number: int) -> str:
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=number)).isoformat()
    except OverflowError:
        return "\u2013"


def _date(seconds: float) -> str:
    return _day(int(seconds // 86400))
