"""An executable on disk: the compiled library, its weights, a manifest. Running it needs no tuner."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import OutputError, ShapeError
from tilewright.network.network import TensorSpec
from tilewright.network.plan import Plan
from tilewright.network.program import MachineProgram, PlanProgram, Program
from tilewright.tvm_compat import usable_cores

__all__ = ["FORMAT", "Executable", "load_executable", "sha256"]

#: Version of the directory's layout.
FORMAT = 2


class Executable:
    """A compiled network with its weights, ready to be called.

    Attributes:
        inputs: what a call takes, in order.
        outputs: what it gives, in order.
        manifest: what ``manifest.json`` says.
    """

    def __init__(self, program: Program, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.inputs = _specs(manifest["inputs"])
        self.outputs = _specs(manifest["outputs"])
        self._program = program

    def __call__(self, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs for ``arrays``, one per input, of the inputs' shapes and dtypes.

        Raises:
            ShapeError: a wrong number of inputs, or a wrong shape or dtype.
        """
        return self._program.run(self._checked(arrays))

    def time(self, arrays: Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` calls, without copying inputs and outputs."""
        return self._program.time(self._checked(arrays), runs)

    def overhead(self, runs: int) -> list[float] | None:
        """Seconds of each of ``runs`` calls in which no kernel runs: what a call costs outside kernels.

        None for an executable whose kernels cannot be left out (see :class:`MachineProgram`).
        """
        return self._program.overhead(runs)

    def _checked(self, arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        if len(arrays) != len(self.inputs):
            raise ShapeError(f"the network has {len(self.inputs)} inputs, but {len(arrays)} arrays were given")
        for array, spec in zip(arrays, self.inputs, strict=True):
            if tuple(array.shape) != spec.shape or str(array.dtype) != spec.dtype:
                raise ShapeError(
                    f"input {spec.name!r} is {spec.dtype} {list(spec.shape)}, but {array.dtype} {list(array.shape)} "
                    "was given; convert or reshape it"
                )
        return arrays


def load_executable(path: str | Path) -> Executable:
    """The executable that ``tilewright tune`` wrote into the directory ``path``.

    Raises:
        OutputError: not such a directory, of a newer format, incomplete or damaged.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(
            f"an executable is a directory with a manifest.json that `tilewright tune` wrote, but {folder} is none: "
            f"{exc}"
        ) from exc
    if version != FORMAT:
        raise OutputError(
            f"this Tilewright reads executables of format {FORMAT}, but {folder} has {version}; tune again"
        )
    library, weights = folder / "kernels.so", folder / "weights.npz"
    for file in (library, weights):
        if not file.is_file() or sha256(file) != manifest.get("sha256", {}).get(file.name):
            raise OutputError(f"{file} is missing or not the file that was written; tune again")
    threads = int(os.environ.get("TVM_NUM_THREADS") or usable_cores())
    try:
        with np.load(weights, allow_pickle=False) as archive:
            arrays = [archive[f"w{i}"] for i in range(len(archive.files))]
        # The loader takes a path that it has seen for the library it holds already, although the file was replaced.
        with tempfile.TemporaryDirectory(prefix="tilewright-") as fresh:
            alias = Path(fresh, library.name)
            shutil.copyfile(library, alias)
            program: Program
            if manifest.get("plan"):
                program = PlanProgram(alias, arrays, Plan.from_json(manifest["plan"]), threads)
            else:
                program = MachineProgram(alias, arrays)
            return Executable(program, manifest)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, zipfile.BadZipFile) as exc:
        raise OutputError(f"the executable in {folder} cannot be loaded here: {str(exc).splitlines()[0]}") from exc


def sha256(path: Path) -> str:
    """Checksum of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(e["name"], tuple(e["shape"]), e["dtype"]) for e in entries)
