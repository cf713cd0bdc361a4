"""Does a task's winner compute what its default program does, whatever the data?

A candidate is compared while it is measured, and a network at its end, both on ordinary numbers. A program that goes
wrong only on zeros, or where numbers are large, would pass. So winners are run on several kinds of data beside the
default program, before the executable is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.measure.arguments import TOLERANCE, Parameter, parameters_of
from tilewright.network.tasks import Extraction

__all__ = ["DISTRIBUTIONS", "Distribution", "KernelCheck", "check_kernels"]

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

    A winner that is the default, or has none, is right. No task is begun after ``seconds``; the last one may take them
    over by its own time: 0.25 to 0.45 s for convolutions of SqueezeNet, most of it to compile two kernels.
    """
    from tvm_ffi import structural_equal

    began = time.monotonic()
    drawn = np.random.default_rng(0).standard_normal(_DRAWN, dtype=np.float32)
    wrong, unchecked = {}, []
    for use in extraction.uses:
        winner, default = winners.get(use.task.key), defaults.get(use.task.key)
        if winner is None or default is None or structural_equal(winner, default):
            continue
        if time.monotonic() - began >= seconds:
            unchecked.append(use.task.key)
            continue
        problem = _disagreement(winner, default, extraction.target.tvm, drawn)
        if problem:
            wrong[use.task.key] = problem
    return KernelCheck(wrong, tuple(unchecked), time.monotonic() - began)


def _disagreement(winner: Any, default: Any, target: Any, drawn: NDArray[np.float32]) -> str:
    """What is different about two functions' outputs, in words; empty where nothing is."""
    import tvm

    parameters = parameters_of(default)
    if parameters_of(winner) != parameters:
        return "number, shapes or types of its arguments are not the default's"
    kernels = [
        tvm.compile(tvm.ir.IRModule({"main": f.with_attr("global_symbol", "main")}), target=target)["main"]
        for f in (default, winner)
    ]
    arrays = [np.empty(p.shape, dtype=p.dtype) for p in parameters]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    for distribution in DISTRIBUTIONS:
        source = distribution.make(drawn)
        for number, (parameter, array, tensor) in enumerate(zip(parameters, arrays, tensors, strict=True)):
            if not parameter.written:
                _fill(array, source, number)
                tensor.copyfrom(array)
        results = []
        for kernel in kernels:
            for parameter, tensor in _written(parameters, tensors):
                tensor.copyfrom(np.full(parameter.shape, _blank(parameter), dtype=parameter.dtype))
            kernel(*tensors)
            results.append([tensor.numpy() for _, tensor in _written(parameters, tensors)])
        for wanted, found in zip(*results, strict=True):
            problem = _difference(found, wanted, distribution)
            if problem:
                return f"on {distribution.name}: {problem}"
    return ""


def _written(parameters: tuple[Parameter, ...], tensors: list[Any]) -> Iterator[tuple[Parameter, Any]]:
    return ((p, t) for p, t in zip(parameters, tensors, strict=True) if p.written)


def _blank(parameter: Parameter) -> float:
    """What an output holds before: no kernel is excused by what another one left there."""
    return np.nan if np.dtype(parameter.dtype).kind == "f" else 1


def _fill(array: NDArray[Any], source: NDArray[np.float32], number: int) -> None:
    """Fill an argument from ``source``, each from another place on; integers, which may be indices, are 0 and 1."""
    flat = array.reshape(-1)
    values = np.roll(source, -7919 * number)
    if array.dtype.kind != "f":
        values = (values > 0).astype(array.dtype)
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
