"""Builds and judges the incumbent: the executable of a network before it is tuned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tilewright.compiling.kernels import Kernels
from tilewright.errors import CheckError, CompilerError, TilewrightError
from tilewright.frontend.network import Network
from tilewright.graph.buckets import Extracted, combine
from tilewright.graph.left_out import MOST_DIVISIONS, extract_all, find_failing, leave_out, leave_out_all
from tilewright.graph.tasks import Extraction, extract
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Store
from tilewright.tuning.selection import select_recorded
from tilewright.tuning.workshop import JudgedExecutable, Workshop
from tilewright.verify.checker import Checker
from tilewright.verify.imported import find_wrong_nodes
from tilewright.verify.inputs import Trials
from tilewright.wording import describe_error

__all__ = ["Incumbent", "build_incumbent", "extract_compiled"]


@dataclass(frozen=True)
class Incumbent:
    """The executable of a network before it is tuned, and what it was built from.

    Attributes:
        extraction: the network. Operators that were imported wrong are in segments.
        workshop: built the executable, and builds others of the same extraction.
        executable: the executable, which was judged.
        notes: messages for users about failures.
    """

    extraction: Extracted
    workshop: Workshop
    executable: JudgedExecutable
    notes: tuple[str, ...] = ()


def extract_compiled(extraction: Extraction, aside: Path, why: str) -> Extraction:
    """The network with those operators in segments that cannot be compiled, alone or together with their neighbours.

    If that does not help, all operators are in one segment.

    Args:
        extraction: the network.
        aside: a directory for files.
        why: the reason that the whole network cannot be compiled.
    """
    network, target = extraction.network, extraction.target

    def attempt(part: Network) -> str:
        try:
            alone = extract(part, target)
            functions = select_recorded(alone, MemoryStore()).functions
            kernels = Kernels(alone, aside / "part-kernels")
            failing = kernels.find_failing(functions)  # these kernels may compile with another schedule
            kernels.library({key: f for key, f in functions.items() if key not in failing}, aside / "part.so")
        except TilewrightError as exc:
            return f"it cannot be compiled ({describe_error(exc.__cause__ or exc)})"
        return ""

    divided = network
    for _ in range(MOST_DIVISIONS):
        failing = find_failing(divided, attempt)
        if not failing:
            break
        divided = leave_out(divided, failing)
        if not attempt(divided):
            return extract_all(divided, target)
    return extract_all(leave_out_all(network, why), target)


def build_incumbent(extraction: Extracted, checker: Checker, aside: Path, store: Store) -> Incumbent:
    """Build the executable with the best schedules on record, or with default ones, and judge it.

    If its outputs are wrong because operators of an ONNX model were imported wrong, ONNX Runtime runs these operators.

    Args:
        extraction: the network.
        checker: judges the executable.
        aside: a directory for files, which outlives the executable.
        store: earlier measurements.

    Raises:
        CheckError: the outputs are wrong, and no wrong operator of an ONNX model was found.
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
    """The network of a bucket with wrongly imported operators in segments; itself if none is found."""
    try:
        wrong = find_wrong_nodes(part.network, part.target, trials.trials[0].inputs) if trials.trials else {}
    except TilewrightError:  # the caller raises the CheckError whose cause is looked for here
        wrong = {}
    return extract_all(leave_out(part.network, wrong), part.target) if wrong else part
