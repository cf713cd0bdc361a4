"""The page that compares two trainings of one model."""

from __future__ import annotations

from tilewright.jsonable import JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Headline, Page, Section, Table
from tilewright.report.specs import field, mark, spec, tooltip
from tilewright.report.training_facts import find_main, known, part_seconds, thin
from tilewright.training.results import PartReport, TrainingReport

__all__ = ["training_comparison"]

_FIRST, _SECOND = "first", "second"
#: Rows of the table beside the chart, for each training.
_ROWS = 30


def training_comparison(first: TrainingReport, second: TrainingReport) -> Page:
    """The page that says what differs between two trainings: steps, parts and machine."""
    before, after = known(first.now_seconds), known(second.now_seconds)
    headlines = []
    if before and after:
        ratio = fmt.significant(before / after)
        headlines.append(Headline(ratio, "\u00d7", "as fast: second against first", "a step, timed apart", True))
        headlines += [
            Headline(fmt.milliseconds(value), "ms", f"a step of the {name}", "median")
            for name, value in ((_FIRST, before), (_SECOND, after))
        ]
    notes = []
    if first.model != second.model:
        notes.append(f"The first is of {first.model}, the second of {second.model}.")
    if first.machine != second.machine or first.cores != second.cores:
        notes.append("They ran on different machines or threads, so their times do not tell which kernels are better.")
    chart = _steps(first, second)
    sections = (
        Section("summary", "What differs", tuple(notes), (), (_summary(first, second),)),
        Section("steps", "How the steps went", (), () if chart is None else (chart,)),
        Section("parts", "Where they differ", (), (), (_parts(first, second),)),
    )
    return Page(
        title=first.model if first.model == second.model else f"{first.model} and {second.model}",
        subtitle="two trainings",
        headlines=tuple(headlines),
        sections=tuple(s for s in sections if s.charts or any(table.rows for table in s.tables)),
        footer="Made by tilewright report.",
    )


def _summary(first: TrainingReport, second: TrainingReport) -> Table:
    both = (first, second)
    mains = [find_main(report) for report in both]
    rows = [
        ("model", *(report.model for report in both)),
        ("machine", *(report.machine for report in both)),
        ("threads", *(fmt.count(report.cores) for report in both)),
        ("date", *(report.date for report in both)),
        ("steps", *("" if main is None else fmt.count(main.steps) for main in mains)),
        ("a step, ms", *(fmt.milliseconds(known(report.now_seconds)) for report in both)),
        ("in PyTorch, ms", *(fmt.milliseconds(known(report.before_seconds)) for report in both)),
        ("parts in our kernels", *(f"{sum(p.in_ours for p in r.parts)} of {len(r.parts)}" for r in both)),
        ("given to tuning, s", *(fmt.seconds(report.slots.seconds) for report in both)),
        ("candidates timed", *(fmt.count(report.slots.trials) for report in both)),
    ]
    names = sorted({*first.options, *second.options} | {*first.versions, *second.versions})
    for name in names:
        values = [{**report.options, **report.versions}.get(name, "") for report in both]
        if values[0] != values[1]:
            rows.append((name, *values))
    return Table(("", _FIRST, _SECOND), tuple((a, b, c) for a, b, c in rows), 3, "The two trainings")


def _parts(first: TrainingReport, second: TrainingReport) -> Table:
    theirs = {part.name: part for part in second.parts}
    rows = []
    for part in first.parts:
        other = theirs.get(part.name)
        if other is None:
            continue
        a, b = part_seconds(part), part_seconds(other)
        ratio = fmt.significant(b / a) if a and b else fmt.significant(None)
        rows.append((part.name, _where(part), _where(other), fmt.milliseconds(a), fmt.milliseconds(b), ratio))
    head = ("part", _FIRST, _SECOND, "first ms", "second ms", "second / first")
    return Table(head, tuple(rows), 3, "Parts of both")


def _where(part: PartReport) -> str:
    return "in our kernels" if part.in_ours else "in PyTorch"


def _steps(first: TrainingReport, second: TrainingReport) -> Chart | None:
    rows: list[JsonObject] = []
    lines: list[tuple[str, str, str]] = []
    for name, report in ((_FIRST, first), (_SECOND, second)):
        main = find_main(report)
        course = () if main is None else main.course
        rows += [{"run": name, "t": each.end, "ms": 1e3 * each.seconds} for each in course]
        lines += [(name, fmt.seconds(each.end), fmt.milliseconds(each.seconds)) for each in thin(course, _ROWS)]
    if not rows:
        return None
    content: JsonObject = {
        "mark": mark("line", "", aria=False),
        "encoding": {
            "x": field("t", "quantitative", "seconds since the first step"),
            "y": field("ms", "quantitative", "ms of a step"),
            "color": field("run", "nominal", None, scale={"domain": [_SECOND, _FIRST]}, legend={"orient": "top"}),
            "tooltip": tooltip(("run", "training"), ("t", "seconds"), ("ms", "ms")),
        },
    }
    text = "The length of a step in both trainings over their seconds."
    table = Table(("training", "seconds", "ms of a step"), tuple(lines), 1, "Length of a step")
    return Chart("course", "Length of a step over time", text, spec(260, content, text, rows), table)
