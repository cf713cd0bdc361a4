"""Reports which parts of a model run in our kernels, how fast they are, and what stays with PyTorch."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.processor import model_name
from tilewright.training.backend import sessions
from tilewright.training.results import (
    GraphReport,
    KernelShare,
    PartReport,
    ProofReport,
    SlotReport,
    StepsReport,
    TrainingReport,
)

if TYPE_CHECKING:
    import torch

    from tilewright.training.live import LivePart
    from tilewright.training.session import Session, StepGraph
    from tilewright.tuning.roofline import Roofline

__all__ = [
    "GraphReport",
    "KernelShare",
    "PartReport",
    "ProofReport",
    "SlotReport",
    "StepsReport",
    "TrainingReport",
    "report",
]


def report(model: torch.nn.Module, *, limits: bool = False) -> TrainingReport:
    """Report on a model that was compiled with the backend ``tilewright``.

    Args:
        model: the compiled model, or the one that was compiled. A model that has not run yet has no graphs. Models of
            one class that are compiled with the same options share their graphs.
        limits: whether to measure the limits of the machine, so that the report says how far kernels are from its
            roofline. That takes about a second, in which nothing else should run.

    Returns:
        what runs where, and how the training went. As text, it is a list for people;
        :meth:`TrainingReport.write_html` makes a page of it.

    Raises:
        TilewrightError: it is no module, or no process can be started that measures the limits.
    """
    if not hasattr(model, "parameters"):
        raise TilewrightError(f"report() takes the module whose parameters are trained, but got {model!r}")
    parameters = set(model.parameters())
    found = [session for session in list(sessions) if not parameters.isdisjoint(session.parameters)]
    graphs = [graph for session in found for graph in session.graphs]
    progress = next((graph.progress for graph in graphs if graph.progress is not None), None)
    # Of several graphs of a training, such as those for batches of other sizes, the one that ran most often.
    timed = [graph for graph in graphs if graph.progress is not None and graph.kind != "backward"]
    main = max(timed, key=lambda graph: (graph.kind == "forward", graph.steps), default=None)
    roofline = _measure(found) if limits and found else None
    # torch.compile wraps a model.
    named = getattr(model, "_orig_mod", model)
    return TrainingReport(
        graphs=tuple(_describe_graph(graph, roofline) for graph in graphs),
        model=type(named).__name__,
        machine=model_name(),
        cores=found[0].threads if found else 0,
        date=time.strftime("%Y-%m-%d"),
        versions=_versions(),
        options={name: str(value) for name, value in asdict(found[0].options).items()} if found else {},
        before_seconds=math.nan if main is None else main.lengths.before,
        now_seconds=math.nan if main is None else main.lengths.now,
        slots=SlotReport() if progress is None else progress.slots,
        roofline=None if roofline is None else roofline.describe(),
    )


def _measure(found: list[Session]) -> Roofline:
    """The roofline of this machine. The process that compiles is stopped meanwhile."""
    from contextlib import ExitStack

    from tilewright.tuning.roofline import measure_roofline

    with ExitStack() as stack:
        for progress in {graph.progress for session in found for graph in session.graphs} - {None}:
            assert progress is not None
            stack.enter_context(progress.run())
        return measure_roofline(found[0].threads)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("tilewright", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _describe_graph(graph: StepGraph, roofline: Roofline | None) -> GraphReport:
    return GraphReport(
        kind=graph.kind,
        steps=graph.steps,
        parts=tuple(_describe(part, roofline) for part in graph.parts),
        operators=sum(graph.rest.values()),
        rest=dict(Counter(graph.rest).most_common()),
        course=graph.course.pieces,
        changes=tuple(graph.course.changes),
    )


def _describe(part: LivePart, roofline: Roofline | None) -> PartReport:
    counts = part.counts
    return PartReport(
        name=part.name,
        state=part.state,
        reason=part.reason,
        operators=part.part.operators,
        ours=counts.ours,
        theirs=counts.theirs,
        copies=counts.copies,
        our_seconds=min(counts.our_seconds, default=math.nan),
        their_seconds=min(counts.their_seconds, default=math.nan),
        slower=part.slower,
        kernels=_list_kernels(part, roofline),
        proof=part.proof,
    )


def _list_kernels(part: LivePart, roofline: Roofline | None) -> tuple[KernelShare, ...]:
    """The kernels of a part, the heaviest first."""
    seconds, program = part.kernel_seconds, part.program
    total = sum(seconds.values()) or 1.0
    touched: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for kernel, count in zip(program.kernels, program.touched_bytes, strict=True) if program is not None else ():
        touched[kernel] += count
        calls[kernel] += 1
    shares = []
    for name in sorted(seconds, key=lambda each: -seconds[each]):
        task, known = part.tasks.get(name), name in calls
        flop = 0.0 if not name else None if task is None or not known else task.flop * calls[name]
        possible = None
        if roofline is not None and known and flop is not None:
            possible = calls[name] * roofline.bound(flop / calls[name], touched[name] / calls[name])
        shares.append(
            KernelShare(
                name=name,
                seconds=seconds[name],
                share=seconds[name] / total,
                task="" if task is None else task.name,
                calls=calls[name] or 1,
                flop=flop,
                touched_bytes=touched[name] if known else None,
                possible_seconds=possible,
            )
        )
    return tuple(shares)
