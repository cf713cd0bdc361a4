"""Charts of the tasks of a network: where the time goes, the roofline, the graph, and what the searcher tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.jsonable import Json, JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Choice, Table
from tilewright.report.facts import TaskFacts
from tilewright.report.history import TaskHistory, best_so_far
from tilewright.report.run import Run
from tilewright.report.specs import axis, data, field, layers, mark, spec, tooltip
from tilewright.tuning.run_log import SpaceEvent, Trial

__all__ = ["graph_chart", "roofline_chart", "search_choice", "time_chart"]

#: Tasks with a bar of their own. The others are summed up.
_BARS = 16
#: Tasks that are named in the roofline plot and in the graph.
_LABELS = 6
#: Pixels for one depth of the graph, at least; the chart scrolls if the page is narrower.
_STEP = 14
#: The most and the fewest candidates of a task whose configs a page holds, and the most that its table has.
_MOST_OF_TASK, _LEAST_OF_TASK, _MOST_ROWS = 400, 8, 6
#: The most tasks of which the reader may choose one, and where the page would grow too large.
_MOST_OFFERED, _FEWER_OFFERED = 300, 60
#: The most knobs that are drawn side by side.
_MOST_KNOBS = 14


def tasks_table(facts: Sequence[TaskFacts]) -> Table:
    """Every task with its numbers."""
    return Table(
        ("task", "calls", "ms per run", "share", "roofline ms", "times the roofline", "GFLOP/s", "trials"),
        tuple(
            (
                each.report.name,
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
        1,
        "Tasks, those that take the most time first",
    )


def time_chart(facts: Sequence[TaskFacts]) -> Chart | None:
    """The time of each task in a run, and the part of it that the roofline says is needed."""
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
        rows.append(
            {
                "key": "rest",
                "name": f"{len(rest)} more tasks",
                "ms": 1e3 * seconds,
                "bound": 1e3 * bound,
                "label": label,
            }
        )
    names: list[Json] = [row["name"] for row in rows]
    most = max(float(str(row["ms"])) for row in rows)
    x = field("ms", "quantitative", "ms of a run", scale={"domain": [0, most * 1.3], "nice": False})
    y = field("key", "ordinal", None, sort=None, axis=None)
    text = f"{known[0].report.name} takes {fmt.percent(known[0].share, 2)} of the time."
    tip = tooltip(("name", "task"), ("ms", "ms of a run"), ("bound", "ms by the roofline"))
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
        "Where the time of a run goes",
        text,
        spec(38 * len(names) + 4, layers(*parts), text, rows),
        tasks_table(facts),
        note="The strong part is what the task needs at least, by the machine's roofline; the pale part is above that.",
    )


def roofline_chart(run: Run, facts: Sequence[TaskFacts]) -> Chart | None:
    """The tasks under the roofs of the machine."""
    roofline = run.report.roofline or {}
    points = [each for each in facts if each.intensity and each.throughput]
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
    roofs: list[JsonObject] = []
    ends: list[JsonObject] = []
    lowest = min((each.throughput or 0.0) / 1e9 for each in points) / 2
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
    fastest = max((bandwidth for _, bandwidth in slopes if bandwidth), default=peak / left)
    roofs += [
        {"roof": "arithmetic", "x": min(peak / fastest, right), "y": peak / 1e9},
        {"roof": "arithmetic", "x": right, "y": peak / 1e9},
    ]
    ends.append(
        {"roof": f"arithmetic, {fmt.significant(peak / 1e9)} GFLOP/s", "x": right, "y": peak / 1e9, "end": True}
    )
    x = field(
        "x",
        "quantitative",
        "operations per byte touched",
        scale={"type": "log", "domain": [left, right], "nice": False},
    )
    y_scale: Json = {"type": "log", "domain": [lowest, 2 * peak / 1e9], "nice": False}
    y = field("y", "quantitative", "GFLOP/s", scale=y_scale, axis=axis(tickCount=5))
    parts: list[JsonObject] = [
        {
            "data": data(roofs),
            "mark": mark("line", "roof", aria=False, clip=True),
            "encoding": {"x": x, "y": y, "detail": {"field": "roof"}},
        },
        {
            "data": data([e for e in ends if "end" not in e]),
            "mark": mark("text", "caption", align="left", dx=7, dy=4),
            "encoding": {"x": x, "y": y, "text": {"field": "roof"}},
        },
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
                    ("name", "task"),
                    ("x", "FLOP per byte"),
                    ("y", "GFLOP/s"),
                    ("share", "share of the time"),
                    ("reached", "share of the roofline"),
                ),
            },
        },
    ]
    reached = sum((each.reached or 0.0) * (each.share or 0.0) for each in points if each.reached)
    text = f"{len(points)} tasks. Weighted by time, they reach {fmt.percent(reached, 2)} of what their rooflines allow."
    table = Table(
        ("task", "FLOP per byte", "GFLOP/s", "share of the roofline", "share of the time"),
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
        "Tasks under the roofline",
    )
    return Chart(
        "roofline",
        "Roofline",
        text,
        spec(340, layers(*parts), text),
        table,
        note="Each circle is a task; its area is its share of the time. Bytes count once, so a task whose data do not "
        "fit the caches lies further below its roof.",
    )


def graph_chart(run: Run, facts: Sequence[TaskFacts]) -> Chart | None:
    """The calls of the network from left to right: their shares of the time, and how far they are from the roofline."""
    nodes = run.nodes
    if len(nodes) < 2:
        return None
    by_key = {each.report.key: each for each in facts}
    kernels = run.history.kernels
    timed = kernels.seconds if kernels is not None and len(kernels.seconds) == len(nodes) else None
    seconds = [_node_seconds(node.task, by_key) if timed is None else timed[node.number] for node in nodes]
    total = sum(seconds) or 1.0
    rows: list[JsonObject] = []
    table = []
    for node, spent in zip(nodes, seconds, strict=True):
        each = by_key.get(node.task)
        name = (
            each.report.name
            if each is not None
            else "part run by ONNX Runtime"
            if node.segment
            else node.kernel or "copy"
        )
        bound = each.report.possible_seconds if each is not None else None
        distance = spent / bound if bound and spent else None
        rows.append(
            {
                "n": node.number,
                "name": name,
                "x": node.depth,
                "y": node.lane,
                "share": spent / total,
                "percent": fmt.percent(spent / total),
                "distance": None if distance is None else min(max(distance, 1.0), 8.0),
                "times": fmt.factor(distance),
                "shape": node.shape,
            }
        )
        table.append(
            (
                f"{node.number + 1}",
                fmt.short(name),
                node.shape,
                fmt.milliseconds(spent),
                fmt.percent(spent / total),
                fmt.factor(distance),
            )
        )
    edges: list[JsonObject] = [
        {"x": nodes[s].depth, "y": nodes[s].lane, "x2": node.depth, "y2": node.lane}
        for node in nodes
        for s in node.reads
    ]
    depth = max(node.depth for node in nodes) + 1
    reach = max(abs(node.lane) for node in nodes)
    x = field("x", "quantitative", None, scale={"domain": [-0.7, depth - 0.3], "nice": False}, axis=None)
    y = field("y", "quantitative", None, scale={"domain": [-reach - 0.9, reach + 0.9], "nice": False}, axis=None)
    colour = field(
        "distance",
        "quantitative",
        "times the roofline",
        scale={"type": "log", "domain": [1, 8], "range": "ramp", "clamp": True},
        legend={"orient": "top", "gradientLength": 160, "values": [1, 2, 4, 8], "tickCount": 4},
    )
    parts: list[JsonObject] = [
        {
            "data": data(edges),
            "mark": mark("rule", "edge", aria=False),
            "encoding": {"x": x, "y": y, "x2": {"field": "x2"}, "y2": {"field": "y2"}},
        },
        {
            "data": data(rows),
            "mark": mark("circle", "node", aria=len(rows) <= 200, invalid="show"),
            "encoding": {
                "x": x,
                "y": y,
                "size": field(
                    "share",
                    "quantitative",
                    None,
                    scale={"domain": [0, max(s / total for s in seconds) or 1.0], "range": [24, 760]},
                    legend=None,
                ),
                "color": {"condition": {"test": "isValid(datum.distance)", **colour}, "value": "#8a8a8a"},
                "tooltip": tooltip(
                    ("name", "call"),
                    ("shape", "output"),
                    ("percent", "share of the time"),
                    ("times", "times the roofline"),
                ),
                "description": {"field": "name"},
            },
        },
    ]
    text = f"{len(nodes)} calls of kernels in {depth} steps, from the input on the left to the output on the right."
    return Chart(
        "graph",
        "The network, call by call",
        text,
        spec(int(110 + 46 * 2 * reach), layers(*parts), text),
        Table(
            ("call", "task", "output", "ms", "share", "times the roofline"),
            tuple(table),
            3,
            "Calls in the order in which they run",
        ),
        scrolls=_STEP * depth,
        note="The area is the share of the time, the colour how many times as long as its roofline it takes. Grey: no "
        "roofline is known.",
    )


def search_choice(run: Run, facts: Sequence[TaskFacts], most_trials: int) -> Choice | None:
    """For each task: its learning curve, what the searcher tried, and its best configs.

    Args:
        run: what happened.
        facts: the tasks, in the order in which they are offered.
        most_trials: the most candidates that the page holds, of all tasks; those of the first tasks come first.
    """
    tried = [(each, run.history.tasks[each.report.key]) for each in facts if each.report.key in run.history.tasks]
    tried = [(each, history) for each, history in tried if history.trials]
    tried = tried[: _MOST_OFFERED if most_trials else _FEWER_OFFERED]
    if not tried:
        return None
    left, least = most_trials, min(40, most_trials // len(tried))
    options, datasets, tables = [], dict[str, JsonObject](), dict[str, list[list[str]]]()
    for each, history in tried:
        trials = history.trials
        most = max(least, min(_MOST_OF_TASK, left), _LEAST_OF_TASK)
        left -= min(len(trials), most)
        key = each.report.key
        share = f", {fmt.percent(each.share, 2)} of the time" if each.share else ""
        options.append((key, f"{fmt.short(each.report.name)} ({len(trials)} trials{share})"))
        datasets[key] = _task_data(each, history, trials, most)
        tables[key] = _improvements(history)
    return Choice(
        "search", "Task", tuple(options), datasets, tables, ("trial", "ms", "gain", "config"), (_curve(), _parallel())
    )


def _task_data(each: TaskFacts, history: TaskHistory, trials: list[Trial], most: int) -> JsonObject:
    """The data sets of a task, as columns, which take a tenth of the bytes of rows. The page's script makes rows."""
    best = best_so_far(trials)
    step = max(1, math.ceil(len(trials) / most))
    kept = [n for n in range(len(trials)) if n % step == 0 or best[n] != (best[n - 1] if n else None)]
    thin = math.ceil(len(kept) / (2 * most))  # where most candidates were the best so far
    kept = kept[::-1][::thin][::-1]
    points: JsonObject = {
        "n": [n + 1 for n in kept],
        "ms": [_ms(trials[n].seconds) for n in kept],
        "best": [_ms(best[n]) for n in kept],
    }
    bound: JsonObject = {"ms": [_ms(each.report.possible_seconds)] if each.report.possible_seconds else []}
    lines, axes = _lines(history.space, trials, kept)
    return {"points": {"columns": points}, "bound": {"columns": bound}, "lines": lines, "axes": {"columns": axes}}


def _lines(space: SpaceEvent | None, trials: list[Trial], kept: Sequence[int]) -> tuple[JsonObject, JsonObject]:
    """The candidates as lines through their knobs, the slowest first so that the fastest lie on top; and the axes."""
    if space is None:
        return {"columns": {}}, {}
    shown = [k for k, knob in enumerate(space.knobs) if knob.size > 1][:_MOST_KNOBS]
    ok = [n for n in kept if trials[n].seconds and len(trials[n].config) == len(space.knobs)]
    ranked = sorted(ok, key=lambda n: -(trials[n].seconds or 0.0))
    most = max(1, len(ranked) - 1)
    lines: JsonObject = {
        "columns": {
            "c": list(range(len(ranked))),
            "q": [round(rank / most, 3) for rank in range(len(ranked))],
            "ms": [_ms(trials[n].seconds) for n in ranked],
        },
        "configs": [[trials[n].config[k] for k in shown] for n in ranked],
        "sizes": [space.knobs[k].size for k in shown],
    }
    knobs = [space.knobs[k] for k in shown]
    axes: JsonObject = {
        "k": list(range(len(shown))),
        "name": [fmt.short(knob.name, 18) for knob in knobs],
        "low": [fmt.short(knob.choices[0], 14) if knob.choices else "" for knob in knobs],
        "high": [fmt.short(knob.choices[-1], 14) if knob.choices else "" for knob in knobs],
    }
    return lines, axes


def _curve() -> Chart:
    """The learning curve of the chosen task."""
    x = field(
        "n",
        "quantitative",
        "trial",
        scale={"nice": False, "zero": False},
        axis=axis(tickMinStep=1, grid=False, format="d"),
    )
    y = field(
        "ms",
        "quantitative",
        "ms (logarithmic)",
        scale={"type": "log", "nice": False, "padding": 12},
        axis=axis(tickCount=4),
    )
    parts: list[JsonObject] = [
        {
            "data": {"name": "bound"},
            "mark": mark("rule", "reference"),
            "encoding": {"y": y, "tooltip": tooltip(("ms", "ms by the roofline"))},
        },
        {
            "data": {"name": "points"},
            "transform": [{"filter": "isValid(datum.ms)"}],
            "mark": mark("point", "faintdot", aria=False),
            "encoding": {"x": x, "y": y, "tooltip": tooltip(("n", "trial"), ("ms", "ms"))},
        },
        {
            "data": {"name": "points"},
            "transform": [{"filter": "isValid(datum.best)"}],
            "mark": mark("line", "accent", interpolate="step-after"),
            "encoding": {"x": x, "y": {**y, "field": "best"}},
        },
    ]
    text = "The latency of each candidate of the chosen task, in the order of the measurements, and the best so far."
    return Chart(
        "curve",
        "Learning curve",
        text,
        spec(230, layers(*parts), text),
        note="Each dot is a candidate, the line the best so far, the dashed line the roofline.",
    )


def _parallel() -> Chart:
    """The candidates of the chosen task as lines through their knobs."""
    x = field("k", "quantitative", None, axis=None, scale={"nice": False, "zero": False, "padding": 36})
    y = field("v", "quantitative", None, axis=None, scale={"domain": [0, 1]})
    colour = field(
        "q",
        "quantitative",
        "slowest to fastest",
        scale={"domain": [0, 1], "range": "ramp"},
        legend={"orient": "top", "gradientLength": 120, "values": [], "offset": 34},
    )
    parts: list[JsonObject] = [
        {
            "data": {"name": "axes"},
            "mark": mark("rule", "grid", aria=False),
            "encoding": {"x": x, "y": {"datum": 0, **_unit()}, "y2": {"datum": 1}},
        },
        {
            "data": {"name": "lines"},
            "mark": mark("line", "thread", aria=False, interpolate="monotone"),
            "encoding": {
                "x": x,
                "y": y,
                "detail": {"field": "c"},
                "color": colour,
                "opacity": {"condition": {"test": "datum.q >= 0.999", "value": 1}, "value": 0.35},
                "strokeWidth": {"condition": {"test": "datum.q >= 0.999", "value": 3}, "value": 1},
            },
        },
        {
            "data": {"name": "axes"},
            "mark": mark("text", "label", baseline="bottom", y=-20),
            "encoding": {"x": x, "text": {"field": "name"}},
        },
        {
            "data": {"name": "axes"},
            "mark": mark("text", "caption", baseline="bottom", y=-5),
            "encoding": {"x": x, "text": {"field": "high"}},
        },
        {
            "data": {"name": "axes"},
            "mark": mark("text", "caption", baseline="top", y={"expr": "height + 6"}),
            "encoding": {"x": x, "text": {"field": "low"}},
        },
    ]
    text = "Every candidate of the chosen task as a line through its knobs; the fastest is the boldest."
    return Chart(
        "knobs",
        "What the searcher tried",
        text,
        spec(240, layers(*parts), text),
        scrolls=760,
        note="A column is a knob, from its first choice below to its last above. The boldest line is the best config.",
    )


def _unit() -> JsonObject:
    return {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": None, "title": None}


def _improvements(history: TaskHistory) -> list[list[str]]:
    """The candidates that were the best when they were measured."""
    space, trials = history.space, history.trials
    best, rows = math.inf, []
    for number, trial in enumerate(trials, 1):
        if trial.seconds is not None and 0 < trial.seconds < best:
            gain = "" if math.isinf(best) else fmt.percent(1 - trial.seconds / best)
            best = trial.seconds
            rows.append([str(number), fmt.milliseconds(best), gain, _config_text(space, trial.config)])
    return rows[-_MOST_ROWS:]


def _config_text(space: SpaceEvent | None, config: tuple[int, ...]) -> str:
    """A config for people."""
    if space is None or len(space.knobs) != len(config):
        return " ".join(map(str, config))
    found = []
    for knob, index in zip(space.knobs, config, strict=True):
        if knob.size > 1:
            named = len(knob.choices) == knob.size and 0 <= index < knob.size
            found.append(f"{knob.name}={knob.choices[index] if named else f'#{index}'}")
    return ", ".join(found)


def _node_seconds(task: str, facts: dict[str, TaskFacts]) -> float:
    each = facts.get(task)
    return (each.report.best_seconds or 0.0) if each is not None else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{1e3 * seconds:.5g}")


def _figure(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None
