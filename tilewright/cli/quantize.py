"""``tilewright quantize``: writes a quantised model with ONNX Runtime's quantiser."""

from __future__ import annotations

import stat
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.completing import complete_from
from tilewright.cli.inputs import ShapeOption, make_shape_request, read_sample
from tilewright.cli.options import JsonOption, check_model
from tilewright.cli.text import accuracy_table
from tilewright.cli.verbosity import Verbosity, remark, verbosity
from tilewright.errors import ModelFormatError, OutputError, TilewrightError
from tilewright.frontend.file_kinds import is_program
from tilewright.jsonable import to_json_object
from tilewright.measure.memory import check_memory
from tilewright.names import check_encodable
from tilewright.scratch import scratch
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.quantising import Quantised

__all__ = ["quantize"]

#: The bytes of address space and of memory that quantising a small model needs: Python, NumPy and ONNX Runtime.
_LEAST = (1 << 30, 256 << 20)
#: How many random samples ``--random`` draws.
_RANDOM = 8


@command
def quantize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model: an ONNX file in floating point.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The quantised model. By default the model's name and .int8.onnx."),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibrate",
            metavar="X.NPZ",
            help="Samples of the inputs by name, stacked along one more axis in front. May be given several times.",
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Calibrate with random numbers: for trials of speed only.")
    ] = False,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_from("tilewright.quantising.plan", "CALIBRATIONS"),
            help="How ranges are found: minmax, entropy or percentile.",
        ),
    ] = "minmax",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Compute the scales of activations at run time. Needs no samples.")
    ] = False,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="One scale for each weight, instead of one for each of its channels.")
    ] = False,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Activations in int8 around 0, instead of uint8 with a zero point.")
    ] = False,
    reduce_range: Annotated[
        bool,
        typer.Option("--reduce-range", help="Weights of 7 bits: faster on x86-64 without VNNI, and less exact."),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="NAME",
            help="A node, a pattern such as '*/output/*', or an operator such as Softmax, that stays in float32. "
            "May be given several times.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="An operator, such as MatMul, that is quantised; all others stay in floating point. May be "
            "given several times.",
        ),
    ] = None,
    shape: ShapeOption = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The seed of --random.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Quantise MODEL with ONNX Runtime's quantiser, and compare its outputs with those in floating point."""
    check_model(model)
    if is_program(model):
        raise ModelFormatError(f"the quantiser takes an ONNX file, but {model} is another; export it with torch.onnx")
    out = out or model.with_name(f"{model.stem}.int8.onnx")
    _check_out(out, model)
    if shape and not random:
        raise TilewrightError("--shape is that of --random's samples, but --random is missing; leave --shape out")
    check_memory(*_LEAST)
    with scratch():
        from tilewright.quantising import QuantisingPlan, quantise

        plan = QuantisingPlan(
            model=model,
            out=out,
            samples=tuple(read_sample(path) for path in calibrate or ()),
            random=_RANDOM if random else 0,
            calibration=method,
            dynamic=dynamic,
            per_channel=not per_tensor,
            symmetric=symmetric,
            reduce_range=reduce_range,
            exclude=tuple(exclude or ()),
            only=tuple(only or ()),
            shapes=make_shape_request(shape),
            seed=seed,
        )
        found = quantise(plan)
    write_json(json_file, {"model": str(model), "out": str(out), "random": random, **to_json_object(found)})
    if verbosity() is Verbosity.QUIET:
        print(out)
        return
    _tell(found, random)
    print(f"{out}; tune it with: tilewright tune {quote(str(out))} --reference {quote(str(model))}")


def _check_out(out: Path, model: Path) -> None:
    """Refuse a name that no file can have, and one of something that is not replaced.

    Raises:
        OutputError: it is one.
    """
    for path in (model, out):
        check_encodable(path.absolute(), "a file that ONNX Runtime reads or writes", "rename it")
    try:
        replaces = stat.S_ISREG(out.stat().st_mode) and not out.samefile(model)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(
            f"--out names a file that can be written, but {out} is none: {error.strerror}; name another"
        ) from error
    if not replaces:
        raise OutputError(f"--out names a new file, or an old one to replace, but {out} is not; name another")


def _tell(found: Quantised, random: bool) -> None:
    """Print what was quantised, and what it costs."""
    print("on integers: " + ", ".join(f"{count} {kind}" for kind, count in found.operators.items()))
    if found.wide:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.wide.items())
        print(f"in floating point, since their numbers are too large for bytes, as masks are: {kinds}")
    print(f"weights: {found.bytes_before / 1e6:.3g} MB before, {found.bytes_after / 1e6:.3g} MB after")
    if random and found.calibrated:
        remark(
            "warning: this model was calibrated with random numbers, so its outputs are of no use; measure its speed, "
            "and calibrate with real samples for anything else"
        )
    elif random:
        remark(
            "note: outputs are compared on random numbers, which say little about your data; give --calibrate instead"
        )
    if not found.judged:
        remark("note: outputs were not compared with those in floating point; give samples with --calibrate for that")
        return
    print(accuracy_table(found.outputs))
    samples = counted(found.judged, "sample")
    if found.calibrated:
        samples += (" held out" if found.held_out else "") + f"; calibrated with {found.calibrated}"
    print(f"against the model in floating point, on {samples}")
    if not found.held_out:
        remark("note: the only sample was used for calibrating and for comparing; give several to hold some out")
