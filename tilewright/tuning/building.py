"""Builds an executable without tuning: with the best schedules on record, or with default ones.

The target may be a machine that cannot run code here. Then nothing of the target's runs while the executable is built.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilewright.compiling.build import check_compiler, publish, write
from tilewright.compiling.kernels import Kernels
from tilewright.errors import CompilerError, TargetError, UnsupportedOperatorError
from tilewright.executable.runtime.features import find_missing_features
from tilewright.frontend.network import Network
from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.buckets import Extracted, extract_buckets
from tilewright.records.store import Group, TolerantStore
from tilewright.target import Target
from tilewright.tuning.bucketing import read_buckets
from tilewright.tuning.incumbent import build_incumbent
from tilewright.tuning.selection import Selection, select_recorded
from tilewright.tuning.ways import recorded_ways
from tilewright.verify.checker import Checker
from tilewright.verify.verdict import Outcome, Verdict

__all__ = ["Built", "build_model", "find_obstacle", "find_recorded", "refuse_tuning"]

#: Seconds for finding the inputs that the executable is judged on, where it runs here. (A choice.)
_CHECKING = 20.0


@dataclass(frozen=True)
class Built:
    """An executable that was built without tuning.

    Attributes:
        target: what it was built for.
        tasks: how many tasks it has.
        recorded: how many of them have a schedule from the records.
        verdict: on its outputs.
        notes: messages for users about failures.
    """

    target: Target
    tasks: int
    recorded: int
    verdict: Verdict
    notes: tuple[str, ...] = ()


def find_obstacle(target: Target) -> str:
    """Why code for ``target`` does not run on this machine; empty if it does."""
    if target.triple:
        return f"code for {target.triple} does not run here"
    missing = find_missing_features(target.extensions)
    return f"code for {target.mcpu} needs {', '.join(missing)}, which this processor lacks" if missing else ""


def build_model(model: object, out: Path, target: Target, request: ShapeRequest, store: TolerantStore) -> Built:
    """Build an executable of a model without tuning it.

    Args:
        model: what :func:`tilewright.frontend.load.load_buckets` takes.
        out: the directory to write; an executable that is there is replaced.
        target: what to build for. If code for it does not run here, the outputs are not judged.
        request: what is asked of the inputs.
        store: earlier measurements.

    Raises:
        UnsupportedOperatorError: the target is another platform, and a part of the model would run in ONNX Runtime or
            on TVM's virtual machine.
        CompilerError: there is no compiler for the target, or it fails.
        CheckError: the executable runs here, and its outputs are wrong.
        TilewrightError: as the parts do.
    """
    check_compiler(target.triple)
    read = read_buckets(model, request)
    target = target.with_weights(read.weight_bytes)
    if target.triple:
        _check_compiled(read.networks)
    obstacle = find_obstacle(target)
    if not obstacle:
        with (
            Checker(read.networks, _CHECKING, read.samples) as checker,
            tempfile.TemporaryDirectory(prefix="tilewright-") as aside,
        ):
            extraction = extract_buckets(read.networks, target, read.shares)
            extraction = recorded_ways(extraction, target, store).apply(extraction)
            built = build_incumbent(extraction, checker, Path(aside), store)
            verdict = built.executable.verdict
            publish(built.executable.folder, out, {"verdict": verdict.report()})
            return _report(built.extraction, built.executable.selection, verdict, built.notes)
    target = find_recorded(target, store)
    extraction = extract_buckets(read.networks, target, read.shares)
    extraction = recorded_ways(extraction, target, store).apply(extraction)
    if target.triple:
        _check_compiled([part.network for part in extraction.parts])
        _check_planned(extraction)
    verdict = Verdict(Outcome.UNDECIDABLE, evidence=f"{obstacle}, so that its outputs were not compared")
    selection, notes = _write(extraction, select_recorded(extraction, store), out, verdict)
    return _report(extraction, selection, verdict, notes)


def find_recorded(target: Target, store: TolerantStore) -> Target:
    """A target which cannot be measured here, with the cores and the records of a machine that has its CPU.

    Of several machines, one whose candidates found their data in the same caches is taken, and then the one with the
    most measurements.

    Args:
        target: the target. Its cores are not those of a machine.
        store: earlier measurements.

    Returns:
        the target itself if there is no such machine.
    """
    like = re.compile(re.escape(target.mcpu) + r"-(\d+)x-[0-9a-f]{12}(-[a-z]+)?")
    counts: Counter[str] = Counter()
    for group in store.groups():
        if isinstance(group, Group) and group.query.target and like.fullmatch(group.query.target):
            counts[group.query.target] += group.count
    if not counts:
        return target
    suffix = "" if target.caches == "warm" else f"-{target.caches}"
    key = max(sorted(counts), key=lambda key: ((like.sub(r"\2", key) or "") == suffix, counts[key]))
    return replace(target, cores=int(like.sub(r"\1", key)), recorded_as=key)


def _write(
    extraction: Extracted, selection: Selection, out: Path, verdict: Verdict
) -> tuple[Selection, tuple[str, ...]]:
    """Write an executable that does not run here. Tasks whose schedules do not compile get TVM's own programs."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        kernels = Kernels(extraction, Path(folder, "kernels"))
        extra = {"verdict": verdict.report()}
        try:
            write(extraction, selection.functions, out, extra, kernels)
            return selection, ()
        except CompilerError:
            failing = set(kernels.find_failing(selection.functions))
            if not failing:
                raise
        functions = {key: function for key, function in selection.functions.items() if key not in failing}
        write(extraction, functions, out, extra, kernels)
    names = ", ".join(use.task.name for use in extraction.uses if use.task.key in failing)
    changed = replace(selection, functions=functions).mark_default(failing)
    return changed, (f"the schedules of these tasks cannot be compiled, so that they have none: {names}",)


def _report(extraction: Extracted, selection: Selection, verdict: Verdict, notes: Sequence[str]) -> Built:
    return Built(extraction.target, len(extraction.uses), len(selection.tuned), verdict, tuple(notes))


def _check_compiled(networks: Sequence[Network]) -> None:
    """Raise ``UnsupportedOperatorError`` if ONNX Runtime would run a part of a network."""
    for network in networks:
        for segment in network.segments:
            reason = segment.reasons[0] if segment.reasons else ", ".join(segment.operators)
            raise UnsupportedOperatorError(
                "an executable for another platform holds compiled kernels only, but ONNX Runtime would run a part of "
                f"{network.name}: {reason}; export a model without these operators, or tune on that platform"
            )


def _check_planned(extraction: Extracted) -> None:
    """Raise ``UnsupportedOperatorError`` if TVM's virtual machine would run the network."""
    for part in extraction.parts:
        if part.plan is None:
            raise UnsupportedOperatorError(
                "an executable for another platform runs a plan of kernels, but TVM's virtual machine would run "
                f"{part.network.name}, since it calls functions of a library; tune on that platform"
            )


def refuse_tuning(target: Target) -> None:
    """Raise ``TargetError`` if candidates for ``target`` cannot be timed on this machine."""
    obstacle = find_obstacle(target)
    if obstacle:
        raise TargetError(
            f"candidates are timed on this machine, but {obstacle}; tune there, or build without tuning with: "
            "tilewright build"
        )
