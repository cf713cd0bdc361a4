"""Charts of the search for each task: its learning curve, what the searcher tried, and its best configs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilewright.jsonable import JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Choice
from tilewright.report.facts import TaskFacts
from tilewright.report.history import TaskHistory, best_so_far
from tilewright.report.run import Run
from tilewright.report.specs import axis, field, layers, mark, spec, tooltip
from tilewright.tuning.run_events import SpaceEvent, Trial

__all__ = ["search_choice"]

#: The most and the fewest candidates of a task whose configs a page holds, and the most that its table has.
_MOST_OF_TASK, _LEAST_OF_TASK, _MOST_ROWS = 400, 8, 6
#: The most tasks of which the reader may choose one, and where the page would grow too large.
_MOST_OFFERED, _FEWER_OFFERED = 300, 60
#: The most knobs that are drawn side by side.
_MOST_KNOBS = 14


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
        legend={"orient": "top", "gradientLength": 120, "labels": False, "offset": 34},
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


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{1e3 * seconds:.5g}")
