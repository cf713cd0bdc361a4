"""Builds and judges what a network runs with before it is tuned: the incumbent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tilewright.compiling.kernels import Kernels
from tilewright.errors import CheckError, CompilerError, TilewrightError
from tilewright.frontend.network import Network
from tilewright.graph.buckets import Extracted, combine
from tilewright.graph.left_out import extract_all, find_failing, leave_out, leave_out_all
from tilewright.graph.tasks import Extraction, extract
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Store
from tilewright.tuning.selection import select_recorded
from tilewright.tuning.workshop import JudgedExecutable, Workshop
from tilewright.verify.checker import Checker
from tilewright.verify.imported import find_wrong_nodes
from tilewright.verify.inputs import Trials

__all__ = ["Incumbent", "build_incumbent", "extract_compiled"]


@dataclass(frozen=True)
class Incumbent:
    """What a network runs with before it is tuned.

    Attributes:
        extraction: the network. Operators that were imported wrong have gone to segments.
        workshop: built the executable, and builds others of the same extraction.
        executable: the executable, which was judged.
        notes: what went wrong, for people.
    """

    extraction: Extracted
    workshop: Workshop
    executable: JudgedExecutable
    notes: tuple[str, ...] = ()


def extract_compiled(extraction: Extraction, aside: Path, why: str) -> Extraction:
    """The network without the operators whose kernels cannot be compiled; without all, if none of them fails alone.

    Args:
        extraction: the network.
        aside: a directory for files.
        why: why the whole network cannot be compiled.
    """
    network, target = extraction.network, extraction.target

    def attempt(part: Network) -> str:
        try:
            alone = extract(part, target)
            functions = select_recorded(alone, MemoryStore()).functions
            kernels = Kernels(alone, aside / "part-kernels")
            failing = kernels.find_failing(functions)  # their schedules may be to blame
            kernels.library({key: f for key, f in functions.items() if key not in failing}, aside / "part.so")
        except TilewrightError as exc:
            return f"it cannot be compiled ({exc})"
        return ""

    failing = find_failing(network, attempt)
    return extract_all(leave_out(network, failing) if failing else leave_out_all(network, why), target)


def build_incumbent(extraction: Extracted, checker: Checker, aside: Path, store: Store) -> Incumbent:
    """Build the executable of the best schedules on record, or default ones, and have it judged.

    If its outputs are wrong because operators of an ONNX model were imported wrong, ONNX Runtime runs these operators.

    Args:
        extraction: the network.
        checker: judges the executable.
        aside: a directory for files, which outlives the executable.
        store: earlier measurements.

    Raises:
        CheckError: the outputs are wrong, and no operator of an ONNX model is to blame.
    """
    workshop = Workshop(extraction, checker, aside, "first")
    try:
        return Incumbent(extraction, workshop, workshop.build(select_recorded(extraction, store)))
    except CompilerError as error:
        if any(part.network.partition is None for part in extraction.parts):
            raise
        compiled = [extract_compiled(part, aside, str(error)) for part in extraction.parts]
        divided = combine(compiled, extraction.shares)
        workshop = Workshop(divided, checker, aside, "compiled")
        return Incumbent(divided, workshop, workshop.build(select_recorded(divided, store)))
    except CheckError:
        parts = [_divide(part, checker.trials_of(bucket)) for bucket, part in enumerate(extraction.parts)]
        if all(new is old for new, old in zip(parts, extraction.parts, strict=True)):
            raise
    divided = combine(parts, extraction.shares)
    workshop = Workshop(divided, checker, aside, "divided")
    note = (
        "operators that Tilewright computes wrong run in ONNX Runtime; this is a bug in Tilewright, please report it "
        "with the model"
    )
    return Incumbent(divided, workshop, workshop.build(select_recorded(divided, store)), (note,))


def _divide(part: Extraction, trials: Trials) -> Extraction:
    """The network in a bucket without the operators that were imported wrong; itself if none is found."""
    try:
        wrong = find_wrong_nodes(part.network, part.target, trials.trials[0].inputs) if trials.trials else {}
    except TilewrightError:  # it only looks for the cause of an error that is raised then
        wrong = {}
    return extract_all(leave_out(part.network, wrong), part.target) if wrong else part
