"""Loads and runs an executable: a directory with a compiled library, its weights and a manifest."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import OutputError, ResourceError, ShapeError, TargetError, TilewrightError
from tilewright.executable.dispatch import BucketsProgram, Shapes
from tilewright.executable.fixed import insert_fixed, order_named, take_out_fixed
from tilewright.executable.inputs import InputLike, to_array
from tilewright.executable.loading import load_program, make_specs
from tilewright.executable.manifest import (
    FORMAT,
    LIBRARY,
    WEIGHTS,
    Manifest,
    copy_listed,
    read_listed,
    read_manifest,
)
from tilewright.executable.memory import Arena
from tilewright.executable.program import KernelTime, Program, Variants
from tilewright.fixed_input import FixedInput
from tilewright.notebook import html_table
from tilewright.tensor import Array, TensorSpec
from tilewright.tvm_compat import wanted_threads
from tilewright.wording import counted

__all__ = ["FORMAT", "Executable", "OneBucket", "load_executable", "wanted_threads"]

#: The most instances of an executable: more than a server has threads. A mistaken number would take all memory.
_MOST_INSTANCES = 1024


class Executable:
    """A compiled network with its weights, ready to be called. :func:`load_executable` makes it.

    Args:
        program: what runs the network.
        manifest: the content of ``manifest.json``.

    Attributes:
        inputs: the arrays that a call takes, in order. An extent of -1 is open: see ``buckets``.
        outputs: the arrays that it gives, in order.
        manifest: the content of ``manifest.json``.
    """

    def __init__(self, program: Program, manifest: Manifest) -> None:
        self.manifest = manifest
        self._free = make_specs(manifest["inputs"])
        self._fixed = tuple(FixedInput.from_json(entry) for entry in manifest.get("fixed", []))
        self.inputs = insert_fixed(self._free, self._fixed)
        self.outputs = make_specs(manifest["outputs"])
        self._program: Program | None = program
        # A call with arrays of these dtypes and shapes needs no conversion, and no search for a bucket.
        self._dtypes = [np.dtype(spec.dtype) if spec.is_numeric else None for spec in self._free]
        self._ready: dict[Shapes, Program] = (
            {bucket.shapes: bucket.program for bucket in program.buckets}
            if isinstance(program, BucketsProgram)
            else {tuple(spec.shape for spec in self._free): program}
        )

    def __call__(self, /, *arrays: InputLike, **named: InputLike) -> list[NDArray[Any]]:  # only the model knows dtypes
        """The outputs for ``arrays``, one for each input: NumPy's arrays, PyTorch's tensors, numbers, or lists of them.

        They have the inputs' shapes. Other dtypes are converted if no number changes (:func:`to_array`).

        Args:
            arrays: in the order of ``inputs``.
            named: instead, all of them by the names of ``inputs``, in any order.

        Raises:
            ShapeError: the number of inputs, a name or a shape is wrong, or a number would change.
            OutputError: the executable is closed.
        """
        if named:
            if arrays:
                raise ShapeError(
                    "a call gives its inputs in order or by name, but it gives some in order and "
                    f"{next(iter(named))!r} by name; give all by name: {self._names()}"
                )
            arrays = tuple(order_named(named, self.inputs, self._fixed))
        program = self._find_ready(arrays)
        if program is not None:
            return program.run(arrays)  # type: ignore[arg-type]
        return self.program.run(self._to_arrays(arrays))

    def _repr_html_(self) -> str:
        """A table for notebooks: what it takes and gives, what it was built for, and the verdict on it."""
        target, verdict = self.manifest.get("target", {}), self.manifest.get("verdict", {})
        built_for = ", ".join(str(target[key]) for key in ("machine", "mcpu") if target.get(key))
        rows = [("input", *_describe(spec)) for spec in self.inputs]
        rows += [("output", *_describe(spec)) for spec in self.outputs]
        rows.append(("built for", built_for or "not known", "", ""))
        rows.append(("outputs are", str(verdict.get("outcome", "not judged")), "", ""))
        title = f"Executable {self.manifest.get('name', '')}".strip()
        return html_table(title, ("", "name", "shape", "dtype"), rows, "" if self._program else "It is closed.")

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
        self._ready = {}

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

    @property
    def buckets(self) -> tuple[OneBucket, ...]:
        """The shapes that it has a plan for, each as an executable of fixed shapes; a single one for most."""
        program = self._program
        if isinstance(program, BucketsProgram):
            return tuple(OneBucket(self, bucket.inputs, bucket.outputs) for bucket in program.buckets)
        return (OneBucket(self, self._free, self.outputs),)

    def _find_ready(self, values: tuple[InputLike, ...]) -> Program | None:
        """The program for the values of a call, if they are arrays of the inputs' dtypes and of a bucket's shapes."""
        if len(values) != len(self._dtypes):
            return None
        shapes = []
        for value, dtype in zip(values, self._dtypes, strict=True):
            # NumPy takes None for float64.
            if type(value) is not np.ndarray or dtype is None or value.dtype != dtype:
                return None
            shapes.append(value.shape)
        return self._ready.get(tuple(shapes))

    def _names(self) -> str:
        return ", ".join(spec.name for spec in self.inputs)

    def _to_arrays(self, arrays: Sequence[InputLike]) -> list[Array]:
        """The arrays of a call in the inputs' dtypes, without those of fixed values, which a call may leave out."""
        if self._fixed and len(arrays) == len(self.inputs):
            arrays = take_out_fixed(arrays, self._fixed)
        if len(arrays) == 1 and isinstance(arrays[0], dict) and (len(self._free) != 1 or self._free[0].is_numeric):
            raise ShapeError(
                f"the network takes one array for each input ({self._names()}), but a dict was given; write **, as in "
                "executable(**inputs)"
            )
        if len(arrays) != len(self._free):
            raise ShapeError(
                f"the network takes one array for each input ({self._names()}), in this order or by name, but it has "
                f"{counted(len(self.inputs), 'input')} and got {counted(len(arrays), 'array')}"
            )
        return [to_array(array, spec) for array, spec in zip(arrays, self._free, strict=True)]


@dataclass(frozen=True)
class OneBucket:
    """An executable with inputs of fixed shapes: what measures and judges executables takes one.

    Attributes:
        executable: the executable.
        inputs: the arrays that a call takes, without those whose value is fixed.
        outputs: the arrays that it gives.
    """

    executable: Executable
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __call__(self, *arrays: InputLike) -> list[NDArray[Any]]:
        """The outputs for ``arrays``; see :class:`Executable`."""
        return self.executable(*arrays)

    def time(self, arrays: Sequence[InputLike], runs: int) -> list[float]:
        """The seconds of each of ``runs`` calls; see :meth:`Executable.time`."""
        return self.executable.time(arrays, runs)

    def contest(
        self, arrays: Sequence[InputLike], variants: Variants, seconds: float, least: int = 5, most: int = 400
    ) -> dict[str, list[list[float]]]:
        """The times that variants of kernels take in their places; see :meth:`Executable.contest`."""
        return self.executable.contest(arrays, variants, seconds, least, most)


def load_executable(
    path: str | Path, threads: int | None = None, arena: Arena | None = None, instances: int = 1
) -> Executable:
    """The executable that ``tilewright tune`` wrote into the directory ``path``.

    Only files in the directory are loaded, and only those whose checksums are the manifest's.

    Args:
        path: the directory.
        threads: on which a call runs; None: as many as ``TVM_NUM_THREADS`` says, or as there are cores, divided by
            ``instances``.
        arena: memory for intermediate results that executables share which need not run at the same time; None: it
            gets its own.
        instances: how many calls of several threads may run side by side. Each has memory of its own for intermediate
            results; the weights are shared. Further calls wait.

    Raises:
        TilewrightError: ``instances`` is not a number from 1 to 1024.
        OutputError: it is no such directory, of another format, incomplete, damaged, or changed; or its calls cannot
            run side by side.
        TargetError: the processor lacks instructions that the kernels need, or ``TVM_NUM_THREADS`` is not a number of
            threads.
        ResourceError: a disk is full, or no program may run from the directory for temporary files.
        MissingExtraError: parts of the network run in ONNX Runtime, which is not installed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if type(instances) is not int or not 1 <= instances <= _MOST_INSTANCES:
        raise TilewrightError(
            f"an executable has 1 to {_MOST_INSTANCES} instances, one for each thread that calls it at the same time, "
            f"but {instances!r} were asked for"
        )
    weights, threads = read_listed(folder, manifest, WEIGHTS), threads or max(1, wanted_threads() // instances)
    # A copy is loaded. The system loads a path only once, even if the file is replaced, and no other process can
    # change the copy after its checksum was compared.
    with tempfile.TemporaryDirectory(prefix="tilewright-") as fresh:
        copy_listed(folder, manifest, LIBRARY, Path(fresh, LIBRARY))
        try:
            program = load_program(folder, manifest, weights, Path(fresh), threads, arena, instances)
            return Executable(program, manifest)
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


#: The errors that a library, weights or a plan of another form cause in the loader, in NumPy, or in TVM.
_LOADING = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)


def _describe(spec: TensorSpec) -> tuple[str, str, str]:
    """An input or output for people: its name, its shape, and its dtype."""
    shape = "x".join("?" if extent == -1 else str(extent) for extent in spec.shape) or "scalar"
    return spec.name, shape, spec.dtype
