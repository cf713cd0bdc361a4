"""Runs a model in ONNX Runtime to learn whether it takes inputs of some shapes. Call it in a process of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
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

#: Words of ONNX Runtime's messages when shapes do not fit; those about indices mean the values that were made up.
_SHAPES = re.compile(
    r"shape|dimension|broadcast|reshape|mismatch|\brank\b|\bsize|incompatible|axis|axes", re.IGNORECASE
)
_VALUES = re.compile(r"out of data bounds|indices element|index out of|out of range", re.IGNORECASE)
#: Where ONNX Runtime's messages say which source file of its own they come from.
_PLACE = re.compile(r"^.*(?:Status Message: |\) )(?:\S+\.(?:cc|h):\d+ \S+ (?:.*? was false\. ?)?)?")


def make_acceptance(model: onnx.ModelProto, folder: Path) -> Callable[[Shapes], bool]:
    """A function that says whether ONNX Runtime runs a model on inputs of some shapes, whose dimensions may be open.

    Args:
        model: the model.
        folder: a directory for files.
    """
    made: list[onnxruntime.InferenceSession | None] = []

    def accepts(shapes: Shapes) -> bool:
        if not made:
            made.append(_open(model, folder))
        session = made[0]
        return session is not None and not _find_refusal(session, model, shapes)

    return accepts


def check_taken(file: Path, model: onnx.ModelProto, shapes: Shapes) -> None:
    """Refuse shapes that a model cannot take, as a run without any optimisation shows.

    Args:
        file: the model's file.
        model: the model.
        shapes: the shapes of its inputs.

    Raises:
        ShapeError: it cannot; the message has ONNX Runtime's reason.
    """
    said = find_plain_refusal(file, model, shapes)
    if about_shapes(said):
        raise refuse(shapes, said)


def find_plain_refusal(file: Path, model: onnx.ModelProto, shapes: Shapes) -> str:
    """Why ONNX Runtime does not run a model without any optimisation; empty if it does.

    Args:
        file: the model's file.
        model: the model.
        shapes: the shapes of its inputs if the model might not take them; empty: it is only loaded.
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
    """The error for shapes that the model cannot take."""
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
    """Whether an input is a single integer: its value may decide which shapes the model takes, as a sampling rate."""
    for entry in list_inputs(model):
        tensor = entry.type.tensor_type
        single = all(dim.dim_value == 1 for dim in tensor.shape.dim)
        if single and tensor.elem_type in COMPUTED and helper.tensor_dtype_to_np_dtype(tensor.elem_type).kind in "iub":
            return True
    return False


def _find_refusal(session: onnxruntime.InferenceSession, model: onnx.ModelProto, shapes: Shapes) -> str:
    """Why a model cannot be run on inputs of some shapes that are all 1, or all 0; empty if it can, or has others."""
    said = ""
    for value in (1, 0):
        feeds = _make_feeds(model, shapes, value)
        if feeds is None:
            return ""
        try:
            session.run(None, feeds)
        except Exception as exc:  # ONNX Runtime's errors share no base class
            said = said or str(exc)
        else:
            return ""
    return said


def _make_feeds(model: onnx.ModelProto, shapes: Shapes, value: int) -> dict[str, Array] | None:
    """Inputs that are ``value`` everywhere; None if an input is no tensor of numbers."""
    feeds: dict[str, Array] = {}
    for entry in list_inputs(model):
        tensor = entry.type.tensor_type
        if entry.type.WhichOneof("value") != "tensor_type" or tensor.elem_type not in COMPUTED:
            return None
        if entry.name not in shapes:
            return None
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        feeds[entry.name] = np.full(shapes[entry.name], value, dtype=dtype)
    return feeds
