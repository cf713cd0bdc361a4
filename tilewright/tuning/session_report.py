"""Puts the report of a whole command together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tilewright.executable.executable import Executable
from tilewright.frontend.network import Network
from tilewright.graph.buckets import Buckets, Extracted, describe_bucket
from tilewright.jsonable import to_json
from tilewright.measure.batch import PoolStatistics
from tilewright.notebook import html_table
from tilewright.tuning.algorithms import AlgorithmChoice
from tilewright.tuning.budget_plan import BudgetPlan
from tilewright.tuning.finish import Finishing
from tilewright.tuning.joining import JoinChoice
from tilewright.tuning.preparation import Preparation
from tilewright.tuning.report import (
    BucketReport,
    CheckReport,
    DisturbanceReport,
    NodeReport,
    SegmentReport,
    StartReport,
    TuneReport,
)
from tilewright.tuning.scheduler import NetworkTuner
from tilewright.wording import counted

__all__ = ["Outcomes", "describe_parts", "describe_result", "report_session"]

#: How many tasks a notebook shows.
_MOST_TASKS = 10
#: How many reasons a note gives for one segment. The report has all of them.
_MOST_REASONS = 3


@dataclass(frozen=True)
class Outcomes:
    """What a command has done.

    Attributes:
        start: what was known before tuning.
        tuner: of the network.
        finishing: the steps after it.
        extraction: the network as it was tuned.
        plan: how the budget was divided; None: the command was interrupted before that.
        algorithms: of convolutions, attentions and pairs of convolutions.
        algorithm_trials: measurements that chose them.
        statistics: of the workers.
        check_seconds: that building and judging the incumbent took.
        build_seconds: from the end of tuning to the end of the command.
        caches: in which state of the caches candidates were timed.
        interrupted: whether a signal ended the command.
        published: "tuned", "incumbent" or "earlier".
        unrecorded: measurements that the store did not take.
        preparation: what was done with the model before.
        executable: what was published.
        nodes: of the fleet that measured; empty: this machine did.
    """

    start: StartReport
    tuner: NetworkTuner
    finishing: Finishing
    extraction: Extracted
    plan: BudgetPlan | None
    algorithms: Sequence[AlgorithmChoice | JoinChoice]
    algorithm_trials: int
    statistics: PoolStatistics
    check_seconds: float
    build_seconds: float
    caches: str
    interrupted: bool
    published: str
    unrecorded: int
    preparation: Preparation
    executable: Executable
    nodes: tuple[NodeReport, ...] = ()


def report_session(done: Outcomes) -> TuneReport:
    """The report of a command that has published an executable."""
    finishing, best = done.finishing, done.finishing.best
    names = {use.task.key: use.task.name for e in (best.extraction, done.extraction) for use in e.uses}
    defaults = [use.task for use in best.extraction.uses if best.selection.configs.get(use.task.key) is None]
    whole = {**vars(done.tuner.report()), **vars(done.start), "interrupted": done.interrupted}
    segments, more = describe_parts(*(part.network for part in best.extraction.parts))
    reference, why = done.preparation.compare(lambda sample: done.executable(**sample))
    whole["notes"] = (*done.start.notes, *finishing.notes, *more, *why)
    return TuneReport(
        **whole,
        published=done.published,
        verdict=best.verdict,
        first_check=CheckReport(done.check_seconds, finishing.incumbent.verdict),
        budget_plan=None if done.plan is None else {name: to_json(step) for name, step in done.plan.steps()},
        algorithm_trials=done.algorithm_trials,
        build_seconds=done.build_seconds,
        relative_error=best.verdict.error,
        replaced_tasks=tuple(names[key] for key in best.replaced),
        wrong_kernels={names[key]: reason for key, reason in finishing.check.wrong.items()},
        unchecked_kernels=tuple(names[key] for key in finishing.check.unchecked),
        default_tasks=tuple(task.name for task in defaults),
        algorithms=tuple(choice.report() for choice in done.algorithms),
        precisions=done.preparation.precisions,
        precision_trials=done.preparation.trials,
        reference=reference,
        unrecorded=done.unrecorded,
        nodes=done.nodes,
        plain_operators=tuple(best.extraction.fallbacks),
        segments=segments,
        worker_peak_bytes=done.statistics.peak_rss,
        caches=done.caches,
        disturbance=DisturbanceReport(
            done.statistics.disturbed, done.statistics.remeasured, dict(sorted(done.statistics.causes.items()))
        ),
        # When every task had its first result: near what the default schedules give.
        before_seconds=next((latency for _, latency in done.tuner.curve if latency), None),
        after_seconds=done.tuner.estimated_latency,
        in_place=None if finishing.contest is None else finishing.contest.report,
        final_race=finishing.race,
        runtime_race=finishing.runtime_race,
        buckets=_report_buckets(done.extraction, done.tuner),
    )


def _report_buckets(extraction: Extracted, tuner: NetworkTuner) -> tuple[BucketReport, ...]:
    """The buckets of an executable with several."""
    if not isinstance(extraction, Buckets):
        return ()
    best = {key: task.best_seconds for key, task in tuner.tuners.items()}
    found = []
    for part, share in zip(extraction.parts, extraction.shares, strict=True):
        seconds = sum(use.weight * best.get(use.task.key, math.inf) for use in part.uses)
        known = seconds if math.isfinite(seconds) else None
        found.append(BucketReport(describe_bucket(part.network), share, len(part.uses), known))
    return tuple(found)


def describe_parts(*networks: Network) -> tuple[tuple[SegmentReport, ...], tuple[str, ...]]:
    """The parts of a network that ONNX Runtime runs, and notes about these and about inputs without elements.

    Args:
        networks: the network in each bucket. What is said of several of them is said once.
    """
    segments = tuple(
        SegmentReport(s.operators, len(s.model.graph.node), s.reasons) for network in networks for s in network.segments
    )
    empty = (note for network in networks for note in _describe_empty(network))
    return segments, tuple(dict.fromkeys((*_describe_segments(segments), *empty)))


def _describe_segments(segments: Sequence[SegmentReport]) -> Iterator[str]:
    """A sentence about each part that ONNX Runtime runs."""
    for segment in segments:
        calls: dict[str, list[str]] = {}
        for reason in segment.reasons:
            call, _, why = reason.partition(": ")
            calls.setdefault(why, []).append(call)
        said = [
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {why}"
            for why, names in list(calls.items())[:_MOST_REASONS]
        ]
        if len(calls) > _MOST_REASONS:
            said.append(f"{counted(len(calls) - _MOST_REASONS, 'more reason')}, which --json lists")
        yield (
            f"ONNX Runtime runs {counted(segment.nodes, 'operator')} ({', '.join(segment.operators)}), so the "
            f"executable needs the package onnxruntime: {'; '.join(said)}"
        )


def _describe_empty(network: Network) -> Iterator[str]:
    """A sentence about each input that has no elements: perhaps its model meant an open dimension."""
    for spec in network.inputs:
        if 0 in spec.shape:
            yield (
                f"the input {spec.name!r} is {list(spec.shape)}, which has no elements; if 0 stands for an open "
                "dimension, give its shape with --shape"
            )


def describe_result(report: TuneReport) -> str:
    """A report as a table of HTML, for notebooks: the races, the verdict, and the tasks that take the most time."""
    rows: list[tuple[str, str]] = []
    race, runtime = report.final_race, report.runtime_race
    if race is not None:
        rows.append(("tuned", f"{race.tuned_ms:.4g} ms; before {race.incumbent_ms:.4g} ms; kept: {race.kept}"))
    elif report.before_seconds and report.after_seconds:
        rows.append(
            ("estimated", f"{1e3 * report.after_seconds:.4g} ms; at first {1e3 * report.before_seconds:.4g} ms")
        )
    if runtime is not None:
        rows.append(("ONNX Runtime", f"{runtime.onnxruntime_ms:.4g} ms; kept: {runtime.kept}"))
    if report.verdict is not None:
        rows.append(("outputs", f"{report.verdict.outcome.value}; {report.verdict.evidence}"))
    rows.append(("trials", f"{report.trials} in {report.wall_seconds:.1f} s"))
    known = [task for task in report.tasks if task.best_seconds is not None]
    heavy = sorted(known, key=lambda task: -task.weight * (task.best_seconds or 0.0))[:_MOST_TASKS]
    rows += [(t.name, f"{1e3 * t.weight * (t.best_seconds or 0.0):.4g} ms of a run, {t.trials} trials") for t in heavy]
    return html_table(f"Tuned {report.model or 'network'}", (), rows, "tilewright report OUT makes a page of it.")
