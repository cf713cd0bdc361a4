"""Loads and runs an executable: a directory with a compiled library, its weights and a manifest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from tilewright.available_memory import available_memory
from tilewright.errors import OutputError, ResourceError, ShapeError, TargetError
from tilewright.executable.inputs import InputLike, to_array
from tilewright.executable.machine import MachineProgram
from tilewright.executable.manifest import (
    FORMAT,
    LIBRARY,
    WEIGHTS,
    Manifest,
    TensorJson,
    copy_listed,
    find_listed,
    read_manifest,
)
from tilewright.executable.narrow import widen_array
from tilewright.executable.plan import Plan
from tilewright.executable.plan_check import check_plan
from tilewright.executable.program import KernelTime, PlanProgram, Program, Variants
from tilewright.executable.routes import Routes, find_routes
from tilewright.executable.runtime.features import check_features
from tilewright.executable.segment import LoadedSegment, data_name, file_name, signals
from tilewright.reading import open_regular, read_arrays
from tilewright.tensor import Array, TensorSpec
from tilewright.tvm_compat import wanted_threads
from tilewright.wording import counted

__all__ = ["FORMAT", "Executable", "load_executable", "wanted_threads"]


class Executable:
    """A compiled network with its weights, ready to be called. :func:`load_executable` makes it.

    Args:
        program: what runs the network.
        manifest: the content of ``manifest.json``.

    Attributes:
        inputs: the arrays that a call takes, in order.
        outputs: the arrays that it gives, in order.
        manifest: the content of ``manifest.json``.
    """

    def __init__(self, program: Program, manifest: Manifest) -> None:
        self.manifest = manifest
        self.inputs = _specs(manifest["inputs"])
        self.outputs = _specs(manifest["outputs"])
        self._program: Program | None = program

    def __call__(self, *arrays: InputLike) -> list[NDArray[Any]]:  # only the model knows the dtypes
        """The outputs for ``arrays``, one for each input: NumPy's arrays, PyTorch's tensors, numbers, or lists of them.

        They have the inputs' shapes. Other dtypes are converted if no number changes (:func:`to_array`).

        Raises:
            ShapeError: the number of inputs or a shape is wrong, or a number would change.
            OutputError: the executable is closed.
        """
        return self.program.run(self._to_arrays(arrays))

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory, threads and the library, as soon as running calls have ended.

        An executable need not be closed: it also gives them back when nothing refers to it any more. All executables of
        a process share their threads, which end with the last executable.
        """
        self._program = None

    @property
    def program(self) -> Program:
        """The program that computes the network. Raises ``OutputError`` if the executable is closed."""
        program = self._program
        if program is None:
            raise OutputError("an executable that is closed cannot be called any more; load it again")
        return program

    def time(self, arrays: Sequence[InputLike], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls on ``arrays``, without the copies of a call. Raises as a call does."""
        return self.program.time(self._to_arrays(arrays), runs)

    def overhead(self, runs: int) -> list[float] | None:
        """The seconds of each of ``runs`` calls in which no kernel runs: what a call costs outside its kernels.

        None if the executable cannot leave out its kernels (see :class:`MachineProgram`).
        """
        return self.program.overhead(runs)

    def profile(self, arrays: Sequence[InputLike], runs: int, repeats: int = 1) -> list[KernelTime] | None:
        """The time that each kernel takes in its place in the network, in order.

        None if the executable does not tell its kernels apart (see :class:`MachineProgram`).

        Args:
            arrays: the inputs.
            runs: how often the network runs.
            repeats: how often each kernel is called in a row; the mean counts. With many calls a kernel finds its data
                in the caches.

        Raises:
            ShapeError: the number of inputs, a shape or a dtype is wrong.
        """
        return self.program.profile(self._to_arrays(arrays), runs, repeats)

    def contest(
        self, arrays: Sequence[InputLike], variants: Variants, seconds: float, least: int = 5, most: int = 400
    ) -> dict[str, list[list[float]]]:
        """The times that variants of kernels take in their places in the network (:meth:`PlanProgram.contest`).

        Empty if the executable does not tell its kernels apart (see :class:`MachineProgram`).

        Args:
            arrays: the inputs.
            variants: by the name of a kernel, names of functions of the library.
            seconds: the time after which no round is begun.
            least: the least number of rounds, whatever the time.
            most: the largest number of rounds.

        Raises:
            ShapeError: the number of inputs, a shape or a dtype is wrong.
            KeyError, AttributeError: there is no such kernel or function.
        """
        return self.program.contest(self._to_arrays(arrays), variants, seconds, least, most)

    def _to_arrays(self, arrays: Sequence[InputLike]) -> list[Array]:
        if len(arrays) != len(self.inputs):
            raise ShapeError(
                f"the network takes one array for each input, but it has {counted(len(self.inputs), 'input')} "
                f"and got {counted(len(arrays), 'array')}"
            )
        return [to_array(array, spec) for array, spec in zip(arrays, self.inputs, strict=True)]


def load_executable(path: str | Path) -> Executable:
    """The executable that ``tilewright tune`` wrote into the directory ``path``.

    Only files in the directory are loaded, and only those whose checksums are the manifest's.

    Raises:
        OutputError: it is no such directory, of another format, incomplete, damaged, or changed.
        TargetError: the processor lacks instructions that the kernels need, or ``TVM_NUM_THREADS`` is not a number of
            threads.
        ResourceError: a disk is full, or no program may run from the directory for temporary files.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    weights = find_listed(folder, manifest, WEIGHTS)
    threads, features = wanted_threads(), manifest.get("target", {}).get("features", [])
    # A copy is loaded. The system loads a path only once, even if the file is replaced, and no other process can
    # change the copy after its checksum was compared.
    with tempfile.TemporaryDirectory(prefix="tilewright-") as fresh:
        library = Path(fresh, LIBRARY)
        copy_listed(folder, manifest, LIBRARY, library)
        try:
            with open_regular(weights) as file:
                arrays = _read_weights(file, manifest.get("narrow", {}))
            program: Program
            if manifest["plan"]:
                plan = Plan.from_json(manifest["plan"])
                entries = manifest.get("segments", [])
                check_plan(plan, arrays, available_memory(), entries)
                routes = _find_routes(manifest)
                _check_ends(plan, manifest, routes)
                segments = _load_segments(folder, manifest, Path(fresh), threads, alone=not plan.kernels)
                program = PlanProgram(
                    library,
                    arrays,
                    plan,
                    threads,
                    features,
                    segments,
                    routes if entries or not all(routes.planned) else None,
                )
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


def _read_weights(file: BinaryIO, narrow: Mapping[str, str]) -> list[Array]:
    """The arrays ``w0``, ``w1``, ... of an archive.

    Args:
        file: the archive.
        narrow: of arrays that are kept in fewer bytes, how; they are widened.

    Raises:
        ValueError, KeyError: it holds other things.
    """
    size, memory = os.fstat(file.fileno()).st_size, available_memory()
    # The weights are read, then copied to where the kernels need them. Narrow ones become twice as large.
    needed = (4 if narrow else 2) * size
    if needed > memory:
        raise ValueError(f"its weights need {needed:,} bytes of memory, but only {memory:,} are free here")
    named = read_arrays(file)
    for name, kind in narrow.items():
        named[name] = widen_array(named[name], kind)
    return [named[f"w{i}"] for i in range(len(named))]


#: The errors that a library, weights or a plan of another form cause in the loader, in NumPy, or in TVM.
_LOADING = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)


def _find_routes(manifest: Manifest) -> Routes:
    outputs = [entry["name"] for entry in manifest["outputs"]]
    return find_routes(_specs(manifest["inputs"]), outputs, manifest.get("segments", []))


def _load_segments(folder: Path, manifest: Manifest, fresh: Path, threads: int, alone: bool) -> list[LoadedSegment]:
    """Load the segments of an executable. Copies of their files are written to ``fresh``."""
    found = []
    for number, entry in enumerate(manifest.get("segments", [])):
        for name in (file_name(number), data_name(number)):
            if name in manifest["sha256"]:
                copy_listed(folder, manifest, name, fresh / name)
        found.append(LoadedSegment(fresh / file_name(number), entry, threads, alone))
    return found


def _check_ends(plan: Plan, manifest: Manifest, routes: Routes) -> None:
    """Raise ``ValueError`` if the plan's inputs or outputs are not those that the manifest lists."""
    signalled = sum(map(signals, manifest.get("segments", [])))
    taken = [entry for entry, planned in zip(manifest["inputs"], routes.planned, strict=True) if planned]
    given = [entry for entry, source in zip(manifest["outputs"], routes.sources, strict=True) if type(source) is int]
    for numbers, entries in ((plan.inputs, taken), (plan.outputs[: len(plan.outputs) - signalled], given)):
        planned = [(list(plan.tensors[number].shape), plan.tensors[number].dtype) for number in numbers]
        if planned != [(entry["shape"], entry["dtype"]) for entry in entries]:
            raise ValueError("its plan has other inputs or outputs than its manifest")


def _specs(entries: list[TensorJson]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(e["name"], tuple(e["shape"]), e["dtype"]) for e in entries)
