"""Does a task's winner compute what its default program does, whatever the data?

A candidate is compared while it is measured, and a network at its end, both on ordinary numbers. A program that goes
wrong only on zeros, or where numbers are large, would pass. So winners are run on several kinds of data beside the
default program, before the executable is built. That happens in a process of its own: a wrong program may well die.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.compiling.integer_arguments import integer_ranges
from tilewright.errors import MeasureError
from tilewright.graph.tasks import Extraction
from tilewright.measure.arguments import TOLERANCE, Parameter, parameters_of
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.target import Target

__all__ = ["DISTRIBUTIONS", "Distribution", "KernelCheck", "KernelSide", "check_kernels"]

#: Seconds within which a kernel is compiled and has run on all kinds of data.
_SECONDS = 120.0

#: Random numbers that all arguments are cut from, since drawing millions takes longer than a kernel. A prime, so that
#: no dimension is a period of it.
_DRAWN = 1_000_003


@dataclass(frozen=True)
class Distribution:
    """A kind of data, made of standard normal numbers, and what counts as agreement on it.

    Attributes:
        name: for people.
        make: from the normal numbers, float32, to the data.
        absolute: the error that always passes, for outputs that are all zero.
        strays: the share of elements that may disagree.
    """

    name: str
    make: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    absolute: float = 1e-6
    strays: float = 0.0


#: Sums of denormal numbers are exact but for the last of their few digits. Of large numbers a sigmoid is a step: where
#: a sum of them comes out near zero, its rounding decides between 0 and 1.
DISTRIBUTIONS = (
    Distribution("ordinary numbers", lambda x: x),
    Distribution("zeros", lambda x: np.zeros_like(x)),
    Distribution("negative numbers", lambda x: -np.abs(x)),
    Distribution("large numbers", lambda x: x * np.float32(1e8), strays=1e-3),
    Distribution("denormal numbers", lambda x: x * np.float32(1e-40), absolute=1e-43),
)


@dataclass(frozen=True)
class KernelCheck:
    """What came of checking a network's winners.

    Attributes:
        wrong: by the key of each task whose winner disagrees with its default: on what data, and how.
        unchecked: the keys of tasks that there was no time for.
        seconds: what it took.
    """

    wrong: Mapping[str, str]
    unchecked: tuple[str, ...]
    seconds: float


def check_kernels(
    extraction: Extraction, winners: Mapping[str, Any], defaults: Mapping[str, Any], seconds: float
) -> KernelCheck:
    """Compare the ``winners`` with the ``defaults`` (PrimFuncs by task key), heaviest tasks first.

    A winner that is the default, or has none, is right. One that ends the process that it runs in is wrong; one whose
    default does so is not checked. No task is begun after ``seconds``; the last one may take them over by its own time:
    0.25 to 0.45 s for convolutions of SqueezeNet, most of it to compile two kernels.
    """
    from tvm_ffi import structural_equal

    began = time.monotonic()
    wrong: dict[str, str] = {}
    unchecked: list[str] = []
    with ExitStack() as stack:
        process: IsolatedProcess | None = None
        for use in extraction.uses:
            key = use.task.key
            winner, default = winners.get(key), defaults.get(key)
            if winner is None or default is None or structural_equal(winner, default):
                continue
            if time.monotonic() - began >= seconds:
                unchecked.append(key)
                continue
            try:
                if process is None or not process.alive:
                    process = stack.enter_context(IsolatedProcess(KernelSide, (extraction.target,)))
                problem = _compare_in(process, winner, default)
            except MeasureError:
                unchecked.append(key)
                continue
            if problem:
                wrong[key] = problem
    return KernelCheck(wrong, tuple(unchecked), time.monotonic() - began)


def _compare_in(process: IsolatedProcess, winner: Any, default: Any) -> str:
    """What is wrong with a winner; MeasureError where its default says nothing."""
    import tvm

    process.call("expect", tvm.ir.save_json(default), seconds=_SECONDS)
    try:
        return str(process.call("problem", tvm.ir.save_json(winner), seconds=_SECONDS))
    except IsolatedError as exc:
        return f"running it, {exc}"
    except MeasureError as exc:
        return f"it cannot be compiled or run: {exc}"


class KernelSide:
    """What runs in the process that compares kernels.

    Args:
        target: what they are compiled for.
    """

    def __init__(self, target: Target) -> None:
        from tilewright.tvm_compat import set_threads

        set_threads()
        self._target = target.tvm
        self._drawn = np.random.default_rng(0).standard_normal(_DRAWN, dtype=np.float32)
        self._default: Any = None
        self._wanted: list[list[NDArray[Any]]] = []

    def expect(self, default: str) -> None:
        """Run the default program, as JSON, whose outputs the next one's are compared with."""
        import tvm

        self._default = tvm.ir.load_json(default)
        self._wanted = self._outputs(self._default)

    def problem(self, winner: str) -> str:
        """What is different about a program's outputs, in words; empty where nothing is."""
        import tvm

        function = tvm.ir.load_json(winner)
        if parameters_of(function) != parameters_of(self._default):
            return "number, shapes or types of its arguments are not the default's"
        for distribution, results, right in zip(DISTRIBUTIONS, self._outputs(function), self._wanted, strict=True):
            for wanted, found in zip(right, results, strict=True):
                problem = _difference(found, wanted, distribution)
                if problem:
                    return f"on {distribution.name}: {problem}"
        return ""

    def _outputs(self, function: Any) -> list[list[NDArray[Any]]]:
        """What a program makes of each kind of data."""
        import tvm

        parameters, ranges = parameters_of(self._default), integer_ranges(self._default)
        kernel = tvm.compile(
            tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")}), target=self._target
        )["main"]
        arrays = [np.empty(p.shape, dtype=p.dtype) for p in parameters]
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        found = []
        for distribution in DISTRIBUTIONS:
            source = distribution.make(self._drawn)
            for number, (parameter, array, tensor) in enumerate(zip(parameters, arrays, tensors, strict=True)):
                if parameter.written:
                    tensor.copyfrom(np.full(parameter.shape, _blank(parameter), dtype=parameter.dtype))
                else:
                    _fill(array, source if array.dtype.kind == "f" else self._drawn, number, ranges.get(number, (0, 1)))
                    tensor.copyfrom(array)
            kernel(*tensors)
            found.append([tensor.numpy() for _, tensor in _written(parameters, tensors)])
        return found


def _written(parameters: tuple[Parameter, ...], tensors: list[Any]) -> Iterator[tuple[Parameter, Any]]:
    return ((p, t) for p, t in zip(parameters, tensors, strict=True) if p.written)


def _blank(parameter: Parameter) -> float:
    """What an output holds before: no kernel is excused by what another one left there."""
    return np.nan if np.dtype(parameter.dtype).kind == "f" else 1


def _fill(array: NDArray[Any], source: NDArray[np.float32], number: int, bounds: tuple[int, int]) -> None:
    """Fill an argument from ``source``, each from another place on; integers lie within ``bounds``, and reach them."""
    flat = array.reshape(-1)
    values = np.roll(source, -7919 * number)
    if array.dtype.kind != "f":
        low, high = bounds
        values = (low + np.floor(np.abs(values) * 1000).astype(np.int64) % (high - low + 1)).astype(array.dtype)
    for begin in range(0, flat.size, values.size):
        flat[begin : begin + values.size] = values[: flat.size - begin]


def _difference(found: NDArray[Any], wanted: NDArray[Any], distribution: Distribution) -> str:
    """What is wrong with ``found``, in words; empty when nothing is. Infinities and NaN must be in the same places."""
    found, wanted = found.reshape(-1).astype(np.float64), wanted.reshape(-1).astype(np.float64)
    finite = np.isfinite(wanted)
    largest = float(np.abs(wanted[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore"):  # infinity - infinity
        far = np.abs(found - wanted) > TOLERANCE * largest + distribution.absolute
    same = np.isnan(found) & np.isnan(wanted) | (found == wanted)
    bad = ~same & (far | ~finite | ~np.isfinite(found))
    count = int(np.count_nonzero(bad))
    if count <= distribution.strays * bad.size:
        return ""
    place = int(bad.argmax())
    return (
        f"{count} of {bad.size} elements disagree, the first is {found[place]:.4g} and should be {wanted[place]:.4g} "
        f"(the largest is {largest:.4g})"
    )
