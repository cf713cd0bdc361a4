"""The reference that outputs are judged by: the model itself, in double precision if possible.

A reference runs in processes of its own. If these die or cannot be started, the reference has no precision,
:attr:`Reference.problem` says why, and the verdict is "not decidable".

- An ONNX model is evaluated in float64 by :mod:`tilewright.verify.evaluator`. ONNX Runtime without optimisation checks
  the evaluator once. If the two grossly disagree, or if the evaluator lacks an operator, ONNX Runtime in float32 is the
  reference, since authors of models compare with it.
- A PyTorch program runs in PyTorch, in float64.
- A Relax module has no source to compare with, so it has no reference.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.frontend.onnx.half import has_half
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.tensor import Array
from tilewright.verify.reference_process import EvaluatorSide, RuntimeSide, multiplies_bytes

if TYPE_CHECKING:
    import onnx

    from tilewright.verify.torch_process import TorchOutputs

__all__ = ["NoReferenceError", "Reference", "open_reference"]

Arrays: TypeAlias = Sequence[Array]

#: The largest difference between two evaluators that rounding explains, relative to the largest output: by the
#: precision of ONNX Runtime.
_GROSS = {"float32": 0.02, "float16": 0.2}
#: A difference that is never gross: ONNX Runtime's sigmoid is off by 2^-24, and is 0 below -18.
_ALWAYS = 2.0**-20
#: Environment variables of the evaluators' processes. Each multiplies matrices on one core, since two evaluators and
#: the compiler run at the same time: with two threads DenseNet-121 took 2.5 s of processor time instead of 1.1 s,
#: because the threads of OpenBLAS wait for each other. The C library keeps freed memory, which saves a third of the
#: evaluators' time.
_VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
#: How often ONNX Runtime may refuse integers that the evaluator accepts. After that it is no longer asked.
_MOST_REFUSALS = 12
#: Bounds of a model that one process evaluates in both precisions, one after the other: its nodes, the bytes of its
#: files, and the numbers of its inputs. It takes milliseconds, and starting a process 0.4 s of a core. (A choice.)
_FEW_NODES, _FEW_BYTES, _FEW_NUMBERS = 32, 1 << 18, 1 << 15
#: Seconds within which a reference must answer.
_SECONDS = 600.0


class NoReferenceError(MeasureError):
    """There is no reference, or it died."""


class Reference(Protocol):
    """Computes the model's own outputs.

    Attributes:
        precision: ``float64`` or ``float32``; ``float16``: ONNX Runtime's on a model of float16; empty if there is no
            reference.
        problem: why there is no reference; otherwise a remark about it, or an empty text.
        dtypes: the dtypes of a right program's outputs, as NumPy names them; empty if they are not known.
    """

    precision: str
    problem: str
    dtypes: tuple[str, ...]

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """The outputs for ``inputs``. Floating-point outputs have the reference's precision.

        Raises:
            NoReferenceError: there is no reference, or it died.
            MeasureError: it refuses these inputs.
        """
        ...

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """The outputs of an evaluation that differs from the exact one as a correct program does.

        Another thread may call this while :meth:`outputs` runs.

        Args:
            inputs: the inputs.
            seed: the seed of the differences.
            amplitude: their size, in units of what a correct program may differ by.

        Raises:
            NoReferenceError: there is no reference, or it died.
            MeasureError: it refuses these inputs.
        """
        ...


@contextlib.contextmanager
def open_reference(network: Network, seconds: float = _SECONDS) -> Iterator[Reference]:
    """The reference of a network. Its processes end with the context.

    Args:
        network: the network.
        seconds: the time limit of each answer.
    """
    if network.onnx is None and network.program is None:
        yield NoReference("there is no reference: a Relax module has no source that its outputs could be compared with")
        return
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilewright-")))
        try:
            found: Reference
            if network.onnx is not None:
                found = OnnxReference(network, folder, stack, seconds)
            else:
                found = TorchReference(network, folder, stack, seconds)
        except (MeasureError, OSError, ValueError) as exc:
            found = NoReference(f"there is no reference: {exc}")
        yield found


class NoReference:
    """Stands for a missing reference.

    Args:
        problem: why there is none.
    """

    precision = ""
    dtypes: tuple[str, ...] = ()

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def outputs(self, inputs: Arrays) -> list[Array]:
        """Raise NoReferenceError."""
        raise NoReferenceError(self.problem)

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[Array]:
        """Raise NoReferenceError."""
        raise NoReferenceError(self.problem)


class OnnxReference:
    """An ONNX model, evaluated in float64 by ONNX's evaluator or, if that fails, in float32 by ONNX Runtime.

    Args:
        network: a network with an ONNX model.
        folder: an empty directory for the model's file.
        stack: ends the processes.
        seconds: the time limit of each answer.
    """

    def __init__(self, network: Network, folder: Path, stack: contextlib.ExitStack, seconds: float) -> None:
        assert network.onnx is not None
        path = _write_onnx(network.onnx, folder)
        names = tuple(spec.name for spec in network.inputs)
        self.precision, self.problem = "float64", ""
        self.dtypes = _declared_dtypes(network.onnx)
        self._seconds = seconds
        self._own_precision = "float16" if has_half(network.onnx) else "float32"
        self._integers = any(spec.kind != "f" for spec in network.inputs)
        self._processes = {
            "float64": stack.enter_context(IsolatedProcess(EvaluatorSide, (str(path), names, True), _VARIABLES)),
            self._own_precision: stack.enter_context(
                IsolatedProcess(RuntimeSide, (str(path), names, multiplies_bytes(network.onnx)))
            ),
        }
        # The model's own precision has another process, so that it is evaluated at the same time as float64. A small
        # model takes less time than starting that.
        self._own = self._processes["float64"]
        if not _is_small(network, folder):
            self._own = stack.enter_context(IsolatedProcess(EvaluatorSide, (str(path), names, False), _VARIABLES))
        self._lost: dict[str, str] = {}
        self._compared = False
        self._refusals = 0

    def outputs(self, inputs: Arrays) -> list[Array]:
        """See :class:`Reference`."""
        if self._lost.keys() >= self._processes.keys():
            raise NoReferenceError(self.problem)
        found: dict[str, list[Array]] = {}
        said = self._ask("float64", inputs, found)
        if not self._compared or self._integers or "float64" not in found:
            refused = self._ask(self._own_precision, inputs, found)
            if refused and self._excuse(bool(found)):
                self._lose(self._own_precision, refused)
            elif refused:
                raise MeasureError(refused)
        if self._lost.keys() >= self._processes.keys():
            raise NoReferenceError(self.problem)
        if said and (self._compared or self._own_precision not in found):
            raise MeasureError(said)
        if said:  # ONNX Runtime accepts these inputs, so the evaluator lacks something
            self._lose("float64", said)
        if not self._compared and len(found) == 2:
            self._cross_check(inputs, found["float64"], found[self._own_precision])
        self._compared = True
        return found[self.precision]

    def _ask(self, precision: str, inputs: Arrays, found: dict[str, list[Array]]) -> str:
        """Let one of the two evaluate the model, and put its outputs into ``found``.

        Returns:
            why it refuses the inputs; empty if it does not, or if it was lost.
        """
        if precision in self._lost:
            return ""
        try:
            found[precision] = self._call(precision, "outputs", list(inputs))
        except IsolatedError as exc:
            self._lose(precision, str(exc))
        except MeasureError as exc:
            return str(exc)
        return ""

    def _excuse(self, exact: bool) -> bool:
        """Whether a refusal of ONNX Runtime is its own failure, and not the fault of the inputs' integers.

        Args:
            exact: whether the evaluator accepted the inputs.
        """
        self._refusals += 1
        return exact and not self._compared and (not self._integers or self._refusals > _MOST_REFUSALS)

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[Array]:
        """See :class:`Reference`."""
        if not self.precision:
            raise NoReferenceError(self.problem)
        precision = self.precision
        try:
            return self._call(precision, "rounded", list(inputs), seed, amplitude)
        except IsolatedError as exc:
            self._lose(precision, str(exc))
            raise MeasureError(self.problem) from exc

    def _call(self, precision: str, method: str, *arguments: object) -> list[Array]:
        process = self._own if precision == "float64" and method == "rounded" else self._processes[precision]
        try:
            process.wait(self._seconds)
        except IsolatedError:
            raise
        except MeasureError as exc:  # the object in it could not be made
            raise IsolatedError(str(exc)) from exc
        return list(process.call(method, *arguments, seconds=self._seconds))

    def _lose(self, precision: str, why: str) -> None:
        """Use one of the two no more."""
        self._lost[precision] = why
        if precision == "float64" and self.precision == "float64":
            self.precision = self._own_precision
            self.problem = f"the model cannot be evaluated in float64 ({why})"
        if self._lost.keys() >= self._processes.keys():
            self.precision = ""
            self.problem = (
                f"there is no reference: ONNX Runtime says {self._lost[self._own_precision]}; "
                f"the evaluator in float64 says {self._lost['float64']}"
            )

    def _cross_check(self, inputs: Arrays, exact: Arrays, own: Arrays) -> None:
        """Use ONNX Runtime from now on, if the two cannot both be right.

        Args:
            inputs: the inputs.
            exact: the outputs in float64.
            own: ONNX Runtime's outputs.
        """
        bound = _GROSS[self._own_precision]
        if _agree(exact, own, bound):
            return
        # Rounding changes more in a network that rounds numbers to few integers.
        try:
            rounded: Arrays = self._call("float64", "rounded", list(inputs), 0, 2.0)  # twice a correct program's
        except MeasureError:
            rounded = exact
        if not _agree(exact, own, bound, rounded):
            self._lose("float64", "its outputs disagree with ONNX Runtime's beyond rounding")


def _is_small(network: Network, folder: Path) -> bool:
    """Whether evaluating a model, whose files are in a directory, takes less time than starting a process."""
    assert network.onnx is not None
    numbers = sum(math.prod(spec.shape) for spec in network.inputs)
    nbytes = sum(file.stat().st_size for file in folder.iterdir())
    return len(network.onnx.graph.node) <= _FEW_NODES and numbers <= _FEW_NUMBERS and nbytes <= _FEW_BYTES


def _agree(exact: Arrays, own: Arrays, bound: float, rounded: Arrays | None = None) -> bool:
    """Whether all outputs are :func:`_close`; ``rounded``: outputs that show what rounding changes."""
    same = len(exact) == len(own) and all(e.shape == o.shape for e, o in zip(exact, own, strict=True))
    return same and all(
        _close(e, o, bound, r) for e, o, r in zip(exact, own, exact if rounded is None else rounded, strict=True)
    )


def _close(exact: Array, own: Array, bound: float, rounded: Array) -> bool:
    """Whether outputs differ by at most ``bound`` of the largest, and twice what rounding changed in ``rounded``."""
    if not own.size or rounded.shape != exact.shape:
        return rounded.shape == exact.shape
    if own.dtype.kind != "f":
        return exact.dtype.kind == own.dtype.kind and bool(
            np.mean(exact != own) <= bound + 2 * np.mean(exact != rounded)
        )
    with np.errstate(all="ignore"):
        wide, other = exact.astype(own.dtype).astype(np.float64), own.astype(np.float64)
        noisy = rounded.astype(np.float64)
        both = np.isfinite(wide) & np.isfinite(other) & np.isfinite(noisy)
        if np.mean(np.isfinite(wide) != np.isfinite(other)) > bound:
            return False
        scale = float(np.abs(wide[both]).max(initial=0.0))
        noise = float(np.abs(wide[both] - noisy[both]).max(initial=0.0))
        return bool(np.all(np.abs(wide[both] - other[both]) <= bound * scale + 2 * noise + _ALWAYS))


def _declared_dtypes(model: onnx.ModelProto) -> tuple[str, ...]:
    """The dtypes of the outputs that the model declares; empty unless it declares all of them."""
    from onnx import helper

    kinds = [output.type.tensor_type.elem_type for output in model.graph.output]
    names = (str(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds if kind)
    # NumPy has no bfloat16, so a program gives these numbers as float32.
    return tuple("float32" if name == "bfloat16" else name for name in names) if all(kinds) else ()


def _write_onnx(model: onnx.ModelProto, folder: Path) -> Path:
    from tilewright.frontend.onnx.data import save_onnx

    path = folder / "model.onnx"
    save_onnx(model, path)
    return path


class TorchReference:
    """A PyTorch program, in float64 if each of its operators can compute in float64.

    Args:
        network: a network with a PyTorch program.
        folder: an empty directory for the program's file.
        stack: ends the process.
        seconds: the time limit of each answer.
    """

    def __init__(self, network: Network, folder: Path, stack: contextlib.ExitStack, seconds: float) -> None:
        from tilewright.frontend.torch.model import SUFFIX, write_program
        from tilewright.verify.torch_process import TorchSide

        path = folder / f"model{SUFFIX}"
        write_program(network.program, path)
        self._seconds = seconds
        self._process = stack.enter_context(IsolatedProcess(TorchSide, (str(path),)))
        self.precision, self.problem = "float64", ""
        self.dtypes: tuple[str, ...] = ()

    def outputs(self, inputs: Arrays) -> list[Array]:
        """See :class:`Reference`."""
        try:
            self._wait()
            found: TorchOutputs = self._process.call("outputs", list(inputs), seconds=self._seconds)
        except IsolatedError as exc:
            raise self._end(exc) from exc
        self.precision, self.problem, self.dtypes = found.precision, found.problem, found.dtypes
        return found.outputs

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[Array]:
        """See :class:`Reference`."""
        try:
            self._wait()
            return list(self._process.call("rounded", list(inputs), seed, amplitude, seconds=self._seconds))
        except IsolatedError as exc:
            raise self._end(exc) from exc

    def _wait(self) -> None:
        """Wait until the process has read the program."""
        try:
            self._process.wait(self._seconds)
        except IsolatedError:
            raise
        except MeasureError as exc:
            raise IsolatedError(str(exc)) from exc

    def _end(self, exc: IsolatedError) -> NoReferenceError:
        """Have no reference any more; the error that says so."""
        self.precision, self.problem = "", f"there is no reference: PyTorch says {exc}"
        return NoReferenceError(self.problem)
