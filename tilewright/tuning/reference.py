"""The outputs of another model, with which those of the tuned executable are compared besides the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from tilewright.errors import ModelError, ProcessError
from tilewright.frontend.shapes import ShapeRequest
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.quantising.accuracy import run_model
from tilewright.quantising.quantiser import list_model_inputs
from tilewright.quantising.rounding import make_samples
from tilewright.tuning.preparation import ReferenceOutputs
from tilewright.wording import describe_error

if TYPE_CHECKING:
    import onnx

__all__ = ["compute_reference"]


def compute_reference(other: Path, model: Path, shapes: ShapeRequest | None, seed: int) -> ReferenceOutputs:
    """Run another model in ONNX Runtime, on samples of a model's inputs.

    Args:
        other: the ONNX file of the other model, such as the model in floating point.
        model: the ONNX file of the model that is tuned.
        shapes: what is asked of the inputs. Its samples are taken, or else random ones.
        seed: of random samples.

    Raises:
        ModelError: the models have other inputs or outputs, or ONNX Runtime cannot run the other one.
        ShapeError: samples do not fit, or a shape is not known.
    """
    try:
        with IsolatedCall(compute_here, other, model, shapes, seed) as call:
            return cast(ReferenceOutputs, call.result())
    except ProcessError as error:
        raise ModelError(
            f"ONNX Runtime runs the model of --reference, but it failed: {error}; leave out --reference"
        ) from error


def compute_here(other: Path, model: Path, shapes: ShapeRequest | None, seed: int) -> ReferenceOutputs:
    """As :func:`compute_reference`, in this process, in which ONNX Runtime may print or crash."""
    from tilewright.frontend.onnx.file import read_proto

    tuned, reference = read_proto(model), read_proto(other)
    taken, given = ({i.name: i.dtype for i in list_model_inputs(each)} for each in (tuned, reference))
    names, theirs = ([value.name for value in each.graph.output] for each in (tuned, reference))
    for what, own, others in (("inputs", [*taken], [*given]), ("outputs", names, theirs)):
        if sorted(own) != sorted(others):
            raise ModelError(
                f"the model of --reference has the {what} of the model that is tuned, {', '.join(own)}, but {other} "
                f"has {', '.join(others)}; name the model that was quantised"
            )
    for name, dtype in taken.items():
        if given[name] != dtype:
            raise ModelError(
                f"the model of --reference has inputs of the same element types, but {name!r} is {given[name]} there, "
                f"and {dtype} in the model that is tuned; name the model that was quantised"
            )
    _check_shapes(tuned, reference, other)
    samples, random = make_samples(tuned, shapes, seed)
    try:
        found = run_model(other, samples)
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise ModelError(
            f"ONNX Runtime runs the model of --reference on the samples, but it failed: {describe_error(error)}; check "
            "the samples, and whether the model is whole"
        ) from error
    ordered = tuple([outputs[theirs.index(name)] for name in names] for outputs in found)
    return ReferenceOutputs(other.name, tuple(samples), random, tuple(names), ordered)


def _check_shapes(tuned: onnx.ModelProto, reference: onnx.ModelProto, file: Path) -> None:
    """Refuse a reference whose inputs or outputs are declared with other shapes. Open extents fit everything."""
    for what in ("input", "output"):
        own, theirs = (
            {value.name: _extents(value) for value in getattr(each.graph, what)} for each in (tuned, reference)
        )
        for name in [name for name in own if name in theirs]:
            ours, other = own[name], theirs[name]
            if ours is None or other is None:
                continue
            if len(ours) != len(other) or any(a > 0 and b > 0 and a != b for a, b in zip(ours, other, strict=True)):
                raise ModelError(
                    f"the model of --reference has {what}s of the shapes of the model that is tuned, but {name!r} is "
                    f"{_written(other)} in {file}, and {_written(ours)} in the model that is tuned; name the model "
                    "that was quantised"
                )


def _extents(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """The declared shape of a tensor, 0 for an open extent; None: no shape is declared."""
    kind = value.type.tensor_type
    return tuple(extent.dim_value for extent in kind.shape.dim) if kind.HasField("shape") else None


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(str(extent) if extent > 0 else "?" for extent in shape) or "one number"
