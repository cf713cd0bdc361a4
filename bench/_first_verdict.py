"""Judges a model as ``tilewright tune`` does before it tunes: the executable with default schedules."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilewright.errors import CheckError, ProcessError, TilewrightError
from tilewright.frontend.load import load
from tilewright.frontend.shapes import ShapeRequest, make_request
from tilewright.graph.buckets import Extracted
from tilewright.graph.left_out import extract_all
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.records.memory import MemoryStore
from tilewright.target import Target
from tilewright.tuning.budget import Budget
from tilewright.tuning.budget_plan import reference_seconds
from tilewright.tuning.incumbent import build_incumbent
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome

__all__ = ["judge", "judge_apart"]

#: How a verdict is called in the report.
_OUTCOMES = {Outcome.RIGHT: "right", Outcome.WRONG: "wrong", Outcome.UNDECIDABLE: "undecided"}
#: The budget of the command whose first verdict this is, in seconds.
_BUDGET = 300.0
#: Seconds within which a model must be read, built and judged.
_MOST_SECONDS = 1200.0


def judge_apart(
    path: Path, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, tuple[float, ...]] | None = None
) -> dict[str, Any]:
    """What :func:`judge` tells, asked in a process of its own; a crash of that process is the outcome ``crashed``.

    Args:
        path: the model.
        shapes: of its inputs with open dimensions.
        values: of its inputs that become constants; None: there are none.
    """
    begin = time.monotonic()
    request = replace(make_request(shapes), values=dict(values or {}))
    with IsolatedCall(judge, str(path), request, seconds=_MOST_SECONDS) as call:
        try:
            found = call.result()
        except TilewrightError as error:
            outcome = "crashed" if isinstance(error, ProcessError) else "refused"
            found = {"outcome": outcome, "message": f"{type(error).__name__}: {error}"}
        except Exception as error:  # whatever else it raises is a bug
            found = {"outcome": "crashed", "message": f"{type(error).__name__}: {error}"}
    assert isinstance(found, dict)
    fixed = {"values": dict(values)} if values else {}
    return {**found, "shapes": dict(shapes), **fixed, "seconds": round(time.monotonic() - begin, 1)}


def judge(path: str, shapes: Mapping[str, tuple[int, ...]] | ShapeRequest) -> dict[str, Any]:
    """Read, build and judge a model.

    Args:
        path: the model's file.
        shapes: of its inputs with open dimensions; or what else is asked of the inputs.

    Returns:
        ``outcome`` (right, wrong, undecided), ``message``, ``error``, ``segments`` (the reasons of each), ``operators``
        and ``left_out`` (how many there are, and how many of these are in segments), ``tasks``, and ``read_seconds``.
    """
    begin = time.monotonic()
    target = Target.parse()
    network = load(path, shapes)
    read = time.monotonic() - begin
    target = target.with_weights(network.weight_bytes)
    with (
        tempfile.TemporaryDirectory(prefix="tilewright-bench-") as aside,
        Checker(network, reference_seconds(Budget(_BUDGET))) as checker,
    ):
        extraction = extract_all(network, target)
        try:
            built = build_incumbent(extraction, checker, Path(aside), MemoryStore())
        except CheckError as error:
            return {**_describe(extraction), "outcome": "wrong", "message": str(error)}
    verdict, executable = built.executable.verdict, built.executable
    said = [verdict.evidence, *built.notes]
    said += [f"{len(executable.replaced)} tasks have TVM's programs"] if executable.replaced else []
    about = {"error": verdict.error, "precision": verdict.precision, "read_seconds": round(read, 2)}
    about |= {"outcome": _OUTCOMES[verdict.outcome], "message": "; ".join(said)}
    return {**_describe(built.extraction), **about}


def _describe(extraction: Extracted) -> dict[str, Any]:
    network = extraction.network
    folded = network.folded
    return {
        "segments": [list(segment.reasons) for segment in network.segments],
        "operators": 0 if folded is None else len(folded.graph.node),
        "left_out": sum(len(segment.model.graph.node) for segment in network.segments),
        "tasks": len(extraction.uses),
    }
