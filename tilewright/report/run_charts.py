"""Charts of the course of a run: its latency and phases, failures, disturbances, memory; and of its races."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from tilewright.jsonable import Json, JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Table
from tilewright.report.facts import find_peers, latency
from tilewright.report.history import Phase
from tilewright.report.run import PeerTime, Run
from tilewright.report.specs import axis, data, field, layers, mark, spec, tooltip

__all__ = [
    "latency_chart",
    "machine_chart",
    "memory_chart",
    "peers_chart",
    "peers_table",
    "phase_bands",
    "phases_chart",
]

#: The most parts that the seconds of a run are divided into, to count failures.
_BINS = 48
#: The share of the chart's width that a letter of a phase's name takes. Names that do not fit have no place there; the
#: table has them all. Narrower charts than this, in pixels, have no names.
_LETTER, _NAMED_WIDTH = 0.008, 780


def _end(run: Run) -> float:
    return max(run.report.wall_seconds, run.history.end, 1e-3)


def latency_chart(run: Run) -> Chart | None:
    """The estimated latency over the seconds of the budget, with the phases behind it."""
    points: list[tuple[float, float]] = [(each.t, each.seconds) for each in run.history.latencies]
    points = points or [(t, seconds) for t, seconds in run.report.curve]
    if not points:
        return None
    end = _end(run)
    rows: list[JsonObject] = [{"t": t, "ms": 1e3 * s} for t, s in points]
    lowest, highest = (1e3 * pick(s for _, s in points) for pick in (min, max))
    steps: list[JsonObject] = [*rows, {"t": end, "ms": rows[-1]["ms"]}]
    x = field("t", "quantitative", "seconds since the start", scale={"domain": [0, end], "nice": False})
    room = max(highest - lowest, 0.02 * highest)
    y = field(
        "ms",
        "quantitative",
        "estimated latency (ms)",
        scale={"domain": [max(0, lowest - room / 2), highest + room / 2], "nice": True},
    )
    parts = _phase_layers(phase_bands(run.history.ended(), end), x)
    if run.report.budget_seconds and run.report.budget_seconds < end:
        parts.append(
            {
                "data": data([{"t": run.report.budget_seconds}]),
                "mark": mark("rule", "reference"),
                "encoding": {"x": x, "tooltip": {"value": "the end of the budget"}},
            }
        )
    parts += [
        {"data": data(steps), "mark": mark("line", "accent", interpolate="step-after"), "encoding": {"x": x, "y": y}},
        {
            "data": data(rows),
            "mark": mark("point", "dot", aria=len(rows) <= 60),
            "encoding": {"x": x, "y": y, "tooltip": tooltip(("t", "seconds"), ("ms", "ms"))},
        },
    ]
    first, last = points[0], points[-1]
    text = (
        f"The estimated latency fell from {fmt.milliseconds(first[1])} ms after {fmt.seconds(first[0])} s to "
        f"{fmt.milliseconds(last[1])} ms after {fmt.seconds(last[0])} s."
    )
    return Chart(
        "latency",
        "Estimated latency over the budget",
        text,
        spec(260, layers(*parts), text),
        Table(
            ("seconds", "estimated ms"),
            tuple((fmt.seconds(t), fmt.milliseconds(s)) for t, s in points),
            0,
            "Estimated latency, where it changed",
        ),
        note="The estimate is the sum of the best latency of each task, timed alone, times its calls.",
    )


def phase_bands(phases: Sequence[Phase], end: float) -> list[JsonObject]:
    """The phases as bands over the seconds up to ``end``; ``named`` are those whose names fit."""
    return [
        {
            "name": phase.name,
            "begin": phase.begin,
            "end": phase.end,
            "odd": bool(number % 2),
            "named": phase.seconds > _LETTER * (len(phase.name) + 1) * end,
        }
        for number, phase in enumerate(phases)
    ]


def _phase_layers(bands: list[JsonObject], x: JsonObject) -> list[JsonObject]:
    """The phases behind a chart over the seconds of a run: every other one as a band, and their names."""
    if not bands:
        return []
    return [
        {
            "data": data([band for band in bands if band["odd"]]),
            "mark": mark("rect", "band"),
            "encoding": {"x": {**x, "field": "begin"}, "x2": {"field": "end"}},
        },
        {
            "data": data([band for band in bands if band["named"]]),
            "mark": mark(
                "text",
                "caption",
                align="left",
                baseline="top",
                dx=4,
                y=4,
                text={"expr": f"width < {_NAMED_WIDTH} ? '' : datum.name"},
            ),
            "encoding": {"x": {**x, "field": "begin"}},
        },
    ]


def phases_chart(run: Run) -> Chart | None:
    """When each phase began and how long it took."""
    phases = run.history.ended()
    if not phases:
        return None
    end = _end(run)
    rows: list[JsonObject] = [
        {"name": p.name, "begin": p.begin, "end": p.end, "label": f"{fmt.seconds(p.seconds)} s"} for p in phases
    ]
    x = field("begin", "quantitative", "seconds since the start", scale={"domain": [0, end * 1.2], "nice": False})
    names: list[Json] = list(dict.fromkeys(p.name for p in phases))
    y = field("name", "nominal", None, sort=names, axis=axis(grid=False))
    longest = max(phases, key=lambda each: each.seconds)
    most = f"The longest, {longest.name}, took {fmt.seconds(longest.seconds)} s."
    text = f"{len(phases)} phases in {fmt.seconds(end)} s. {most}"
    bars: JsonObject = {
        "mark": mark("bar", "bar", height={"band": 0.6}),
        "encoding": {
            "x": x,
            "x2": {"field": "end"},
            "y": y,
            "tooltip": tooltip(("name", "phase"), ("begin", "from s"), ("end", "to s")),
        },
    }
    labels: JsonObject = {
        "mark": mark("text", "caption", align="left", dx=5),
        "encoding": {"x": {**x, "field": "end"}, "y": y, "text": {"field": "label"}},
    }
    return Chart(
        "phases",
        "Where the seconds of the budget went",
        text,
        spec(24 * len(names) + 8, layers(bars, labels), text, rows),
        Table(
            ("phase", "from s", "to s", "seconds"),
            tuple((p.name, fmt.seconds(p.begin), fmt.seconds(p.end), fmt.seconds(p.seconds)) for p in phases),
            1,
            "Phases of the run",
        ),
    )


def peers_chart(run: Run) -> Chart | None:
    """How many times as fast the executable is as what it was raced against, with intervals."""
    peers = [peer for peer in find_peers(run) if peer.speed and peer.slowest and peer.fastest]
    if not peers:
        return None
    rows: list[JsonObject] = [
        {
            "name": peer.name,
            "factor": peer.speed,
            "low": peer.slowest,
            "high": peer.fastest,
            "label": fmt.factor(peer.speed),
        }
        for peer in peers
    ]
    least, most = min(peer.slowest or 1.0 for peer in peers), max(peer.fastest or 1.0 for peer in peers)
    scale: Json = {"type": "log", "domain": [min(0.5, least / 1.2), max(2.0, most * 1.5)], "nice": False}
    x = field("factor", "quantitative", "times as fast (logarithmic)", scale=scale, axis=axis(tickCount=6, grid=False))
    y = field("name", "nominal", None, sort=[peer.name for peer in peers], axis=axis(grid=False))
    text = "; ".join(f"{fmt.factor(p.speed)} as fast as {p.name}" for p in peers)
    parts: list[JsonObject] = [
        {"data": data([{"x": 1}]), "mark": mark("rule", "reference"), "encoding": {"x": {**x, "field": "x"}}},
        {"mark": mark("rule", "interval"), "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y}},
        {
            "mark": mark("point", "dot", size=70),
            "encoding": {
                "x": x,
                "y": y,
                "tooltip": tooltip(
                    ("name", "compared with"), ("factor", "times as fast"), ("low", "at least"), ("high", "at most")
                ),
            },
        },
        {
            "mark": mark("text", "figure", align="left", dx=8),
            "encoding": {"x": {**x, "field": "high"}, "y": y, "text": {"field": "label"}},
        },
    ]
    return Chart(
        "peers",
        "Compared with other runtimes",
        f"The executable is {text}.",
        spec(40 * len(peers) + 8, layers(*parts), f"The executable is {text}.", rows),
        peers_table(find_peers(run), latency(run)),
        note="Medians of turns in alternating processes, with 95 % intervals. Right of 1, the executable is faster.",
    )


def peers_table(peers: Sequence[PeerTime], ours: float | None) -> Table:
    """The medians of the executable and its peers."""
    rows = [("this executable", fmt.milliseconds(ours), "1", "")]
    for peer in peers:
        if peer.problem:
            rows.append((peer.name, "could not be timed", "", peer.problem))
            continue
        rows.append(
            (
                peer.name,
                fmt.significant(peer.milliseconds),
                fmt.factor(peer.speed),
                fmt.interval(peer.slowest, peer.fastest),
            )
        )
    return Table(
        ("runtime", "median ms", "times as fast", "95 % interval"), tuple(rows), 1, "The executable and its peers"
    )


def machine_chart(run: Run) -> Chart | None:
    """Failed candidates and disturbed ones over the seconds of the run."""
    end = _end(run)
    width = end / _BINS
    counts: Counter[tuple[int, str]] = Counter()
    for t, outcomes in run.history.outcomes():
        for outcome, count in outcomes.items():
            if outcome != "ok":
                counts[int(min(t, end * 0.9999) / width), outcome.replace("_", " ")] += count
    before = 0
    for sample in run.history.machine:
        if sample.disturbed > before:
            counts[int(min(sample.t, end * 0.9999) / width), "disturbed"] += sample.disturbed - before
            before = sample.disturbed
    if not counts:
        return None
    totals: Counter[str] = Counter()
    for (_, kind), count in counts.items():
        totals[kind] += count
    kinds: list[Json] = [kind for kind, _ in totals.most_common()]
    rows: list[JsonObject] = [
        {"begin": bin_ * width, "end": (bin_ + 0.92) * width, "kind": kind, "count": count}
        for (bin_, kind), count in sorted(counts.items())
    ]
    text = "; ".join(f"{kind}: {count}" for kind, count in totals.most_common())
    scale: Json = {"domain": [0, end], "nice": False}
    ticks = axis(values=_ticks(end))
    content: JsonObject = {
        "mark": mark("bar", "", aria=False),
        "encoding": {
            "x": field(
                "begin",
                "quantitative",
                "seconds since the start",
                scale=scale,
                axis=ticks,
                bin={"binned": True, "step": width},
            ),
            "x2": {"field": "end"},
            "y": field("count", "quantitative", "candidates", axis=axis(tickMinStep=1)),
            "color": field("kind", "nominal", None, scale={"domain": kinds}, legend={"orient": "top"}),
            "tooltip": tooltip(("kind", "kind"), ("count", "candidates"), ("begin", "from s")),
        },
    }
    trials = run.report.trials or sum(each.count for task in run.history.tasks.values() for each in task.rounds)
    table = Table(
        ("what happened", "candidates", "share of all trials"),
        tuple(
            (str(kind), fmt.count(count), fmt.percent(count / trials if trials else None))
            for kind, count in totals.most_common()
        ),
        1,
        "Candidates that failed or were disturbed",
    )
    return Chart("failures", "Failures and disturbances over time", text, spec(170, content, text, rows), table)


def _ticks(end: float) -> list[Json]:
    """About eight round numbers of seconds up to the end of a run."""
    scale = 10 ** math.floor(math.log10(end / 8))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= end / 8)
    return [round(step * number, 6) for number in range(int(end / step) + 1)]


def memory_chart(run: Run) -> Chart | None:
    """The memory of the tuning process and the largest worker over the run."""
    samples = run.history.machine
    if len(samples) < 2:
        return None
    rows: list[JsonObject] = []
    for sample in samples:
        rows.append({"t": sample.t, "mb": sample.bytes / 1e6, "who": "this process"})
        if sample.worker_bytes:
            rows.append({"t": sample.t, "mb": sample.worker_bytes / 1e6, "who": "largest worker, so far"})
    most = max(sample.bytes for sample in samples)
    worker = fmt.megabytes(samples[-1].worker_bytes)
    text = f"The process had at most {fmt.megabytes(most)} MB, the largest worker {worker} MB."
    content: JsonObject = {
        "mark": mark("line", "", interpolate="monotone", strokeWidth=1.8, aria=False),
        "encoding": {
            "x": field("t", "quantitative", "seconds since the start", scale={"domain": [0, _end(run)], "nice": False}),
            "y": field("mb", "quantitative", "MB"),
            "color": field("who", "nominal", None, legend={"orient": "top"}),
            "tooltip": tooltip(("who", ""), ("t", "seconds"), ("mb", "MB")),
        },
    }
    step = max(1, len(samples) // 40)
    table = Table(
        ("seconds", "this process MB", "largest worker MB"),
        tuple((fmt.seconds(s.t), fmt.megabytes(s.bytes), fmt.megabytes(s.worker_bytes)) for s in samples[::step]),
        0,
        "Memory over the run",
    )
    return Chart("memory", "Memory over the run", text, spec(170, content, text, rows), table)
