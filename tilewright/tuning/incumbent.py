"""Builds and judges what a network runs with before it is tuned: the incumbent."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from tilewright.compiling.kernels import Kernels
from tilewright.errors import CheckError, CompilerError, TilewrightError
from tilewright.graph.left_out import extract_all, find_failing, leave_out, leave_out_all
from tilewright.graph.tasks import Extraction, extract
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Store
from tilewright.tuning.selection import select_recorded
from tilewright.tuning.workshop import JudgedExecutable, Workshop
from tilewright.verify.checker import Checker
from tilewright.verify.imported import find_wrong_nodes

__all__ = ["Incumbent", "build_incumbent"]


@dataclass(frozen=True)
class Incumbent:
    """What a network runs with before it is tuned.

    Attributes:
        extraction: the network. Operators that were imported wrong have gone to segments.
        workshop: built the executable, and builds others of the same extraction.
        executable: the executable, which was judged.
        notes: what went wrong, for people.
    """

    extraction: Extraction
    workshop: Workshop
    executable: JudgedExecutable
    notes: tuple[str, ...] = ()


def build_incumbent(extraction: Extraction, checker: Checker, aside: Path, store: Store) -> Incumbent:
    """Build the executable of the best schedules on record, or default ones, and have it judged.

    If its outputs are wrong because operators of an ONNX model were imported wrong, ONNX Runtime runs these operators.
    It also runs operators that TVM cannot compile.

    Args:
        extraction: the network.
        checker: judges the executable.
        aside: a directory for files, which outlives the executable.
        store: earlier measurements.

    Raises:
        CheckError: the outputs are wrong, and no operator of an ONNX model is to blame.
        CompilerError: compiling or linking failed, and no operator of an ONNX model is to blame.
    """
    try:
        return _build_first(extraction, checker, aside, store, "first")
    except CompilerError as error:
        if extraction.network.partition is None:
            raise
        divided = _without_uncompilable(extraction, error)
    return _build_first(divided, checker, aside, store, "compilable")


def _without_uncompilable(extraction: Extraction, error: CompilerError) -> Extraction:
    """The network without the operators that cannot be compiled alone; if all can, with nothing compiled."""
    network, target = extraction.network, extraction.target
    assert network.partition is not None

    def compile_part(part: Extraction) -> None:
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            kernels = Kernels(part, Path(folder))
            functions = select_recorded(part, MemoryStore()).functions
            failing = kernels.find_failing(functions)
            kernels.library({k: f for k, f in functions.items() if k not in failing}, Path(folder, "kernels.so"))

    order = network.partition.order
    failing = {order[place]: why for place, why in find_failing(network.partition, target, compile_part)}
    if failing:
        return extract_all(leave_out(network, failing), target)
    return extract(leave_out_all(network, str(error)), target)


def _build_first(extraction: Extraction, checker: Checker, aside: Path, store: Store, name: str) -> Incumbent:
    """As :func:`build_incumbent`, for a network that can be compiled. ``name``: of its files."""
    workshop = Workshop(extraction, checker, aside, name)
    try:
        return Incumbent(extraction, workshop, workshop.build(select_recorded(extraction, store)))
    except CheckError:
        trials = checker.trials.trials
        try:
            wrong = find_wrong_nodes(extraction.network, extraction.target, trials[0].inputs) if trials else {}
        except TilewrightError:  # it only looks for the cause of an error that is raised then
            wrong = {}
        if not wrong:
            raise
    divided = extract_all(leave_out(extraction.network, wrong), extraction.target)
    workshop = Workshop(divided, checker, aside, f"{name}-divided")
    note = (
        "operators that Tilewright computes wrong run in ONNX Runtime; this is a bug in Tilewright, please report it "
        "with the model"
    )
    return Incumbent(divided, workshop, workshop.build(select_recorded(divided, store)), (note,))
