"""The section of a run's page about the shapes that an executable takes, if it has several buckets."""

from __future__ import annotations

from tilewright.report import figures as fmt
from tilewright.report.content import Section, Table
from tilewright.report.run import Bench, Run
from tilewright.wording import counted

__all__ = ["shapes_section"]


def shapes_section(run: Run) -> Section:
    """The shapes that the executable takes, and how fast it is with each; empty: it takes one."""
    buckets = run.report.buckets
    benches = [] if run.bench is None or not run.bench.others else [run.bench, *run.bench.others]
    tables = []
    if len(buckets) > 1:
        total = sum(bucket.weight for bucket in buckets)
        rows = tuple(
            (
                bucket.shapes,
                fmt.percent(bucket.weight / total if total else None, 2),
                fmt.count(bucket.tasks),
                fmt.milliseconds(bucket.estimated_seconds),
            )
            for bucket in buckets
        )
        head = ("shapes", "share of the tuning", "tasks", "estimated ms")
        tables.append(Table(head, rows, 1, "Input shapes that the executable was built for"))
    if benches:
        tables.append(_benched(benches))
    lead: tuple[str, ...] = ()
    if tables:
        number = max(len(buckets), len(benches))
        lead = (
            f"The executable has kernels for {counted(number, 'set')} of input shapes. It pads other inputs if it can.",
        )
        if benches:
            lead += ("The figures above are those of the first one.",)
    return Section("shapes", "How fast is each input shape?", lead, (), tuple(tables))


def _benched(benches: list[Bench]) -> Table:
    names = list(dict.fromkeys(peer.name for bench in benches for peer in bench.peers))
    rows = []
    for bench in benches:
        speeds = {peer.name: fmt.factor(peer.speed) for peer in bench.peers}
        cells = (speeds.get(name, "") for name in names)
        rows.append((bench.shapes, fmt.significant(bench.milliseconds), *cells))
    head = ("shapes", "ms", *(f"times as fast as {name}" for name in names))
    return Table(head, tuple(rows), 1, "Raced by turns with each set of shapes")
