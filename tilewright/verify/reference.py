"""The reference that outputs are judged by: the model itself, in double precision where possible.

A reference runs in processes of its own. If it dies or cannot be made, no error is raised here: its precision is empty,
:attr:`Reference.problem` says why, and the verdict is "not decidable".

ONNX models are evaluated in float64 by :mod:`tilewright.verify.evaluator`. ONNX Runtime without optimisation checks the
evaluator, once. If the two grossly disagree, or the evaluator lacks an operator, ONNX Runtime in float32 is the
reference: the model's author has compared the model with it. PyTorch programs run in double precision likewise. A Relax
module has no source to compare with.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.verify.reference_process import EvaluatorSide, RuntimeSide

__all__ = ["NoReferenceError", "Reference", "open_reference"]

Arrays: TypeAlias = Sequence[NDArray[Any]]

#: What rounding in float32 and in float16 explains of a difference between two evaluators, relative to the largest
#: output; and always, since ONNX Runtime's sigmoid is off by 2^-24 and is 0 below -18.
_GROSS = {"float32": 0.02, "float16": 0.2}
_ALWAYS = 2.0**-20
#: The evaluators' C library keeps the memory of results that are gone, which saves a third of their time. Two
#: evaluators and the compiler run at the same time, so each multiplies matrices on one core: on two, while others want
#: them, the threads of OpenBLAS wait for each other, and DenseNet-121 took 2.5 s of the processor instead of 1.1.
_VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
#: The most refusals of integers that the evaluator accepts, before ONNX Runtime is no longer asked.
_MOST_REFUSALS = 12


class NoReferenceError(MeasureError):
    """There is no reference, or it died."""


class Reference(Protocol):
    """The model's own outputs.

    Attributes:
        precision: ``float64`` or ``float32``; empty where there is no reference.
        problem: why there is none; otherwise a remark about it, or empty.
        dtypes: of the outputs of a right program, as NumPy names them; empty if not known.
    """

    precision: str
    problem: str
    dtypes: tuple[str, ...]

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """The outputs for ``inputs``: floating-point ones in the reference's precision.

        Raises:
            NoReferenceError: there is no reference, or it died.
            MeasureError: it refuses these inputs.
        """
        ...

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """The outputs of an evaluation that differs from the exact one as a correct program may.

        Another thread may ask for this while :meth:`outputs` runs.

        Args:
            inputs: the inputs.
            seed: of the differences.
            amplitude: their size, in units of what a correct program may differ by.

        Raises:
            NoReferenceError: there is no reference, or it died.
            MeasureError: it refuses these inputs.
        """
        ...


@contextlib.contextmanager
def open_reference(network: Network, seconds: float = 600.0) -> Iterator[Reference]:
    """The reference of a network, in processes that end with the context.

    Args:
        network: the network.
        seconds: the limit of each of its answers.
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
        problem: why it is missing.
    """

    precision = ""
    dtypes: tuple[str, ...] = ()

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Raises NoReferenceError."""
        raise NoReferenceError(self.problem)

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """Raises NoReferenceError."""
        raise NoReferenceError(self.problem)


class OnnxReference:
    """An ONNX model: evaluated in float64 or, if that fails, in float32 by ONNX Runtime."""

    def __init__(self, network: Network, folder: Path, stack: contextlib.ExitStack, seconds: float) -> None:
        assert network.onnx is not None
        path = _write_onnx(network.onnx, folder)
        names = tuple(spec.name for spec in network.inputs)
        self.precision, self.problem = "float64", ""
        self.dtypes = _declared(network.onnx)
        self._seconds = seconds
        self._integers = any(np.dtype(spec.dtype).kind not in "f" for spec in network.inputs)
        self._processes = {
            "float64": stack.enter_context(IsolatedProcess(EvaluatorSide, (str(path), names, True), _VARIABLES)),
            "float32": stack.enter_context(IsolatedProcess(RuntimeSide, (str(path), names))),
        }
        # Beside the one in float64, so that the two run at the same time.
        self._own = stack.enter_context(IsolatedProcess(EvaluatorSide, (str(path), names, False), _VARIABLES))
        self._lost: dict[str, str] = {}
        self._compared = False
        self._refusals = 0

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """See :class:`Reference`."""
        if self._lost.keys() >= self._processes.keys():
            raise NoReferenceError(self.problem)
        found: dict[str, list[NDArray[Any]]] = {}
        said = self._ask("float64", inputs, found)
        if not self._compared or self._integers or "float64" not in found:
            refused = self._ask("float32", inputs, found)
            if refused and self._excuse(bool(found)):
                self._lose("float32", refused)
            elif refused:
                raise MeasureError(refused)
        if self._lost.keys() >= self._processes.keys():
            raise NoReferenceError(self.problem)
        if said and (self._compared or "float32" not in found):
            raise MeasureError(said)
        if said:  # ONNX Runtime takes these inputs: it is the evaluator that lacks something
            self._lose("float64", said)
        if not self._compared and len(found) == 2:
            self._compare(inputs, found["float64"], found["float32"])
        self._compared = True
        return found[self.precision]

    def _ask(self, precision: str, inputs: Arrays, found: dict[str, list[NDArray[Any]]]) -> str:
        """Have one of the two evaluate, into ``found``; what it says if it refuses the inputs."""
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
        """Whether ONNX Runtime's refusal is its own failure: there are no integers that it might not accept."""
        self._refusals += 1
        return exact and not self._compared and (not self._integers or self._refusals > _MOST_REFUSALS)

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """See :class:`Reference`."""
        if not self.precision:
            raise NoReferenceError(self.problem)
        precision = self.precision
        try:
            return self._call(precision, "rounded", list(inputs), seed, amplitude)
        except IsolatedError as exc:
            self._lose(precision, str(exc))
            raise MeasureError(self.problem) from exc

    def _call(self, precision: str, method: str, *arguments: Any) -> list[NDArray[Any]]:
        process = self._own if precision == "float64" and method == "rounded" else self._processes[precision]
        try:
            process.wait(self._seconds)
        except IsolatedError:
            raise
        except MeasureError as exc:  # it could not be made
            raise IsolatedError(str(exc)) from exc
        return list(process.call(method, *arguments, seconds=self._seconds))

    def _lose(self, precision: str, why: str) -> None:
        """Do without one of the two from now on."""
        self._lost[precision] = why
        if precision == "float64" and self.precision == "float64":
            self.precision = "float32"
            self.problem = f"the model cannot be evaluated in float64 ({why})"
        if self._lost.keys() >= self._processes.keys():
            self.precision = ""
            self.problem = (
                f"there is no reference: ONNX Runtime says {self._lost['float32']}; "
                f"the evaluator in float64 says {self._lost['float64']}"
            )

    def _compare(self, inputs: Arrays, exact: Arrays, own: Arrays) -> None:
        """Take ONNX Runtime's word where the two cannot both be right."""
        bound = max((_GROSS.get(str(array.dtype), 0.02) for array in own), default=0.02)
        if _agree(exact, own, bound):
            return
        # Rounding decides more than that where a network rounds numbers to few integers.
        try:
            rounded: Arrays = self._call("float64", "rounded", list(inputs), 0, 2.0)
        except MeasureError:
            rounded = exact
        if not _agree(exact, own, bound, rounded):
            self._lose("float64", "its outputs disagree with ONNX Runtime's beyond rounding")


def _agree(exact: Arrays, own: Arrays, bound: float, rounded: Arrays | None = None) -> bool:
    same = len(exact) == len(own) and all(e.shape == o.shape for e, o in zip(exact, own, strict=True))
    return same and all(
        _close(e, o, bound, r) for e, o, r in zip(exact, own, exact if rounded is None else rounded, strict=True)
    )


def _close(exact: NDArray[Any], own: NDArray[Any], bound: float, rounded: NDArray[Any]) -> bool:
    """Whether an output is another one's but for ``bound``, and for twice what rounding has changed in ``rounded``."""
    if not own.size or rounded.shape != exact.shape:
        return rounded.shape == exact.shape
    if own.dtype.kind != "f":
        return exact.dtype.kind == own.dtype.kind and bool(
            np.mean(exact != own) <= bound + 2 * np.mean(exact != rounded)
        )
    with np.errstate(all="ignore"):
        wide, other = exact.astype(own.dtype).astype(np.float64), own.astype(np.float64)
        both = np.isfinite(wide) & np.isfinite(other) & np.isfinite(rounded)
        if np.mean(np.isfinite(wide) != np.isfinite(other)) > bound:
            return False
        scale = float(np.abs(wide[both]).max(initial=0.0))
        noise = float(np.abs(wide[both] - rounded[both]).max(initial=0.0))
        return bool(np.all(np.abs(wide[both] - other[both]) <= bound * scale + 2 * noise + _ALWAYS))


def _declared(model: Any) -> tuple[str, ...]:
    """The dtypes of the outputs as the model declares them; none where it does not."""
    from onnx import helper

    kinds = [output.type.tensor_type.elem_type for output in model.graph.output]
    return tuple(str(helper.tensor_dtype_to_np_dtype(kind)) for kind in kinds) if all(kinds) else ()


def _write_onnx(model: Any, folder: Path) -> Path:
    from tilewright.frontend.onnx.data import save_onnx

    path = folder / "model.onnx"
    save_onnx(model, path)
    return path


class TorchReference:
    """A PyTorch program, in double precision where each of its operators has one."""

    def __init__(self, network: Network, folder: Path, stack: contextlib.ExitStack, seconds: float) -> None:
        from tilewright.frontend.torch.model import SUFFIX, write_program
        from tilewright.verify.torch_process import TorchSide

        path = folder / f"model{SUFFIX}"
        write_program(network.program, path)
        self._seconds = seconds
        self._process = stack.enter_context(IsolatedProcess(TorchSide, (str(path),)))
        self.precision, self.problem = "float64", ""
        self.dtypes: tuple[str, ...] = ()

    def outputs(self, inputs: Arrays) -> list[NDArray[Any]]:
        """See :class:`Reference`."""
        try:
            outputs, self.precision, self.problem, self.dtypes = self._call("outputs", list(inputs))
        except IsolatedError as exc:
            self._end(exc)
        return list(outputs)

    def rounded(self, inputs: Arrays, seed: int, amplitude: float) -> list[NDArray[Any]]:
        """See :class:`Reference`."""
        try:
            return list(self._call("rounded", list(inputs), seed, amplitude))
        except IsolatedError as exc:
            self._end(exc)
            raise

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            self._process.wait(self._seconds)
        except IsolatedError:
            raise
        except MeasureError as exc:
            raise IsolatedError(str(exc)) from exc
        return self._process.call(method, *arguments, seconds=self._seconds)

    def _end(self, exc: IsolatedError) -> None:
        self.precision, self.problem = "", f"there is no reference: PyTorch says {exc}"
        raise NoReferenceError(self.problem) from exc
