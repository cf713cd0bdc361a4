"""Charts of the tasks of a network: where the time goes, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.jsonable import Json, JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Table
from tilewright.report.facts import TaskFacts
from tilewright.report.specs import axis, data, field, layers, mark, spec, tooltip

__all__ = ["roofline_chart", "time_chart"]

#: Tasks with a bar of their own. The others are summed up.
_BARS = 16
#: Tasks that are named in the roofline plot.
_LABELS = 6
#: Pixels of the height of the roofline plot, and of one of its captions.
_ROOFLINE, _CAPTION = 340, 17


def tasks_table(facts: Sequence[TaskFacts]) -> Table:
    """Every task with its numbers. Those of networks with bytes or bfloat16 numbers have their instruction, too."""
    multiply = any(each.report.instruction for each in facts)
    head = ("calls", "ms per run", "share", "roofline ms", "times the roofline", "GFLOP/s", "trials")
    return Table(
        ("task", *(("instruction",) if multiply else ()), *head),
        tuple(
            (
                each.report.name,
                *((each.report.instruction or "\u2013",) if multiply else ()),
                f"{each.report.weight:g}",
                fmt.milliseconds(each.seconds),
                fmt.percent(each.share),
                fmt.milliseconds(each.bound),
                fmt.factor(each.distance),
                fmt.significant(None if each.throughput is None else each.throughput / 1e9),
                fmt.count(each.report.trials),
            )
            for each in facts
        ),
        2 if multiply else 1,
        "Tasks, those that take the most time first",
    )


def time_chart(
    facts: Sequence[TaskFacts], table: Table | None = None, what: str = "task", of: str = "run"
) -> Chart | None:
    """The time of each task in a run, and the part of it that the roofline says is needed.

    Args:
        facts: those that take the most time first.
        table: with the same numbers; None: :func:`tasks_table`.
        what: is drawn.
        of: what its time is a part of.
    """
    known = [each for each in facts if each.seconds]
    if not known:
        return None
    rows: list[JsonObject] = []
    for number, each in enumerate(known[:_BARS]):
        seconds, bound = each.seconds or 0.0, min(each.bound or 0.0, each.seconds or 0.0)
        label = f"{fmt.milliseconds(seconds)} ms, {fmt.percent(each.share, 2)}"
        rows.append(
            {
                "key": f"{number}",
                "name": fmt.short(each.report.name, 46),
                "ms": 1e3 * seconds,
                "bound": 1e3 * bound,
                "label": label,
            }
        )
    rest = known[_BARS:]
    if rest:
        seconds, share = sum(each.seconds or 0.0 for each in rest), sum(each.share or 0.0 for each in rest)
        label = f"{fmt.milliseconds(seconds)} ms, {fmt.percent(share, 2)}"
        bound = sum(min(each.bound or 0.0, each.seconds or 0.0) for each in rest)
        row: JsonObject = {"key": "rest", "name": f"{len(rest)} more {what}s", "ms": 1e3 * seconds}
        rows.append({**row, "bound": 1e3 * bound, "label": label})
    names: list[Json] = [row["name"] for row in rows]
    most = max(float(str(row["ms"])) for row in rows)
    x = field("ms", "quantitative", f"ms of a {of}", scale={"domain": [0, most * 1.45], "nice": False})
    y = field("key", "ordinal", None, sort=None, axis=None)
    text = f"{known[0].report.name} takes {fmt.percent(known[0].share, 2)} of the time."
    tip = tooltip(("name", what), ("ms", f"ms of a {of}"), ("bound", "ms by the roofline"))
    parts: list[JsonObject] = [
        {"mark": mark("bar", "faint", yOffset=7, height=9), "encoding": {"x": x, "y": y, "tooltip": tip}},
        {
            "mark": mark("bar", "bar", yOffset=7, height=9),
            "encoding": {"x": {**x, "field": "bound"}, "y": y, "tooltip": tip},
        },
        {"mark": mark("text", "label", align="left", yOffset=-8, x=0), "encoding": {"y": y, "text": {"field": "name"}}},
        {
            "mark": mark("text", "figure", align="left", dx=6, yOffset=7),
            "encoding": {"x": x, "y": y, "text": {"field": "label"}},
        },
    ]
    return Chart(
        "time",
        f"Where the time of a {of} goes",
        text,
        spec(38 * len(names) + 4, layers(*parts), text, rows),
        tasks_table(facts) if table is None else table,
        note=f"The strong part is what the {what} needs at least, by the machine's roofline; the pale part is above it."
        if any(each.bound for each in known)
        else f"The least time that a {what} needs is not known: the machine's limits were not measured.",
    )


def roofline_chart(given: JsonObject | None, facts: Sequence[TaskFacts], what: str = "task") -> Chart | None:
    """The tasks under the roofs of the machine.

    Args:
        given: the limits of the machine; None: not known.
        facts: those that take the most time first.
        what: is drawn.
    """
    roofline = given or {}
    points = [each for each in facts if _positive(each.intensity) and _positive(each.throughput)]
    peak = _figure(roofline.get("peak")) or _figure(roofline.get("flops_bound"))
    if not points or peak is None:
        return None
    rows: list[JsonObject] = [
        {
            "name": each.report.name,
            "x": each.intensity,
            "y": (each.throughput or 0.0) / 1e9,
            "share": each.share or 0.0,
            "reached": each.reached,
            "label": fmt.short(each.report.name, 24) if number < _LABELS else "",
        }
        for number, each in enumerate(points)
    ]
    left = min(0.1, *(each.intensity or 1.0 for each in points))
    right = 2 * max(10.0, *(each.intensity or 1.0 for each in points))
    lowest = min((each.throughput or 0.0) / 1e9 for each in points) / 2
    roofs, ends = _draw_roofs(roofline, peak, left, right, lowest)
    parts = _roofline_layers(rows, roofs, ends, (left, right), (lowest, 2 * peak / 1e9), what)
    reached = sum((each.reached or 0.0) * (each.share or 0.0) for each in points if each.reached)
    text = (
        f"{len(points)} {what}s. Weighted by time, they reach {fmt.percent(reached, 2)} of what their rooflines allow."
    )
    return Chart(
        "roofline",
        "Roofline",
        text,
        spec(_ROOFLINE, layers(*parts), text),
        _roofline_table(points, what),
        note=f"Each circle is a {what}; its area is its share of the time. Bytes count once, so a {what} whose data do "
        "not fit the caches lies further below its roof.",
    )


def _positive(figure: float | None) -> bool:
    """Whether a logarithmic axis has a place for a figure, which a damaged file may have made negative or infinite."""
    return figure is not None and 0 < figure < math.inf


def _draw_roofs(
    roofline: JsonObject, peak: float, left: float, right: float, lowest: float
) -> tuple[list[JsonObject], list[JsonObject]]:
    """The ends of the roofs' lines between two intensities, and the roofs' captions with their places.

    ``lowest`` is the least GFLOP/s in the chart.
    """
    roofs: list[JsonObject] = []
    ends: list[JsonObject] = []
    slopes = [
        (name, _figure(roofline.get(key)))
        for name, key in (
            ("first caches", "innermost_bandwidth"),
            ("next caches", "cache_bandwidth"),
            ("memory", "memory_bandwidth"),
        )
    ]
    for name, bandwidth in slopes:
        if bandwidth:
            knee = min(peak / bandwidth, right)
            roofs += [
                {"roof": name, "x": left, "y": left * bandwidth / 1e9},
                {"roof": name, "x": knee, "y": knee * bandwidth / 1e9},
            ]
            # Its name stands where the roof enters the chart.
            foot = max(left * bandwidth, lowest * 1.2e9)
            text = f"{name}, {fmt.significant(bandwidth / 1e9)} GB/s"
            ends.append({"roof": text, "x": foot / bandwidth, "y": foot / 1e9})
    # Captions stand above each other: that of the slowest memory, which has the rightmost line, is the lowest.
    height, least = (2e-9 * peak / lowest) ** (_CAPTION / _ROOFLINE), 0.0
    for end in reversed(ends):
        y = max(float(str(end["y"])), least)
        x = float(str(end["x"])) * y / float(str(end["y"]))
        end.update(x=x, y=y, side="left" if x < math.sqrt(left * right) else "right")
        least = y * height
    fastest = max((bandwidth for _, bandwidth in slopes if bandwidth), default=peak / left)
    roofs += [
        {"roof": "arithmetic", "x": min(peak / fastest, right), "y": peak / 1e9},
        {"roof": "arithmetic", "x": right, "y": peak / 1e9},
    ]
    ends.append(
        {"roof": f"arithmetic, {fmt.significant(peak / 1e9)} GFLOP/s", "x": right, "y": peak / 1e9, "end": True}
    )
    return roofs, ends


def _roofline_layers(
    rows: list[JsonObject],
    roofs: list[JsonObject],
    ends: list[JsonObject],
    across: tuple[float, float],
    up: tuple[float, float],
    what: str,
) -> list[JsonObject]:
    """The layers of the roofline plot: the roofs, their captions, and the tasks. ``across``, ``up``: its domains."""
    x = field(
        "x",
        "quantitative",
        "operations per byte touched",
        scale={"type": "log", "domain": list(across), "nice": False},
    )
    y_scale: Json = {"type": "log", "domain": list(up), "nice": False}
    y = field("y", "quantitative", "GFLOP/s", scale=y_scale, axis=axis(tickCount=5))
    return [
        {
            "data": data(roofs),
            "mark": mark("line", "roof", aria=False, clip=True),
            "encoding": {"x": x, "y": y, "detail": {"field": "roof"}},
        },
        *_caption_layers(ends, x, y),
        {
            "data": data([e for e in ends if "end" in e]),
            "mark": mark("text", "caption", align="right", dy=-8),
            "encoding": {"x": x, "y": y, "text": {"field": "roof"}},
        },
        {
            "data": data(rows),
            "mark": mark("circle", "bubble"),
            "encoding": {
                "x": x,
                "y": y,
                "size": field("share", "quantitative", None, scale={"range": [18, 700]}, legend=None),
                "tooltip": tooltip(
                    ("name", what),
                    ("x", "FLOP per byte"),
                    ("y", "GFLOP/s"),
                    ("share", "share of the time"),
                    ("reached", "share of the roofline"),
                ),
            },
        },
    ]


def _caption_layers(ends: list[JsonObject], x: JsonObject, y: JsonObject) -> list[JsonObject]:
    """The captions of sloping roofs. The first layer of each side covers the lines behind the words."""
    made: list[JsonObject] = []
    for side in ("left", "right"):
        its = [end for end in ends if end.get("side") == side]
        for style in ("halo", "caption") if its else ():
            label = mark("text", style, align=side, dx=7 if side == "left" else -7, dy=4, aria=style != "halo")
            encoding: JsonObject = {"x": x, "y": y, "text": {"field": "roof"}}
            made.append({"data": data(its), "mark": label, "encoding": encoding})
    return made


def _roofline_table(points: Sequence[TaskFacts], what: str) -> Table:
    """The tasks of the roofline plot with their numbers."""
    return Table(
        (what, "FLOP per byte", "GFLOP/s", "share of the roofline", "share of the time"),
        tuple(
            (
                e.report.name,
                fmt.significant(e.intensity),
                fmt.significant((e.throughput or 0) / 1e9),
                fmt.percent(e.reached),
                fmt.percent(e.share),
            )
            for e in points
        ),
        1,
        f"{what.capitalize()}s under the roofline",
    )


def _figure(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
