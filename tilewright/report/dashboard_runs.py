"""The networks and the runs of a store: how fast each network became where, and which machine has which best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tilewright.jsonable import Json, JsonObject
from tilewright.records.overview import Overview
from tilewright.records.runs import RunRecord
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Section, Table
from tilewright.report.specs import axis, field, mark, spec, tooltip

__all__ = ["LEGEND", "machines_table", "network_bests", "networks_section", "runs_section", "select_runs"]

#: Of machines: above the chart, in as many columns as it has room for.
LEGEND: JsonObject = {"orient": "top", "columns": {"expr": "width < 500 ? 2 : 4"}}
#: Rows of a table, and machines that are drawn.
_ROWS, _MACHINES = 200, 8
#: The least runs that a chart over time is drawn of.
_LEAST = 2


def select_runs(overview: Overview, chosen: Mapping[str, str]) -> list[RunRecord]:
    """The runs that the filters leave, the latest first."""
    return [
        run
        for run in overview.runs
        if (not chosen.get("target") or run.target == chosen["target"])
        and (not chosen.get("network") or run.network == chosen["network"])
    ]


def networks_section(overview: Overview, found: Sequence[RunRecord]) -> Section:
    """Each network on each machine: its runs, its best latency, and what the records promise."""
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in found:
        groups.setdefault((run.network, run.target), []).append(run)
    bests = network_bests(overview, {network for network, _ in groups})
    rows = []
    for (network, target), its in list(groups.items())[:_ROWS]:
        best = min((run.after_seconds for run in its if run.after_seconds), default=None)
        rows.append(
            (
                network or "without a name",
                target,
                its[0].machine,
                fmt.count(len(its)),
                fmt.milliseconds(best),
                fmt.milliseconds(bests.get((network, target))),
                fmt.day(its[0].time),
            )
        )
    if not rows:
        lead = ("No tuning is recorded here yet: those of earlier versions of Tilewright left measurements only.",)
        return Section("networks", "Networks", lead)
    head = ("network", "machine", "processor", "runs", "best ms", "estimate from records ms", "last")
    lead = (
        "The best latency that a run ended with; and the sum of the best measurements of all tasks, timed alone, which "
        "a run with these records may reach.",
    )
    return Section("networks", "Networks", lead, (), (Table(head, tuple(rows), 3, "Networks"),))


def machines_table(found: Sequence[RunRecord]) -> Table | None:
    """Which machine has the best latency of each network that several machines have tuned; None: there is none."""
    bests: dict[str, dict[str, float]] = {}
    for run in found:
        if run.after_seconds:
            its = bests.setdefault(run.network, {})
            its[run.target] = min(its.get(run.target, math.inf), run.after_seconds)
    rows = []
    for network, its in bests.items():
        if len(its) > 1:
            first, second = sorted(its, key=its.__getitem__)[:2]
            rows.append((network, first, second, fmt.milliseconds(its[first]), fmt.milliseconds(its[second])))
    head = ("network", "fastest on", "then on", "ms", "ms there")
    return Table(head, tuple(rows[:_ROWS]), 3, "Networks that several machines have tuned") if rows else None


def network_bests(overview: Overview, networks: set[str]) -> dict[tuple[str, str], float]:
    """By network and machine, the sum of the best measurements of its tasks, times their calls: seconds.

    Networks with a task that was not measured on a machine are left out.
    """
    best: dict[str, dict[str, float]] = {}
    for each in overview.tasks:
        if math.isfinite(each.best_seconds):
            its = best.setdefault(each.task, {})
            its[each.target] = min(its.get(each.target, math.inf), each.best_seconds)
    found = {}
    for network in networks:
        tasks = overview.networks.get(network, ())
        targets = set.intersection(*(set(best.get(task, {})) for task, _ in tasks)) if tasks else set()
        for target in targets:
            found[network, target] = sum(weight * best[task][target] for task, weight in tasks)
    return found


def runs_section(found: Sequence[RunRecord], network: str) -> Section:
    """The runs, and the latency of a network over time.

    Args:
        found: the runs that the filters leave, the latest first.
        network: that was chosen; empty: the one with the most runs is drawn.
    """
    if not found:
        return Section("runs", "Runs")
    lead = () if len(found) <= _ROWS else (f"The latest {_ROWS} of {fmt.count(len(found))}. The export has them all.",)
    rows = tuple(_row(run) for run in found[:_ROWS])
    head = ("network", "machine", "outputs", "date", "budget s", "trials", "before ms", "after ms", "times as fast")
    chart = _latencies(found, network)
    table = Table(head, rows, 3, "Runs, the latest first")
    return Section("runs", "Runs", lead, () if chart is None else (chart,), (table,))


def _row(run: RunRecord) -> tuple[str, ...]:
    gain = run.before_seconds / run.after_seconds if run.before_seconds and run.after_seconds else None
    return (
        run.network or "without a name",
        run.target,
        run.outcome or "not judged",
        fmt.day(run.time),
        "no limit" if run.budget_seconds is None else fmt.seconds(run.budget_seconds),
        fmt.count(run.trials),
        fmt.milliseconds(run.before_seconds),
        fmt.milliseconds(run.after_seconds),
        fmt.significant(gain),
    )


def _latencies(found: Sequence[RunRecord], network: str) -> Chart | None:
    counts: dict[str, int] = {}
    for run in found:
        if run.after_seconds:
            counts[run.network] = counts.get(run.network, 0) + 1
    drawn = network or max(counts, key=lambda name: counts[name], default="")
    if counts.get(drawn, 0) < _LEAST:
        return None
    its = [run for run in reversed(found) if run.network == drawn and run.after_seconds]
    machines = list(dict.fromkeys(run.target for run in reversed(its)))[:_MACHINES]
    rows: list[JsonObject] = [
        {"time": 1e3 * run.time, "ms": 1e3 * (run.after_seconds or 0.0), "target": run.target, "day": fmt.day(run.time)}
        for run in its
        if run.target in machines
    ]
    domain: list[Json] = [*machines]
    content: JsonObject = {
        "mark": mark("line", "", point=True, aria=False),
        "encoding": {
            "x": field("time", "temporal", None, axis=axis(grid=False)),
            "y": field("ms", "quantitative", "ms of a run", scale={"zero": False}),
            "color": field("target", "nominal", None, scale={"domain": domain}, legend=LEGEND),
            "tooltip": tooltip(("day", "day"), ("target", "machine"), ("ms", "ms")),
        },
    }
    first, last = its[0], its[-1]
    text = (
        f"{fmt.count(len(rows))} runs of {fmt.short(drawn)}: {fmt.milliseconds(first.after_seconds)} ms on "
        f"{fmt.day(first.time)}, {fmt.milliseconds(last.after_seconds)} ms on {fmt.day(last.time)}."
    )
    table = Table(
        ("machine", "date", "ms"),
        tuple((run.target, fmt.day(run.time), fmt.milliseconds(run.after_seconds)) for run in its[::-1][:_ROWS]),
        1,
        "Latencies, the latest first",
    )
    title = f"Latency of {fmt.short(drawn) or 'the network without a name'} after each run"
    return Chart("latencies", title, text, spec(240, content, text, rows), table)
