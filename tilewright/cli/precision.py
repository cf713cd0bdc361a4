"""The option of ``tilewright tune`` that keeps weights in bfloat16."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from tilewright.cli.completing import complete_from
from tilewright.cli.tuning import TuneOptions
from tilewright.cli.verbosity import remark
from tilewright.errors import ModelFormatError, TilewrightError
from tilewright.frontend.file_kinds import is_program
from tilewright.wording import did_you_mean

__all__ = ["PRECISIONS", "PrecisionOption", "check_precision", "round_model"]

PrecisionOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=complete_from("tilewright.cli.precision", "PRECISIONS"),
        help="float32, or bf16: weights that are read from memory for few rows are rounded to bfloat16, which halves "
        "their bytes. Arithmetic stays float32.",
    ),
]
PRECISIONS = ("float32", "bf16")


def check_precision(name: str, *, alone: bool) -> None:
    """Refuse a name that is no precision, or bf16 where it is not supported.

    Args:
        name: as the command was given it.
        alone: whether one model is tuned on this machine.

    Raises:
        TilewrightError: so it is.
    """
    if name not in PRECISIONS:
        raise TilewrightError(
            f"--precision is {' or '.join(PRECISIONS)}, but this is {name!r}"
            + (did_you_mean(name, PRECISIONS) or "; leave it out for float32")
        )
    if name != "float32" and not alone:
        raise TilewrightError(
            "--precision bf16 is for one model that is tuned on this machine, but there are several, or a fleet; "
            "leave it out"
        )


def round_model(options: TuneOptions, stack: ExitStack) -> TuneOptions:
    """The options for a copy of the model whose weights are rounded, with a note about what that costs.

    Raises:
        ModelFormatError: the model is no ONNX file.
        TilewrightError: the model cannot be rounded.
    """
    if options.precision == "float32":
        return options
    if is_program(options.model):
        raise ModelFormatError(
            f"--precision bf16 takes an ONNX file, but {options.model} is another; leave it out, or export the model"
        )
    if options.request is not None and options.request.values:
        raise TilewrightError("--precision bf16 and --fix cannot be combined; leave one of them out")
    from tilewright.processor import cache_sizes
    from tilewright.quantising.rounding import round_weights

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-precision-")))
    cached = cache_sizes()[1]
    made = folder / options.model.name
    found = round_weights(options.model, made, options.request, cached, options.seed)
    if not found.products:
        note = (
            "--precision bf16 changes nothing: no product of few rows reads a matrix of more than the second cache, "
            f"{cached / 1e6:.3g} MB"
        )
        remark(f"note: {note}")
        return replace(options, notes=(note,))
    remark(f"precision: {found}")
    return replace(options, model=made, notes=(str(found),))
