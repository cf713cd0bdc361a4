"""Charts of a training: its steps over time, its parts, and what was given to tuning."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from tilewright.jsonable import Json, JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Table
from tilewright.report.specs import axis, data, field, layers, mark, spec, tooltip
from tilewright.report.training_facts import known, part_seconds, rest_seconds, thin
from tilewright.training.results import ChangeReport, GraphReport, PartReport, StepsReport, TrainingReport
from tilewright.wording import counted

__all__ = ["parts_chart", "slots_chart", "steps_chart"]

#: Rows of the tables beside the charts over time.
_ROWS = 60
#: Steps that take more than this multiple of the usual length leave the chart: its scale is for the others.
_OUTLIER = 3.0
#: Changes have a caption if the next one is farther away than this share of the chart's width; narrower charts than
#: this, in pixels, have none.
_CAPTION, _CAPTION_WIDTH = 0.2, 780
#: Parts that are drawn.
_PARTS = 16


def steps_chart(graph: GraphReport, before: float) -> Chart | None:
    """The length of a step over time, the extremes around it, and when parts began to run in other kernels.

    Args:
        graph: with which the steps begin.
        before: the usual length of a step in PyTorch's kernels, in seconds; NaN: not known.
    """
    course = graph.course
    if not course:
        return None
    begin, end = course[0].begin, max(course[-1].end, 1e-3)
    usual = median(each.seconds for each in course)
    shown = [each.seconds for each in course if each.seconds <= _OUTLIER * usual] or [usual]
    top = 1.3e3 * max([*shown, *([before] if known(before) and before <= _OUTLIER * usual else [])])
    rows: list[JsonObject] = []
    for each in course:
        low, high = 1e3 * each.shortest, min(top, 1e3 * each.longest)
        row: JsonObject = {"ms": min(top, 1e3 * each.seconds), "low": min(top, low), "high": high, "ours": each.ours}
        rows += [{**row, "t": each.begin}, {**row, "t": each.end}]
    x = field("t", "quantitative", "seconds since the first step", scale={"domain": [begin, end], "nice": False})
    y = field("ms", "quantitative", "ms of a step", scale={"domain": [0, top], "nice": False})
    parts: list[JsonObject] = [
        {
            "data": data(rows),
            "mark": mark("area", "band", aria=False),
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        }
    ]
    if known(before):
        parts.append(
            {
                "data": data([{"ms": 1e3 * before}]),
                "mark": mark("rule", "reference"),
                "encoding": {"y": y, "tooltip": {"value": "usual length in PyTorch's kernels"}},
            }
        )
    parts += _change_layers(graph.changes, x, begin, end)
    parts.append(
        {
            "data": data(rows),
            "mark": mark("line", "accent"),
            "encoding": {"x": x, "y": y, "tooltip": tooltip(("t", "seconds"), ("ms", "ms"), ("ours", "parts in ours"))},
        }
    )
    text = (
        f"A step took {fmt.milliseconds(course[0].seconds)} ms at first, and {fmt.milliseconds(course[-1].seconds)} ms "
        f"after {fmt.seconds(end)} s."
    )
    note = (
        "The median of steps that follow each other, without the pauses for tuning; behind it the shortest and the "
        "longest. Dashed: the usual length in PyTorch's kernels. Vertical: parts began to run in other kernels."
    )
    if 1e3 * max(each.seconds for each in course) > top:
        note += " Steps that took longer than the chart is high are drawn at its upper end."
    return Chart(
        "steps", "Length of a step over time", text, spec(280, layers(*parts), text), _steps_table(course), note=note
    )


def _change_layers(changes: Sequence[ChangeReport], x: JsonObject, begin: float, end: float) -> list[JsonObject]:
    """A rule for each moment at which parts changed, with words where these have room."""
    moments: list[tuple[float, list[ChangeReport]]] = []
    for change in changes:
        if moments and change.t - moments[-1][0] < 0.01 * (end - begin):
            moments[-1][1].append(change)
        elif begin <= change.t <= end:
            moments.append((change.t, [change]))
    if not moments:
        return []
    times = [t for t, _ in moments]
    room = _CAPTION * (end - begin)
    rows: list[JsonObject] = []
    last = -room
    for (t, together), after in zip(moments, [*times[1:], end + room], strict=True):
        named = t - last >= room and after - t >= room and end - t >= room
        last = t if named else last
        rows.append({"t": t, "words": _describe(together), "named": named})
    return [
        {
            "data": data(rows),
            "mark": mark("rule", "edge"),
            "encoding": {"x": x, "tooltip": tooltip(("words", "change"), ("t", "seconds"))},
        },
        {
            "data": data([row for row in rows if row["named"]]),
            "mark": mark(
                "text",
                "caption",
                align="left",
                baseline="top",
                dx=4,
                y=4,
                text={"expr": f"width < {_CAPTION_WIDTH} ? '' : datum.words"},
            ),
            "encoding": {"x": x},
        },
    ]


def _describe(changes: Sequence[ChangeReport]) -> str:
    """What changed, in a few words."""
    words = {"running": "in our kernels", "slower": "back in PyTorch's", "left": "left to PyTorch"}
    counts: dict[str, int] = {}
    for change in changes:
        counts[change.state] = counts.get(change.state, 0) + 1
    return ", ".join(f"{counted(count, 'part')} {words.get(state, state)}" for state, count in counts.items())


def _steps_table(course: tuple[StepsReport, ...]) -> Table:
    return Table(
        ("from s", "to s", "steps", "median ms", "shortest ms", "longest ms", "parts in our kernels"),
        tuple(
            (
                fmt.seconds(each.begin),
                fmt.seconds(each.end),
                fmt.count(each.steps),
                fmt.milliseconds(each.seconds),
                fmt.milliseconds(each.shortest),
                fmt.milliseconds(each.longest),
                fmt.count(each.ours),
            )
            for each in thin(course, _ROWS)
        ),
        0,
        "Steps over time",
    )


def parts_chart(report: TrainingReport) -> Chart | None:
    """The time of each part in a step, in our kernels and in PyTorch's, and of everything else."""
    parts = [part for graph in report.graphs for part in graph.parts if part_seconds(part)]
    if not parts:
        return None
    rest = rest_seconds(report)
    parts.sort(key=lambda part: -(part_seconds(part) or 0.0))
    rows = [_part_row(number, part) for number, part in enumerate(parts[:_PARTS])]
    if rest is not None:
        label = f"{fmt.milliseconds(rest)} ms"
        rows.append({"key": "rest", "name": "everything else in PyTorch", "theirs": 1e3 * rest, "label": label})
    values = [float(str(row[key])) for row in rows for key in ("ours", "theirs") if row.get(key) is not None]
    most = max(values)
    x = field("theirs", "quantitative", "ms of a step", scale={"domain": [0, most * 1.45], "nice": False})
    y = field("key", "ordinal", None, sort=None, axis=None, scale={"domain": [row["key"] for row in rows]})
    marks = _bar_layers(rows, x, y)
    title = mark("text", "label", align="left", yOffset=-9, x=0)
    figure = mark("text", "figure", align="left", dx=6, yOffset=10)
    marks += [
        {"mark": title, "encoding": {"y": y, "text": {"field": "name"}}},
        {
            "transform": [{"calculate": "max(datum.ours || 0, datum.theirs || 0)", "as": "end"}],
            "mark": figure,
            "encoding": {"x": {**x, "field": "end"}, "y": y, "text": {"field": "label"}},
        },
    ]
    text = f"{counted(len(parts), 'part')}; {parts[0].name} takes {fmt.milliseconds(part_seconds(parts[0]))} ms."
    return Chart(
        "parts",
        "Parts of a step",
        text,
        spec(44 * len(rows) + 4, layers(*marks), text, rows),
        _parts_table(report),
        note="Pale: in PyTorch's kernels. Strong: in Tilewright's. Both are the shortest of the last runs in steps.",
    )


def _bar_layers(rows: list[JsonObject], x: JsonObject, y: JsonObject) -> list[JsonObject]:
    """The bars of PyTorch's kernels, and below them those of ours. A layer without bars would be an unnamed picture."""
    tip = tooltip(("name", "part"), ("ours", "ms in our kernels"), ("theirs", "ms in PyTorch"))
    made: list[JsonObject] = []
    for name, style, offset in (("theirs", "faint", 6), ("ours", "bar", 13)):
        its = [row for row in rows if row.get(name)]
        encoding: JsonObject = {"x": {**x, "field": name}, "y": y, "tooltip": tip}
        bar = mark("bar", style, yOffset=offset, height=6)
        made += [{"data": data(its), "mark": bar, "encoding": encoding}] if its else []
    return made


def _part_row(number: int, part: PartReport) -> JsonObject:
    ours, theirs = known(part.our_seconds), known(part.their_seconds)
    both = [f"{fmt.milliseconds(ours)} ms ours"] if ours else []
    both += [f"{fmt.milliseconds(theirs)} ms PyTorch"] if theirs else []
    ms: dict[str, Json] = {"ours": ours and 1e3 * ours, "theirs": theirs and 1e3 * theirs}
    return {"key": str(number), "name": fmt.short(part.name, 46), **ms, "label": ", ".join(both)}


def _parts_table(report: TrainingReport) -> Table:
    states = {"running": "in our kernels", "left": "stays with PyTorch", "ready": "is compared", "waiting": "waits"}
    return Table(
        ("part", "now", "operators", "ms in ours", "ms in PyTorch", "runs in ours", "runs in PyTorch", "copies"),
        tuple(
            (
                part.name,
                "PyTorch is faster" if part.state == "running" and part.slower else states.get(part.state, part.state),
                fmt.count(len(part.operators)),
                fmt.milliseconds(known(part.our_seconds)),
                fmt.milliseconds(known(part.their_seconds)),
                fmt.count(part.ours),
                fmt.count(part.theirs),
                fmt.count(part.copies),
            )
            for part in report.parts
        ),
        2,
        "Parts of the passes",
    )


def slots_chart(graph: GraphReport) -> Chart | None:
    """The seconds that were given to tuning over time."""
    course = [each for each in graph.course if each.given > 0]
    if len(course) < 2:
        return None
    end = graph.course[-1].end
    rows: list[JsonObject] = [{"t": graph.course[0].begin, "given": 0.0}]
    rows += [{"t": each.end, "given": each.given} for each in graph.course]
    content: JsonObject = {
        "mark": mark("line", "accent", aria=False),
        "encoding": {
            "x": field(
                "t",
                "quantitative",
                "seconds since the first step",
                scale={"domain": [graph.course[0].begin, end], "nice": False},
            ),
            "y": field("given", "quantitative", "seconds given to tuning", axis=axis(tickCount=4)),
            "tooltip": tooltip(("t", "seconds"), ("given", "seconds given")),
        },
    }
    text = f"After {fmt.seconds(end)} s, {fmt.seconds(course[-1].given)} s had been given to tuning."
    table = Table(
        ("seconds", "seconds given to tuning"),
        tuple((fmt.seconds(each.end), fmt.seconds(each.given)) for each in thin(graph.course, _ROWS)),
        0,
        "Time given to tuning",
    )
    return Chart(
        "slots", "Pauses of the training, in which kernels were compiled", text, spec(170, content, text, rows), table
    )
