"""Checks on several kinds of data that the best program of a task computes what its default program computes.

Candidates are compared on ordinary numbers while they are measured, and so is the network in the end. A program that is
wrong only for zeros, or for large numbers, would pass. So the best programs are compared with the default programs on
several kinds of data. They run in a process of their own, since a wrong program may crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from tilewright.difference import compare_arrays, scaled_tolerance
from tilewright.errors import MeasureError
from tilewright.graph.buckets import Extracted
from tilewright.measure.arguments import TOLERANCE, Parameter, parameters_of
from tilewright.measure.isolated import IsolatedError, IsolatedProcess
from tilewright.target import Target
from tilewright.tensor import Array
from tilewright.tvm_compat import keep_nan, load_object
from tilewright.verify.integer_arguments import find_integer_ranges

if TYPE_CHECKING:
    from tvm import tirx

__all__ = ["DISTRIBUTIONS", "Distribution", "KernelCheck", "KernelSide", "check_kernels", "find_difference"]

#: Seconds within which a kernel must be compiled and run on all kinds of data.
_SECONDS = 120.0

#: How many random numbers are drawn. All arguments are cut from them, since drawing millions takes longer than a kernel
#: runs. The number is prime, so that no extent of a tensor is a period of it.
_DRAWN = 1_000_003
#: How far the numbers of one argument lie behind those of the argument before.
_SHIFT = 7919
#: The range of integers of which a program does not say how they are used.
_FREE = (0, 1)

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Distribution:
    """A kind of data, and what counts as agreement on it.

    Attributes:
        name: the kind's name, for people.
        make: makes the data from standard normal numbers of float32.
        absolute: the error that is always accepted, for outputs that are 0 everywhere.
        strays: the share of elements that may disagree.
    """

    name: str
    make: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    absolute: float = 1e-6
    strays: float = 0.0


#: The kinds of data. Sums of denormal numbers are exact but for the last of their few digits, so hardly any error is
#: accepted. The sigmoid of large numbers is a step: if a sum of them is near zero, rounding decides between 0 and 1, so
#: some elements may disagree.
DISTRIBUTIONS = (
    Distribution("ordinary numbers", lambda x: x),
    Distribution("zeros", lambda x: np.zeros_like(x)),
    Distribution("negative numbers", lambda x: -np.abs(x)),
    Distribution("large numbers", lambda x: x * np.float32(1e8), strays=1e-3),
    Distribution("denormal numbers", lambda x: x * np.float32(1e-40), absolute=1e-43),
)


@dataclass(frozen=True)
class KernelCheck:
    """The result of checking a network's best programs.

    Attributes:
        wrong: for each task whose best program disagrees with its default, by key: on which data, and how.
        unchecked: the keys of the tasks that there was no time for, or whose default fails.
        seconds: how long the check took.
    """

    wrong: Mapping[str, str]
    unchecked: tuple[str, ...]
    seconds: float


def check_kernels(
    extraction: Extracted,
    winners: Mapping[str, tirx.PrimFunc],
    defaults: Mapping[str, tirx.PrimFunc],
    seconds: float,
) -> KernelCheck:
    """Compare the best programs of tasks with their default programs, the heaviest tasks first.

    A best program is right if it is the default, or if its task has no default. It is wrong if it ends its process. If
    the default ends its process, the task is not checked.

    Args:
        extraction: the network.
        winners: the best programs by ``Task.key``.
        defaults: the default programs by ``Task.key``.
        seconds: the time after which no task is begun. The last task may end later: a convolution of SqueezeNet takes
            0.25 to 0.45 s, most of it to compile two kernels.
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


def _compare_in(process: IsolatedProcess, winner: tirx.PrimFunc, default: tirx.PrimFunc) -> str:
    """What is wrong with a best program, in words. Raises ``MeasureError`` if its default fails."""
    import tvm

    process.call("expect", tvm.ir.save_json(default), seconds=_SECONDS)
    try:
        return str(process.call("problem", tvm.ir.save_json(winner), seconds=_SECONDS))
    except IsolatedError as exc:
        return f"running it, {exc}"
    except MeasureError as exc:
        return f"it cannot be compiled or run: {exc}"


class KernelSide:
    """Compares programs in a process of its own.

    Args:
        target: what the programs are compiled for.
    """

    def __init__(self, target: Target) -> None:
        from tilewright.tvm_compat import set_threads

        set_threads()
        self._target = target.tvm
        self._drawn = np.random.default_rng(0).standard_normal(_DRAWN, dtype=np.float32)
        self._default: tirx.PrimFunc | None = None
        self._wanted: list[list[Array]] = []

    def expect(self, default: str) -> None:
        """Run a default program, given as TVM's JSON. Its outputs are the expected ones from now on."""
        self._default = load_object(default)
        self._wanted = self._outputs(self._default)

    def problem(self, winner: str) -> str:
        """How the outputs of a program, given as TVM's JSON, differ from the expected ones; empty if they agree."""
        function = load_object(winner)
        if parameters_of(function) != parameters_of(self._default):
            return "number, shapes or types of its arguments are not the default's"
        for distribution, results, right in zip(DISTRIBUTIONS, self._outputs(function), self._wanted, strict=True):
            for wanted, found in zip(right, results, strict=True):
                problem = find_difference(found, wanted, distribution)
                if problem:
                    return f"on {distribution.name}: {problem}"
        return ""

    def _outputs(self, function: tirx.PrimFunc) -> list[list[Array]]:
        """The outputs of a program on each kind of data."""
        import tvm

        parameters, ranges = parameters_of(self._default), find_integer_ranges(self._default)
        kernel = tvm.compile(
            keep_nan(tvm.ir.IRModule({"main": function.with_attr("global_symbol", "main")})), target=self._target
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
                    _fill(array, source if array.dtype.kind == "f" else self._drawn, number, ranges.get(number, _FREE))
                    tensor.copyfrom(array)
            kernel(*tensors)
            found.append([tensor.numpy() for _, tensor in _written(parameters, tensors)])
        return found


def _written(parameters: tuple[Parameter, ...], tensors: list[_Item]) -> Iterator[tuple[Parameter, _Item]]:
    """The parameters that are outputs, with their tensors."""
    return ((p, t) for p, t in zip(parameters, tensors, strict=True) if p.written)


def _blank(parameter: Parameter) -> float:
    """The number that an output holds before a kernel runs, so that the results of another kernel do not stay there."""
    return np.nan if np.dtype(parameter.dtype).kind == "f" else 1


def _fill(array: Array, source: NDArray[np.float32], number: int, bounds: tuple[int, int]) -> None:
    """Fill the argument ``number`` from ``source``.

    Each argument begins at another place of ``source``. Integers lie within ``bounds``, and reach both.
    """
    flat, rolled = array.reshape(-1), np.roll(source, -_SHIFT * number)
    values: Array = rolled
    if array.dtype == np.uint16 and bounds == _FREE:  # the bits of bfloat16 numbers
        values = (rolled.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    elif array.dtype.kind != "f":
        low, high = bounds
        values = (low + np.floor(np.abs(rolled) * 1000).astype(np.int64) % (high - low + 1)).astype(array.dtype)
    for begin in range(0, flat.size, values.size):
        flat[begin : begin + values.size] = values[: flat.size - begin]


def find_difference(found: Array, wanted: Array, distribution: Distribution) -> str:
    """How an output differs from the expected one, in words; empty if they agree.

    An element agrees if it is off by at most ``TOLERANCE`` of the largest expected magnitude. This holds for integers
    as well. Infinities and NaN must be in the same places.

    Args:
        found: the output.
        wanted: the expected output, of the same shape.
        distribution: the kind of data that they are computed from.
    """
    found, wanted = found.reshape(-1).astype(np.float64), wanted.reshape(-1).astype(np.float64)
    difference = compare_arrays(found, wanted, scaled_tolerance(wanted, TOLERANCE, distribution.absolute))
    if difference.count <= distribution.strays * found.size:
        return ""
    (place,) = difference.place
    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    return (
        f"{difference.count} of {found.size} elements disagree, the worst is {found[place]:.4g} and should be "
        f"{wanted[place]:.4g} (the largest is {largest:.4g})"
    )
