"""Reads PyTorch programs from ``.pt2`` files, and converts them from and to ONNX models. PyTorch is an extra."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import (
    MissingExtraError,
    ModelFormatError,
    OutputError,
    TilewrightError,
    UnsupportedOperatorError,
)
from tilewright.frontend.torch.file import check_program
from tilewright.measure.memory import memory_error
from tilewright.scratch import explained

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

__all__ = ["SUFFIX", "convert_onnx", "export_onnx", "flatten_program", "read_program", "write_program"]

#: The suffix of files that ``torch.export.save`` writes.
SUFFIX = ".pt2"


def read_program(path: Path) -> ExportedProgram:
    """The program in a file that ``torch.export.save`` wrote.

    Raises:
        ModelFormatError: there is no file, it is no such file, or it holds code (see ``frontend/torch/file``).
        ShapeError: a shape is symbolic.
        MissingExtraError: PyTorch is not installed.
    """
    if not path.exists():
        raise ModelFormatError(f"a model is a file, but there is none at {path}; check the path")
    try:
        import torch
    except ImportError as exc:
        raise MissingExtraError("PyTorch", "torch") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about its own internals
            check_program(path)
            # PyTorch refuses paths that have another suffix, or are not UTF-8. It accepts open files.
            with path.open("rb") as file:
                return torch.export.load(file)
    except TilewrightError:
        raise
    except MemoryError as exc:
        raise memory_error(f"reading {path}") from exc
    except Exception as exc:  # the errors of zipfile, pickle and PyTorch share no base class
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise ModelFormatError(
            f"a {SUFFIX} file is one that torch.export.save wrote, but {path} cannot be read as one ({line}); "
            "export the model again"
        ) from exc


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program into a file that :func:`read_program` reads.

    Raises:
        OutputError: the file cannot be written.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("wb") as file:
                torch.export.save(program, file)
    except OSError as exc:
        raise explained(exc, f"the model cannot be written to {path}", path.parent) from exc
    except RuntimeError as exc:
        raise OutputError(f"the model cannot be written to {path}: {exc}") from exc


def flatten_program(program: ExportedProgram) -> torch.nn.Module:
    """The module of a program. It takes inputs one by one and gives its outputs as a tuple, as an executable does.

    The program itself may take inputs by name, or in lists and dictionaries.
    """
    import torch
    from torch.utils import _pytree as pytree

    module, spec = program.module(), program.call_spec.in_spec
    plain_in = pytree.tree_unflatten(list(range(spec.num_leaves)), spec) == (tuple(range(spec.num_leaves)), {})
    outputs = program.call_spec.out_spec
    plain_out = pytree.tree_unflatten([0] * outputs.num_leaves, outputs) in (0, (0,) * outputs.num_leaves)
    if plain_in and plain_out:
        return module

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            arguments, named = pytree.tree_unflatten(list(tensors), spec)
            return tuple(pytree.tree_leaves(self.inner(*arguments, **named)))

    return Flat()


def export_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a program as an ONNX file.

    Raises:
        UnsupportedOperatorError: ONNX lacks an operator of the program, or ``onnxscript`` is not installed.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(program, f=str(path), dynamo=True, verbose=False)
    except Exception as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise UnsupportedOperatorError(f"PyTorch cannot export this model as ONNX: {line}") from exc


def convert_onnx(path: Path) -> torch.nn.Module:
    """The PyTorch module that onnx2torch makes of an ONNX file. Batch norms and constants are folded before.

    Raises:
        UnsupportedOperatorError: onnx2torch cannot convert the model.
    """
    from tilewright.frontend.onnx.reading import read_onnx

    _, folded = read_onnx(path, {})
    folded.ir_version = max(folded.ir_version, 8)  # before 4, only weights that are inputs have a shape
    _stand_in_for_torchvision()
    import onnx2torch

    try:
        return onnx2torch.convert(folded).eval()
    except Exception as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise UnsupportedOperatorError(f"onnx2torch cannot convert this model: {line}") from exc


def _stand_in_for_torchvision() -> None:
    """Let onnx2torch be imported if torchvision is missing, or was built for another PyTorch.

    onnx2torch 1.5 needs torchvision for two operators of detection networks. These cannot be converted then.
    """
    try:
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError):
        package, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
        vars(package)["ops"], vars(operators)["roi_align"] = operators, None
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules |= {"torchvision": package, "torchvision.ops": operators}
