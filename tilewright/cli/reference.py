"""The option of ``tilewright tune`` that compares outputs with those of another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from tilewright.cli.options import check_model
from tilewright.cli.tuning import TuneOptions
from tilewright.errors import ModelFormatError, TilewrightError
from tilewright.frontend.file_kinds import is_program

__all__ = ["ReferenceOption", "check_reference", "prepare_reference"]

ReferenceOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help="The ONNX file in floating point that MODEL was quantised from. Its outputs are compared with the "
        "executable's, on the inputs of --sample or on random ones.",
    ),
]


def check_reference(reference: Path | None, model: Path, *, alone: bool) -> None:
    """Refuse a reference that is no ONNX file, or where it is not supported.

    Args:
        reference: as the command was given it; None: it was not given.
        model: the model that is tuned.
        alone: whether one model is tuned on this machine.

    Raises:
        TilewrightError: the reference is refused.
    """
    if reference is None:
        return
    if not alone:
        raise TilewrightError(
            "--reference is for one model that is tuned on this machine, but there are several, or a fleet; leave it "
            "out"
        )
    check_model(reference)
    for path in (reference, model):
        if is_program(path):
            raise ModelFormatError(f"--reference compares two ONNX files, but {path} is another; leave it out")


def prepare_reference(options: TuneOptions, reference: Path | None, model: Path) -> TuneOptions:
    """The options with the outputs of the reference, which take a run of it in ONNX Runtime.

    Args:
        options: of the model that is tuned.
        reference: the file of the reference; None: there is none.
        model: the file that the user has named.

    Raises:
        ModelError: the two do not fit, or the reference cannot be run.
        ShapeError: samples do not fit, or a shape is not known.
    """
    if reference is None:
        return options
    if options.request is not None and options.request.values:
        raise TilewrightError("--reference and --fix cannot be combined; leave one of them out")
    from tilewright.tuning.preparation import Preparation
    from tilewright.tuning.reference import compute_reference

    outputs = compute_reference(reference, model, options.request, options.seed)
    return replace(options, preparation=replace(options.preparation or Preparation(), reference=outputs))
