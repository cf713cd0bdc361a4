"""The section of a run's page about layouts and algorithms."""

from __future__ import annotations

from collections.abc import Sequence

from tilewright.report import figures as fmt
from tilewright.report.content import Section, Table
from tilewright.report.facts import TaskFacts
from tilewright.report.run import Run
from tilewright.wording import counted

__all__ = ["choices_section"]


def choices_section(run: Run, facts: Sequence[TaskFacts]) -> Section:
    """Layouts and algorithms, and why."""
    report, points, tables, lead = run.report, [], [], []
    if run.plan is not None:
        lanes = run.plan.vector // 4
        images = [tensor for tensor in run.plan.tensors if tensor.region != "weights" and len(tensor.shape) >= 5]
        blocked = sum(tensor.shape[-1] == lanes for tensor in images)
        if images:
            lead.append(
                f"{blocked} of {counted(len(images), 'image')} lie in blocks of {lanes} channels, as many float32 "
                f"numbers as a register of {run.plan.vector} bytes holds, so that kernels load whole registers."
            )
    if report.algorithms:
        names = sorted({name for each in report.algorithms for name in each.milliseconds})
        tables.append(
            Table(
                ("convolution", "calls", "chosen", *(f"{name} ms" for name in names)),
                tuple(
                    (
                        each.conv,
                        str(each.count),
                        each.chosen,
                        *(fmt.significant(each.milliseconds.get(name)) for name in names),
                    )
                    for each in report.algorithms
                ),
                1,
                "Algorithms of convolutions: the fastest of those that were measured; direct where none was",
            )
        )
    if report.plain_operators:
        points.append(f"In plain layout, because no template serves them: {', '.join(report.plain_operators)}")
    for number, segment in enumerate(report.segments, 1):
        points.append(
            f"Part {number}, {counted(segment.nodes, 'operator')}, runs in ONNX Runtime: {'; '.join(segment.reasons)}"
        )
    if report.default_tasks:
        points.append(f"With default schedules: {len(report.default_tasks)} of {counted(len(run.tasks), 'task')}")
    points += [f"{each.report.name} was not tuned: {each.report.problem}" for each in facts if each.report.problem]
    if report.sharing is not None and report.sharing.borrowed:
        best = sum(loan.best for loan in report.sharing.borrowed)
        shared = f"{counted(len(report.sharing.clusters), 'cluster')} of similar tasks shared configs."
        if report.sharing.compared:
            shared += (
                f" Borrowed ones won {report.sharing.won:g} of {counted(report.sharing.compared, 'round')}, and are "
                f"the best of {counted(best, 'task')}."
            )
        points.append(shared)
    return Section("choices", "Layouts and algorithms", tuple(lead), (), tuple(tables), (), None, tuple(points))
