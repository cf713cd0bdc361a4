"""PyTorch programs: read from ``.pt2`` files, and made from ONNX models for comparison. PyTorch is an extra."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path
from typing import Any

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

__all__ = ["SUFFIX", "flat_module", "module_from_onnx", "onnx_from_program", "read_program", "write_program"]

#: What ``torch.export.save`` calls its files.
SUFFIX = ".pt2"


def read_program(path: Path) -> Any:
    """The ``ExportedProgram`` in a file that ``torch.export.save`` wrote.

    Raises:
        ModelFormatError: missing, not such a file, or one that holds code (see ``frontend/torch/file``).
        ShapeError: it has symbolic shapes.
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
            warnings.simplefilter("ignore")  # about its own internals
            check_program(path)
            # As a file, since PyTorch takes no path of another suffix, nor one that is not UTF-8.
            with path.open("rb") as file:
                return torch.export.load(file)
    except TilewrightError:
        raise
    except MemoryError as exc:
        raise memory_error(f"reading {path}") from exc
    except Exception as exc:  # zip's, pickle's and PyTorch's own errors share no base class
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise ModelFormatError(
            f"a {SUFFIX} file is one that torch.export.save wrote, but {path} cannot be read as one ({line}); "
            "export the model again"
        ) from exc


def write_program(program: Any, path: Path) -> None:
    """Write an ``ExportedProgram`` into a file, for :func:`read_program`.

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


def flat_module(program: Any) -> Any:
    """The module of an ``ExportedProgram``, which takes its inputs one by one and gives its outputs as a tuple.

    That is how executables have them. The program may want them by name, or in lists and dictionaries.
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

        def forward(self, *tensors: Any) -> Any:
            arguments, named = pytree.tree_unflatten(list(tensors), spec)
            return tuple(pytree.tree_leaves(self.inner(*arguments, **named)))

    return Flat()


def onnx_from_program(program: Any, path: Path) -> None:
    """Write an ``ExportedProgram`` as an ONNX file.

    Raises:
        UnsupportedOperatorError: it has something that ONNX has not, or ``onnxscript`` is missing.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(program, f=str(path), dynamo=True, verbose=False)
    except Exception as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise UnsupportedOperatorError(f"PyTorch cannot export this model as ONNX: {line}") from exc


def module_from_onnx(path: Path) -> Any:
    """The PyTorch module of an ONNX file, by onnx2torch, its batch norms and constants folded as Tilewright folds them.

    Raises:
        UnsupportedOperatorError: onnx2torch cannot convert it.
    """
    from tilewright.frontend.onnx.reading import read_onnx

    _, folded = read_onnx(path, {})
    folded.ir_version = max(folded.ir_version, 8)  # before 4, weights must be inputs for their shapes to be inferred
    _stand_in_for_torchvision()
    import onnx2torch

    try:
        return onnx2torch.convert(folded).eval()
    except Exception as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise UnsupportedOperatorError(f"onnx2torch cannot convert this model: {line}") from exc


def _stand_in_for_torchvision() -> None:
    """Let onnx2torch be imported where torchvision is missing, or is not of PyTorch's build (CUDA or not).

    onnx2torch 1.5 imports it for two operators of detection networks, which then cannot be converted.
    """
    try:
        importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError):
        package: Any = types.ModuleType("torchvision")
        package.ops = types.ModuleType("torchvision.ops")
        package.ops.roi_align = None
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules |= {"torchvision": package, "torchvision.ops": package.ops}
