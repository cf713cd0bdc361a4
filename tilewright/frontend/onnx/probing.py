"""Runs a model in ONNX Runtime to find out whether it accepts inputs of given shapes.

ONNX Runtime may crash, so call these functions in a process of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from tilewright.errors import ShapeError
from tilewright.frontend.onnx.data import serialize, write_model
from tilewright.frontend.onnx.shapes import list_inputs
from tilewright.frontend.onnx.values import COMPUTED
from tilewright.frontend.shapes import Shapes
from tilewright.tensor import Array

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["about_shapes", "check_taken", "find_plain_refusal", "make_acceptance", "refuse"]

#: Words of ONNX Runtime's messages if shapes do not fit. Those in ``_VALUES`` are about invalid indices. Their cause
#: may be the input values, which are made up here.
_SHAPES = re.compile(
    r"shape|dimension|broadcast|reshape|mismatch|\brank\b|\bsize|incompatible|axis|axes", re.IGNORECASE
)
_VALUES = re.compile(r"out of data bounds|indices element|index out of|out of range", re.IGNORECASE)
#: No input has a certain value.
_NO_VALUES: Mapping[str, str] = MappingProxyType({})
#: The part of ONNX Runtime's messages that names one of its source files.
_PLACE = re.compile(r"^.*(?:Status Message: |\) )(?:\S+\.(?:cc|h):\d+ \S+ (?:.*? was false\. ?)?)?")


def make_acceptance(
    model: onnx.ModelProto, folder: Path, values: Mapping[str, str] = _NO_VALUES
) -> Callable[[Shapes], bool]:
    """A function that returns whether ONNX Runtime runs a model on inputs of given shapes.

    Args:
        model: the model, whose dimensions may be open.
        folder: a directory for files.
        values: the numbers of inputs that have a certain value, as texts; empty texts say nothing.
    """
    made: list[onnxruntime.InferenceSession | None] = []

    def accepts(shapes: Shapes) -> bool:
        if not made:
            made.append(_open(model, folder))
        session = made[0]
        return session is not None and not _find_refusal(session, model, shapes, values)

    return accepts


def check_taken(file: Path, model: onnx.ModelProto, shapes: Shapes) -> None:
    """Refuse shapes with which ONNX Runtime cannot run a model, even without optimisation.

    Args:
        file: the model's file.
        model: the model.
        shapes: the shapes of its inputs.

    Raises:
        ShapeError: ONNX Runtime cannot run the model. The message has its reason.
    """
    said = find_plain_refusal(file, model, shapes)
    if about_shapes(said):
        raise refuse(shapes, said)


def find_plain_refusal(file: Path, model: onnx.ModelProto, shapes: Shapes) -> str:
    """Why ONNX Runtime cannot load a model, or run it with given shapes, even without optimisation.

    Empty if it can, or if it fails in the run for another reason than the shapes.

    Args:
        file: the model's file.
        model: the model.
        shapes: the shapes of inputs for a run; empty: the model is loaded, but does not run.
    """
    try:
        session = _load(file)
    except Exception as exc:  # ONNX Runtime's errors share no base class
        return str(exc)
    said = _find_refusal(session, model, shapes) if shapes and not _decides_by_value(model) else ""
    return said if about_shapes(said) else ""


def about_shapes(said: str) -> bool:
    """Whether a message of ONNX Runtime's says that shapes do not fit."""
    return bool(_SHAPES.search(said)) and not _VALUES.search(said)


def refuse(shapes: Shapes, said: str) -> ShapeError:
    """The error for shapes that a model cannot take."""
    given = " ".join(f"{name}={','.join(map(str, shape))}" for name, shape in shapes.items())
    line = _PLACE.sub("", next(iter(said.strip().splitlines()), ""))[:300]
    return ShapeError(f"a shape is one that the model can take, but it cannot take {given}: {line}; give another")


def _open(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession | None:
    """A session of a model without optimisation; None if ONNX Runtime refuses it."""
    file = folder / "acceptance.onnx"
    try:
        file.write_bytes(serialize(write_model(model, file, "acceptance.bin")))
        return _load(file)
    except Exception:  # ONNX Runtime's errors share no base class
        return None


def _load(file: Path) -> onnxruntime.InferenceSession:
    """A session of the model in a file without optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _decides_by_value(model: onnx.ModelProto) -> bool:
    """Whether an input is a single integer. Its value, such as a sampling rate, may decide which shapes are valid."""
    for entry in list_inputs(model):
        tensor = entry.type.tensor_type
        single = all(dim.dim_value == 1 for dim in tensor.shape.dim)
        if single and tensor.elem_type in COMPUTED and helper.tensor_dtype_to_np_dtype(tensor.elem_type).kind in "iub":
            return True
    return False


def _find_refusal(
    session: onnxruntime.InferenceSession,
    model: onnx.ModelProto,
    shapes: Shapes,
    values: Mapping[str, str] = _NO_VALUES,
) -> str:
    """Why a model runs neither on inputs of ones nor of zeros; empty if it does, or has inputs of other types."""
    said = ""
    for value in (1, 0):
        feeds = _make_feeds(model, shapes, value, values)
        if feeds is None:
            return ""
        try:
            session.run(None, feeds)
        except Exception as exc:  # ONNX Runtime's errors share no base class
            said = said or str(exc)
        else:
            return ""
    return said


def _make_feeds(
    model: onnx.ModelProto, shapes: Shapes, value: int, values: Mapping[str, str]
) -> dict[str, Array] | None:
    """Inputs that are ``value`` everywhere, or as ``values`` says; None if an input is no tensor of numbers."""
    feeds: dict[str, Array] = {}
    for entry in list_inputs(model):
        tensor = entry.type.tensor_type
        if entry.type.WhichOneof("value") != "tensor_type" or tensor.elem_type not in COMPUTED:
            return None
        if entry.name not in shapes:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        number = json.loads(values.get(entry.name) or str(value))
        feeds[entry.name] = np.full(shapes[entry.name], number, dtype=dtype)
    return feeds
