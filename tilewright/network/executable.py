"""An executable on disk: the compiled library, its weights, a manifest. Running it needs no tuner."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tilewright.errors import OutputError, ShapeError, TargetError
from tilewright.network.manifest import FORMAT, LIBRARY, WEIGHTS, listed, read_manifest, take
from tilewright.network.network import TensorSpec
from tilewright.network.plan import Plan
from tilewright.network.program import KernelTime, MachineProgram, PlanProgram, Program, Variants
from tilewright.reading import open_regular, read_arrays
from tilewright.tvm_compat import usable_cores

__all__ = ["FORMAT", "Executable", "load_executable", "wanted_threads"]


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

    def profile(self, arrays: Sequence[NDArray[Any]], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """What each kernel takes in its place in the network, in order.

        None for an executable whose kernels cannot be told apart (see :class:`MachineProgram`).

        Args:
            arrays: the inputs.
            runs: of the network.
            repeats: calls of each kernel in a row, of which the mean counts: many find their data in the caches.

        Raises:
            ShapeError: a wrong number of inputs, or a wrong shape or dtype.
        """
        return self._program.profile(self._checked(arrays), runs, repeats)

    def contest(
        self, arrays: Sequence[NDArray[Any]], variants: Variants, seconds: float, least: int = 5, most: int = 400
    ) -> dict[str, list[list[float]]]:
        """What variants of kernels take in their places in the network, by turns (:meth:`PlanProgram.contest`).

        Nothing for an executable whose kernels cannot be told apart (see :class:`MachineProgram`).

        Args:
            arrays: the inputs.
            variants: by the name of a kernel, names of functions of the library.
            seconds: after which no round is begun.
            least: rounds that there are in any case.
            most: rounds.

        Raises:
            ShapeError: a wrong number of inputs, or a wrong shape or dtype.
            KeyError, AttributeError: there is no such kernel or function.
        """
        return self._program.contest(self._checked(arrays), variants, seconds, least, most)

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

    Nothing outside of the directory is loaded, and nothing in it whose checksum is not the manifest's.

    Raises:
        OutputError: not such a directory, of a newer format, incomplete, damaged, or changed.
        TargetError: ``TVM_NUM_THREADS`` is set to what is no number of threads.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    weights = listed(folder, manifest, WEIGHTS)
    threads = wanted_threads()
    # A copy, because the loader takes a path that it has seen for the library it holds already, although the file was
    # replaced; and because nobody else can change it after its checksum was compared.
    with tempfile.TemporaryDirectory(prefix="tilewright-") as fresh:
        library = Path(fresh, LIBRARY)
        take(folder, manifest, LIBRARY, library)
        try:
            with open_regular(weights) as file:
                named = read_arrays(file)
            arrays = [named[f"w{i}"] for i in range(len(named))]
            program: Program
            if manifest["plan"]:
                plan = Plan.from_json(manifest["plan"])
                plan.check(arrays)
                _check_ends(plan, manifest)
                program = PlanProgram(library, arrays, plan, threads)
            else:
                program = MachineProgram(library, arrays)
        except _LOADING as exc:
            reason = next(iter(str(exc).splitlines()), "") or type(exc).__name__
            raise OutputError(f"the executable in {folder} cannot be loaded here: {reason}; tune again") from exc
    return Executable(program, manifest)


#: What a library, weights or a plan of another form raise, in the loader, in NumPy, or in TVM.
_LOADING = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError, MemoryError)


def wanted_threads() -> int:
    """How many threads an executable runs on: as ``TVM_NUM_THREADS`` says, otherwise one for each usable core.

    Raises:
        TargetError: the variable is set to what is no number of threads.
    """
    text = os.environ.get("TVM_NUM_THREADS") or str(usable_cores())
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise TargetError(f"TVM_NUM_THREADS is a number of threads from 1 up, but it is {text!r}; correct or unset it")
    return int(text)


def _check_ends(plan: Plan, manifest: dict[str, Any]) -> None:
    """Raise ``ValueError`` where the plan's inputs or outputs are not those that the manifest names."""
    for numbers, entries in ((plan.inputs, manifest["inputs"]), (plan.outputs, manifest["outputs"])):
        planned = [(list(plan.tensors[number].shape), plan.tensors[number].dtype) for number in numbers]
        if planned != [(entry["shape"], entry["dtype"]) for entry in entries]:
            raise ValueError("its plan has other inputs or outputs than it says")


def _specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(e["name"], tuple(e["shape"]), e["dtype"]) for e in entries)
