"""What follows from the report of a training: the time of a step, its kernels as tasks, what stays with PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tilewright.report.facts import TaskFacts
from tilewright.training.results import GraphReport, KernelShare, PartReport, StepsReport, TrainingReport
from tilewright.tuning.report import TaskReport

__all__ = ["KernelFacts", "describe_kernels", "find_main", "gain", "known", "part_seconds", "rest_seconds", "thin"]


@dataclass(frozen=True)
class KernelFacts:
    """A kernel, as pages show it: the part that it belongs to, its report, and what follows from that."""

    part: str
    kernel: KernelShare
    facts: TaskFacts


def known(seconds: float) -> float | None:
    """A time; None: not known."""
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def gain(report: TrainingReport) -> float | None:
    """How many times as fast a step is as in PyTorch's kernels; None: our kernels do not run, or too few steps did."""
    before, now = known(report.before_seconds), known(report.now_seconds)
    return before / now if before and now and any(part.in_ours for part in report.parts) else None


def find_main(report: TrainingReport) -> GraphReport | None:
    """The graph whose steps are shown: of those that train, the one with the most steps; None: nothing ran."""
    kinds = ("forward", "inference")
    begun = [graph for graph in report.graphs if graph.kind in kinds and graph.course]
    return min(begun, key=lambda graph: (kinds.index(graph.kind), -graph.steps), default=None)


def part_seconds(part: PartReport) -> float | None:
    """The seconds of a part in a step at present; None: not known."""
    return known(part.our_seconds if part.in_ours else part.their_seconds)


def rest_seconds(report: TrainingReport) -> float | None:
    """The seconds of a step outside of its parts; None: not known."""
    now = known(report.now_seconds)
    parts = [part_seconds(part) for graph in report.graphs if graph.kind != "inference" for part in graph.parts]
    if now is None or not parts or None in parts or sum(graph.kind == "forward" for graph in report.graphs) != 1:
        return None
    return max(0.0, now - sum(seconds for seconds in parts if seconds is not None))


def describe_kernels(report: TrainingReport) -> list[KernelFacts]:
    """The kernels of all parts that run in ours, those that take the most time first."""
    found = [
        (part.name, kernel)
        for graph in report.graphs
        for part in graph.parts
        if part.in_ours
        for kernel in part.kernels
        if kernel.seconds > 0
    ]
    total = sum(kernel.seconds for _, kernel in found)
    described = [
        KernelFacts(
            part,
            kernel,
            TaskFacts(
                report=_as_task(part, kernel),
                seconds=kernel.seconds,
                share=kernel.seconds / total if total else None,
                bound=kernel.possible_seconds,
                saving=0.0,
                in_place=True,
            ),
        )
        for part, kernel in found
    ]
    return sorted(described, key=lambda each: -each.kernel.seconds)


def _as_task(part: str, kernel: KernelShare) -> TaskReport:
    """A kernel in the shape of a task: the numbers of one call."""
    calls = max(1, kernel.calls)
    name = kernel.task or kernel.name or "copies"
    return TaskReport(
        name=f"{part.removesuffix(' part 0')}: {name}",
        kind="",
        key=kernel.name,
        weight=calls,
        flop=(kernel.flop or 0.0) / calls,
        best_seconds=kernel.seconds / calls,
        possible_seconds=kernel.possible_seconds and kernel.possible_seconds / calls,
        touched_bytes=kernel.touched_bytes and kernel.touched_bytes / calls,
        trials=0,
        recorded=0,
        rounds=0,
        failures={},
        exhausted=False,
        done=False,
        problem="",
    )


def thin(course: tuple[StepsReport, ...], most: int) -> list[StepsReport]:
    """At most so many pieces of a course, evenly chosen, the last one among them."""
    stride = max(1, math.ceil(len(course) / most))
    chosen = list(course[::stride])
    if course and chosen[-1] is not course[-1]:
        chosen.append(course[-1])
    return chosen
