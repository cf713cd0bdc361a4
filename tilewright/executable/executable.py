"""An executable on disk: the compiled library, its weights, a manifest. Running it needs no tuner."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from tilewright.available_memory import available_memory
from tilewright.errors import OutputError, ResourceError, ShapeError, TargetError
from tilewright.executable.inputs import InputLike, to_array
from tilewright.executable.manifest import FORMAT, LIBRARY, WEIGHTS, listed, read_manifest, take
from tilewright.executable.plan import Plan
from tilewright.executable.plan_check import check_plan
from tilewright.executable.program import KernelTime, MachineProgram, PlanProgram, Program, Variants, check_features
from tilewright.reading import open_regular, read_arrays
from tilewright.tensor import TensorSpec
from tilewright.tvm_compat import wanted_threads
from tilewright.wording import counted

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
        self._program: Program | None = program

    def __call__(self, *arrays: InputLike) -> list[NDArray[Any]]:
        """The outputs for ``arrays``, one per input: arrays of NumPy, tensors of PyTorch, numbers, or lists of them.

        They have the inputs' shapes. Other dtypes are converted where no number changes (:func:`to_array`).

        Raises:
            ShapeError: a wrong number of inputs, a wrong shape, or numbers that would change.
            OutputError: the executable is closed.
        """
        return self._running.run(self._checked(arrays))

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory, threads and the library, as soon as calls that are under way have ended.

        Nothing needs to be closed: what nobody refers to any more is given back, too. The threads are those of all
        executables of the process, and end with the last one.
        """
        self._program = None

    @property
    def _running(self) -> Program:
        program = self._program
        if program is None:
            raise OutputError("an executable that is closed cannot be called any more; load it again")
        return program

    def time(self, arrays: Sequence[InputLike], runs: int) -> list[float]:
        """Seconds of each of ``runs`` calls, without copying inputs and outputs."""
        return self._running.time(self._checked(arrays), runs)

    def overhead(self, runs: int) -> list[float] | None:
        """Seconds of each of ``runs`` calls in which no kernel runs: what a call costs outside kernels.

        None for an executable whose kernels cannot be left out (see :class:`MachineProgram`).
        """
        return self._running.overhead(runs)

    def profile(self, arrays: Sequence[InputLike], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """What each kernel takes in its place in the network, in order.

        None for an executable whose kernels cannot be told apart (see :class:`MachineProgram`).

        Args:
            arrays: the inputs.
            runs: of the network.
            repeats: calls of each kernel in a row, of which the mean counts: many find their data in the caches.

        Raises:
            ShapeError: a wrong number of inputs, or a wrong shape or dtype.
        """
        return self._running.profile(self._checked(arrays), runs, repeats)

    def contest(
        self, arrays: Sequence[InputLike], variants: Variants, seconds: float, least: int = 5, most: int = 400
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
        return self._running.contest(self._checked(arrays), variants, seconds, least, most)

    def _checked(self, arrays: Sequence[InputLike]) -> list[NDArray[Any]]:
        if len(arrays) != len(self.inputs):
            raise ShapeError(
                f"the network takes one array for each input, but it has {counted(len(self.inputs), 'input')} "
                f"and got {counted(len(arrays), 'array')}"
            )
        return [to_array(array, spec) for array, spec in zip(arrays, self.inputs, strict=True)]


def load_executable(path: str | Path) -> Executable:
    """The executable that ``tilewright tune`` wrote into the directory ``path``.

    Nothing outside of the directory is loaded, and nothing in it whose checksum is not the manifest's.

    Raises:
        OutputError: not such a directory, of a newer format, incomplete, damaged, or changed.
        TargetError: the processor lacks instructions that the kernels need, or ``TVM_NUM_THREADS`` is set to what is no
            number of threads.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    weights = listed(folder, manifest, WEIGHTS)
    threads, features = wanted_threads(), manifest.get("target", {}).get("features", ())
    # A copy, because the loader takes a path that it has seen for the library it holds already, although the file was
    # replaced; and because nobody else can change it after its checksum was compared.
    with tempfile.TemporaryDirectory(prefix="tilewright-") as fresh:
        library = Path(fresh, LIBRARY)
        take(folder, manifest, LIBRARY, library)
        try:
            with open_regular(weights) as file:
                arrays = _read_weights(file)
            program: Program
            if manifest["plan"]:
                plan = Plan.from_json(manifest["plan"])
                check_plan(plan, arrays, available_memory())
                _check_ends(plan, manifest)
                program = PlanProgram(library, arrays, plan, threads, features)
            else:
                check_features(features)
                program = MachineProgram(library, arrays)
        except TargetError as exc:
            raise TargetError(f"the executable in {folder} cannot run here: {exc}; tune again on this machine") from exc
        except MemoryError as exc:
            raise OutputError(f"memory is missing to load the executable in {folder}; end other programs") from exc
        except _LOADING as exc:
            if "failed to map segment" in str(exc):
                raise ResourceError(
                    f"an executable is loaded from {tempfile.gettempdir()}, where no program may run; set TMPDIR to a "
                    "directory that allows it"
                ) from exc
            reason = next(iter(str(exc).splitlines()), "") or type(exc).__name__
            raise OutputError(f"the executable in {folder} cannot be loaded here: {reason}; tune again") from exc
    return Executable(program, manifest)


def _read_weights(file: BinaryIO) -> list[NDArray[Any]]:
    """The arrays ``w0``, ``w1``, ... of an archive. Raises ``ValueError`` and ``KeyError`` where it is another one."""
    size, memory = os.fstat(file.fileno()).st_size, available_memory()
    if 2 * size > memory:  # they are read, then laid out for the kernels
        raise ValueError(f"its weights need {2 * size:,} bytes of memory, but only {memory:,} are free here")
    named = read_arrays(file)
    return [named[f"w{i}"] for i in range(len(named))]


#: What a library, weights or a plan of another form raise, in the loader, in NumPy, or in TVM.
_LOADING = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)


def _check_ends(plan: Plan, manifest: dict[str, Any]) -> None:
    """Raise ``ValueError`` where the plan's inputs or outputs are not those that the manifest names."""
    for numbers, entries in ((plan.inputs, manifest["inputs"]), (plan.outputs, manifest["outputs"])):
        planned = [(list(plan.tensors[number].shape), plan.tensors[number].dtype) for number in numbers]
        if planned != [(entry["shape"], entry["dtype"]) for entry in entries]:
            raise ValueError("its plan has other inputs or outputs than its manifest")


def _specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(e["name"], tuple(e["shape"]), e["dtype"]) for e in entries)
