"""The options of ``tilewright tune`` and ``build`` that keep weights in bfloat16, or multiply bfloat16 numbers."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tilewright.cli.completing import complete_from
from tilewright.cli.options import records_place
from tilewright.cli.reference import prepare_reference
from tilewright.cli.tuning import TuneOptions
from tilewright.cli.verbosity import remark
from tilewright.errors import ModelFormatError, TilewrightError
from tilewright.frontend.file_kinds import is_program
from tilewright.wording import counted, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilewright.frontend.shapes import ShapeRequest
    from tilewright.quantising.choosing import Chosen
    from tilewright.quantising.rounding import Matrix
    from tilewright.tuning.precision import ProductTimes
    from tilewright.tuning.report import PrecisionReport

__all__ = [
    "PRECISIONS",
    "BuildPrecisionOption",
    "MaxErrorOption",
    "PrecisionOption",
    "check_precision",
    "prepare_model",
    "prepare_precision",
]

PrecisionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=complete_from("tilewright.cli.precision", "PRECISIONS"),
        help="float32; bf16: on a processor with dot products of bfloat16 numbers, convolutions and products with "
        "weights use these, and round their operands. On others, large weights of products of few rows are rounded, "
        "which halves their bytes, and arithmetic stays float32. Or auto: the latter, where it is faster, within "
        "--max-error.",
    ),
]
BuildPrecisionOption: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="float32; or bf16, as for the command tune, but without measuring.")
]
MaxErrorOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="ERROR",
        help="With --precision auto: the largest error of an output against float64, relative to the output's largest "
        "number. By default 0.01.",
    ),
]
PRECISIONS = ("float32", "bf16", "auto")
#: ``--max-error`` where it is not given.
_MAX_ERROR = 1e-2
#: The share of the budget's seconds and trials, and the seconds, that measuring may take at most. (Choices.)
_SHARE, _MOST_SECONDS = 0.2, 40.0


def check_precision(name: str, max_error: float | None, *, alone: bool) -> None:
    """Refuse a name that is no precision, another one than float32 where it is not supported, and impossible errors.

    Args:
        name: as the command was given it.
        max_error: likewise; None: it was not given.
        alone: whether one model is tuned on this machine.

    Raises:
        TilewrightError: the precision or the error is refused.
    """
    if name not in PRECISIONS:
        raise TilewrightError(
            f"--precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}, but this is {name!r}"
            + (
                did_you_mean(name, PRECISIONS)
                or "; leave it out for float32, or quantise the model with tilewright quantize"
            )
        )
    if name != "float32" and not alone:
        raise TilewrightError(
            f"--precision {name} is for one model that is tuned on this machine, but there are several, or a fleet; "
            "leave it out"
        )
    if max_error is None:
        return
    if name != "auto":
        raise TilewrightError(
            f"--max-error limits what --precision auto chooses, but the precision is {name}; add --precision auto, or "
            "leave --max-error out"
        )
    if not 0 < max_error < 1:
        raise TilewrightError(
            f"--max-error is a share of an output's largest number, above 0 and below 1, but this is {max_error:g}; "
            "try 0.01"
        )


def prepare_precision(options: TuneOptions, stack: ExitStack) -> TuneOptions:
    """The options for a copy of the model whose weights are rounded, with notes about what that costs.

    Raises:
        ModelFormatError: the model is no ONNX file.
        TilewrightError: the model cannot be rounded.
    """
    name = options.precision
    if name == "float32":
        return options
    if name == "auto":
        return _choose(options, _copy_of(name, options.model, options.request, stack))
    model, notes = prepare_model(name, options.model, options.request, options.target, options.seed, stack)
    found = _tell(replace(options, model=model), notes)
    if _find_unit(options.target) is None:
        return found
    # The outputs of the executable itself are compared with those of the model.
    return prepare_reference(found, options.model, options.model)


def prepare_model(
    name: str, model: Path, request: ShapeRequest | None, target: str, seed: int, stack: ExitStack
) -> tuple[Path, list[str]]:
    """The model that is built for a precision, and notes that tell the user what the precision changes.

    For ``bf16`` it is a copy of the user's model, unless there is nothing to round.

    Args:
        name: ``float32`` or ``bf16``.
        model: its file.
        request: the shapes and values that a user gave for the inputs; None: there are none.
        target: what is built for, as text.
        seed: of random samples.
        stack: removes the copy.

    Raises:
        ModelFormatError: the model is no ONNX file.
        TilewrightError: the model cannot be rounded, or there is no such target.
    """
    if name == "float32":
        return model, []
    made = _copy_of(name, model, request, stack)
    from tilewright.quantising.rounding import mark_products, round_weights

    unit = _find_unit(target)
    if unit is not None:
        mark_products(model, made)
        return made, [
            f"convolutions and products with weights multiply bfloat16 numbers with {unit}: weights and data are "
            "rounded, and sums are float32; the verdict allows for that"
        ]
    from tilewright.processor import cache_sizes

    cached = cache_sizes()[1]
    found = round_weights(model, made, request, cached, seed)
    return (made, [str(found)]) if found.products else (model, [_nothing(name, cached)])


def _copy_of(name: str, model: Path, request: ShapeRequest | None, stack: ExitStack) -> Path:
    """Where a copy of the model may be written. Refuses what cannot be copied."""
    if is_program(model):
        raise ModelFormatError(
            f"--precision {name} takes an ONNX file, but {model} is another; leave it out, or export the model"
        )
    if request is not None and request.values:
        raise TilewrightError(f"--precision {name} and --fix cannot be combined; leave one of them out")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-precision-"))) / model.name


def _find_unit(text: str) -> str | None:
    """The instruction of a target for dot products of bfloat16 numbers; None if it has none."""
    from tilewright.ops.contraction.dot_products import find_bf16_product
    from tilewright.target import Target

    target = Target.parse(text)
    unit = find_bf16_product(target, target.lanes)
    return None if unit is None else unit.name


def _choose(options: TuneOptions, made: Path) -> TuneOptions:
    """Round those weights that bfloat16 makes faster, within the error."""
    from tilewright.processor import cache_sizes
    from tilewright.quantising.choosing import list_matrices

    cached = cache_sizes()[1]
    matrices = list_matrices(options.model, options.request, cached)
    if not matrices:
        return _tell(options, [_nothing("auto", cached)])
    from tilewright.tuning.precision import choose_precisions

    most = _MAX_ERROR if options.max_error is None else options.max_error
    times, trials = _measure(options, matrices)
    reports, chosen = choose_precisions(times, options.model, made, options.request, most, options.seed)
    rounded = chosen is not None and bool(chosen.groups)
    notes = [_describe(report, most) for report in reports]
    notes.append(_describe_whole(chosen, most))
    return _tell(replace(options, model=made if rounded else options.model), notes, reports, trials)


def _measure(options: TuneOptions, matrices: Sequence[Matrix]) -> tuple[list[ProductTimes], int]:
    """Measure the products in both precisions, within a share of the budget. Returns also how many trials that took.

    Raises:
        TargetError: code for the target does not run here.
    """
    from tilewright.measure.pool import LocalPool
    from tilewright.records.fallback import open_for_tuning
    from tilewright.target import Target
    from tilewright.tuning.building import refuse_tuning
    from tilewright.tuning.precision import measure_products

    seconds, trials = options.budget.seconds, options.budget.trials
    until = time.monotonic() + min(_MOST_SECONDS, math.inf if seconds is None else _SHARE * seconds)
    most = math.inf if trials is None else _SHARE * trials
    target = Target.parse(options.target).with_weights(sum(matrix.nbytes for matrix in matrices))
    refuse_tuning(target)
    with (
        open_for_tuning(records_place(options.records), tell=remark) as store,
        closing(LocalPool(target, on_measurement=lambda measured: store.add([measured]))) as pool,
    ):
        return measure_products(matrices, target, pool, store, until, most)


def _tell(
    options: TuneOptions, notes: Sequence[str], reports: tuple[PrecisionReport, ...] = (), trials: int = 0
) -> TuneOptions:
    """Say what was done, and keep it for the report."""
    from tilewright.tuning.preparation import Preparation

    for note in notes:
        remark(f"precision: {note}")
    return replace(options, preparation=Preparation(tuple(notes), reports, trials=trials))


def _nothing(name: str, cached: int) -> str:
    return (
        f"--precision {name} changes nothing: no product of few rows reads a matrix of more than the second cache, "
        f"{cached / 1e6:.3g} MB"
    )


def _describe(report: PrecisionReport, most: float) -> str:
    """What was chosen for products of one form, and why."""
    what = f"{report.task} ({counted(report.products, 'product')}): weights in {report.chosen}"
    if report.float32_ms is None or report.bf16_ms is None:
        return f"{what}, since not both could be measured within the budget"
    times = f"{report.bf16_ms:.3g} ms with bf16, {report.float32_ms:.3g} ms with float32"
    if report.error is None:
        return f"{what}, since bf16 is not surely faster: {times}"
    alone = f"an error of {report.error:.2g} by itself"
    if report.chosen == "bf16":
        return f"{what}: {times}, and {alone}"
    return f"{what}, since the error would exceed {most:g}: {times}, and {alone}"


def _describe_whole(chosen: Chosen | None, most: float) -> str:
    """The error of the network with what was chosen."""
    if chosen is None:
        return "all weights stay float32, and no output changes"
    against = "float64" if chosen.double else "the model in ONNX Runtime"
    kind = "random sample" if chosen.random else "sample"
    return (
        f"the outputs of the network differ from those in {against} by at most {chosen.error:.2g} of their largest "
        f"number, where {most:g} is allowed and float32 has {chosen.plain:.2g}, on {counted(chosen.samples, kind)}; "
        "arithmetic is float32"
    )
