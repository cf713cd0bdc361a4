"""Measures products of few rows with weights in float32 and in bfloat16."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.frontend.shapes import ShapeRequest
from tilewright.graph.tasks import task_of
from tilewright.graph.token_rows import choose_block
from tilewright.measure.runner import NoRunner, Runner
from tilewright.ops import contraction
from tilewright.quantising.choosing import Chosen, choose_weights
from tilewright.quantising.rounding import Matrix
from tilewright.records.store import Store
from tilewright.target import Target
from tilewright.task import Task
from tilewright.tuning.algorithms import MORE_CONFIGS, measure_few
from tilewright.tuning.report import PrecisionReport

__all__ = ["ProductTimes", "choose_precisions", "dense_task", "measure_products"]

#: bfloat16 weights must be so much faster, since they change the outputs.
_GAIN = 1.05


@dataclass(frozen=True)
class ProductTimes:
    """Products of one form, and the latencies of a call.

    Attributes:
        rows, depth, outputs: of the products; with several buckets, the fewest rows.
        matrices: their weights.
        float32, bf16: seconds; inf: not measured, or it does not work.
    """

    rows: int
    depth: int
    outputs: int
    matrices: tuple[Matrix, ...]
    float32: float
    bf16: float

    @property
    def gains(self) -> bool:
        """Whether weights in bfloat16 are surely faster."""
        return math.isfinite(self.float32) and self.bf16 * _GAIN < self.float32


def dense_task(rows: int, depth: int, outputs: int, lanes: int, halves: bool) -> Task:
    """The task of a product with a matrix of weights by itself, into which nothing is fused.

    Args:
        rows: of the data.
        depth: inputs.
        outputs: of a row.
        lanes: the float32 numbers in a vector register.
        halves: whether the weights are bfloat16 numbers.
    """
    x = choose_block(lanes, outputs, rows)
    return task_of("dense", contraction.dense(rows, (-(-outputs // x), depth, x), outputs, halves), (1,))


def measure_products(
    matrices: Sequence[Matrix],
    target: Target,
    runner: Runner,
    store: Store,
    deadline: float,
    most_trials: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[list[ProductTimes], int]:
    """Measure the products of matrices with a few configs in both precisions, the largest first.

    What the store knows of a task is not measured again. After the deadline nothing is measured.

    Args:
        matrices: the weights.
        target: what is measured for.
        runner: measures, and stores what it has measured.
        store: earlier measurements.
        deadline: the clock's reading after which no measurement is begun.
        most_trials: no products are measured that might exceed so many measurements.
        clock: gives seconds.

    Returns:
        the products of each form, and how many measurements were made.

    Raises:
        MeasureError: the runner cannot work.
    """
    forms: dict[tuple[int, int, int], list[Matrix]] = {}
    for matrix in matrices:
        forms.setdefault((matrix.rows[0], matrix.depth, matrix.outputs), []).append(matrix)
    found: list[ProductTimes] = []
    trials = 0
    for (rows, depth, outputs), group in sorted(forms.items(), key=lambda item: -sum(m.nbytes for m in item[1])):
        able = runner if trials + 2 * (1 + MORE_CONFIGS) <= most_trials else NoRunner()  # the records may know both
        seconds = [math.inf, math.inf]
        for place, halves in enumerate((False, True)):
            if clock() < deadline:
                task = dense_task(rows, depth, outputs, target.lanes, halves)
                seconds[place], made = measure_few(task, target, able, store, math.inf, deadline)
                trials += made
        found.append(ProductTimes(rows, depth, outputs, tuple(group), *seconds))
    return found, trials


def choose_precisions(
    times: Sequence[ProductTimes], model: Path, out: Path, shapes: ShapeRequest | None, most: float, seed: int
) -> tuple[tuple[PrecisionReport, ...], Chosen | None]:
    """Round the weights of those products that bfloat16 makes faster, as far as the error of the outputs allows.

    Args:
        times: of the products.
        model: the ONNX file.
        out: the file to write, if anything is rounded.
        shapes: what is asked of the inputs.
        most: the largest error of an output, relative to the output's largest number.
        seed: of random samples.

    Returns:
        what was chosen for each, and with which error; None: bfloat16 makes none of them faster.

    Raises:
        ModelError: ONNX Runtime cannot run the model.
        ShapeError: samples do not fit, or a shape is not known.
    """
    faster = [each for each in times if each.gains]
    groups = tuple(tuple(matrix.name for matrix in each.matrices) for each in faster)
    chosen = choose_weights(model, out, shapes, groups, most, seed) if groups else None
    reports = []
    for each in times:
        number = faster.index(each) if each in faster else -1
        rounded = chosen is not None and number in chosen.groups
        reports.append(
            PrecisionReport(
                f"{each.rows}x{each.depth} times {each.depth}x{each.outputs}",
                sum(matrix.products for matrix in each.matrices),
                "bf16" if rounded else "float32",
                1e3 * each.float32 if math.isfinite(each.float32) else None,
                1e3 * each.bf16 if math.isfinite(each.bf16) else None,
                chosen.alone[number] if chosen is not None and number >= 0 else None,
            )
        )
    return tuple(reports), chosen
