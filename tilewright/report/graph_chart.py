"""The chart of the graph of a network: its calls, their shares of the time, and their distance from the roofline."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.jsonable import JsonObject
from tilewright.report import figures as fmt
from tilewright.report.content import Chart, Table
from tilewright.report.facts import TaskFacts, call_seconds
from tilewright.report.network import Node
from tilewright.report.run import Run
from tilewright.report.specs import data, field, layers, mark, spec, tooltip

__all__ = ["graph_chart"]

#: Pixels for one depth of the graph, at least; the chart scrolls if the page is narrower.
_STEP = 14


def graph_chart(run: Run, facts: Sequence[TaskFacts]) -> Chart | None:
    """The calls of the network from left to right: their shares of the time, and how far they are from the roofline."""
    nodes = run.nodes
    if len(nodes) < 2:
        return None
    by_key = {each.report.key: each for each in facts}
    timed = call_seconds(run)
    seconds = [_node_seconds(node.task, by_key) if timed is None else timed[node.number] for node in nodes]
    rows, table = _call_rows(nodes, seconds, by_key)
    depth = max(node.depth for node in nodes) + 1
    reach = max(abs(node.lane) for node in nodes)
    parts = _graph_layers(nodes, rows, depth, reach, any(seconds))
    text = f"{len(nodes)} calls of kernels in {depth} steps, from the input on the left to the output on the right."
    return Chart(
        "graph",
        "The network, call by call",
        text,
        spec(int(110 + 46 * 2 * reach), layers(*parts), text),
        Table(
            ("call", "task", "output", "ms", "share", "times the roofline"),
            table,
            3,
            "Calls in the order in which they run",
        ),
        scrolls=_STEP * depth,
        note=_note(run, any(seconds)),
    )


def _note(run: Run, timed: bool) -> str:
    """How to read the chart."""
    shapes = f"For {fmt.short(run.drawn)}. " if run.drawn else ""
    if not timed:
        return f"{shapes}The times of the calls are not known."
    return (
        f"{shapes}The area is the share of the time, the colour how many times as long as its roofline it takes. "
        "Grey: no roofline is known."
    )


def _call_rows(
    nodes: Sequence[Node], seconds: Sequence[float], by_key: dict[str, TaskFacts]
) -> tuple[list[JsonObject], tuple[tuple[str, ...], ...]]:
    """The calls as the chart draws them, and as rows of its table."""
    total = sum(seconds) or 1.0
    rows: list[JsonObject] = []
    table: list[tuple[str, ...]] = []
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
                "share": spent / total if any(seconds) else 1.0,
                "percent": fmt.percent(spent / total if any(seconds) else None),
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
                fmt.milliseconds(spent or None),
                fmt.percent(spent / total if any(seconds) else None),
                fmt.factor(distance),
            )
        )
    return rows, tuple(table)


def _graph_layers(
    nodes: Sequence[Node], rows: list[JsonObject], depth: int, reach: float, timed: bool
) -> list[JsonObject]:
    """The layers of the graph: its edges below its nodes."""
    legend: JsonObject = {"orient": "top", "gradientLength": 160, "values": [1, 2, 4, 8], "tickCount": 4}
    edges: list[JsonObject] = [
        {"x": nodes[s].depth, "y": nodes[s].lane, "x2": node.depth, "y2": node.lane}
        for node in nodes
        for s in node.reads
    ]
    x = field("x", "quantitative", None, scale={"domain": [-0.7, depth - 0.3], "nice": False}, axis=None)
    y = field("y", "quantitative", None, scale={"domain": [-reach - 0.9, reach + 0.9], "nice": False}, axis=None)
    colour = field(
        "distance",
        "quantitative",
        "times the roofline",
        scale={"type": "log", "domain": [1, 8], "range": "ramp", "clamp": True},
        legend=legend if timed else None,
    )
    return [
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
                    scale={
                        "domain": [0, max(float(str(row["share"])) for row in rows)],
                        "range": [24, 760 if timed else 90],
                    },
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


def _node_seconds(task: str, facts: dict[str, TaskFacts]) -> float:
    each = facts.get(task)
    return (each.report.best_seconds or 0.0) if each is not None else 0.0
