"""A kernel's arguments: read off its function, filled with reproducible data, and its outputs compared."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.task import WEIGHTS
from tilewright.tensor import fill_uniform

__all__ = ["TOLERANCE", "Arguments", "Parameter", "Reference", "parameters_of"]

#: Largest error that passes, as a fraction of the reference's largest magnitude: reordered float32 sums stay
#: two orders below it, wrong indexing of random data lies three above.
TOLERANCE = 1e-3
#: Error that always passes, for outputs that are all zero in the reference (a clipped activation).
_ABSOLUTE = 1e-6
#: The alignment in bytes that TVM's code assumes of every tensor.
_ALIGNMENT = 64
#: Weights of fewer bytes are not streamed: reading them takes a microsecond. And at most so many sets of them are.
_LEAST_STREAMED, _MOST_STREAMS = 1 << 15, 256
#: Outputs are compared in pieces of so many elements, which stay in the second-level cache.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Parameter:
    """One tensor argument.

    Attributes:
        shape, dtype: of the tensor.
        written: whether the kernel stores to it, so that it is an output.
        weight: whether the network has it as a weight.
    """

    shape: tuple[int, ...]
    dtype: str
    written: bool
    weight: bool = False

    @property
    def bytes(self) -> int:
        """Of the tensor."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def parameters_of(function: Any) -> tuple[Parameter, ...]:
    """The tensor arguments of a ``tvm.tirx.PrimFunc`` of static shapes, in order.

    What the function stores to is an output; where no store to an argument is found (only extern calls), the last is.
    """
    import tvm_ffi
    from tvm.tirx import BufferStore

    stored: list[Any] = []
    tvm_ffi.structural_walk(function.body, [(BufferStore, lambda store: stored.append(store.buffer))])
    written = [any(parameter.same_as(buffer) for buffer in stored) for parameter in function.params]
    if not any(written):
        written[-1] = True
    marked = str(function.attrs[WEIGHTS]) if function.attrs is not None and WEIGHTS in function.attrs else ""
    weights = {int(place) for place in marked.split(",") if place.isdecimal()}
    return tuple(
        Parameter(tuple(int(e) for e in parameter.shape), str(parameter.dtype), is_written, place in weights)
        for place, (parameter, is_written) in enumerate(zip(function.params, written, strict=True))
    )


class Arguments:
    """The data that a kernel is run on; the same for the same parameters and ``seed`` in every process.

    Attributes:
        parameters: what the data is for.
        tensors: the arguments as TVM tensors, which share their memory with the arrays here.

    Args:
        parameters: what the data is for.
        seed: of the data.
        streamed: bytes of weights that calls go through before they meet the same ones again (:meth:`called`); 0: all
            calls have the same.
    """

    def __init__(self, parameters: tuple[Parameter, ...], seed: str, streamed: int = 0) -> None:
        from tvm.runtime import from_dlpack

        digest = hashlib.sha256(seed.encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        self.parameters = parameters
        self._arrays = [_aligned(parameter) for parameter in parameters]
        for parameter, array in zip(parameters, self._arrays, strict=True):
            if not parameter.written:
                fill_uniform(array, generator)
        self.tensors: tuple[Any, ...] = tuple(from_dlpack(array) for array in self._arrays)
        self._turns = itertools.cycle(self._streams(streamed)) if streamed else None

    def called(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What to time instead of ``function``: where weights are streamed, each call has others than the one before.

        In a network whose weights do not fit the last cache a kernel finds them in memory, but its data in the caches.
        """
        turns = self._turns
        if turns is None:
            return function
        return lambda *_: function(*next(turns))

    def _streams(self, streamed: int) -> list[tuple[Any, ...]]:
        """The arguments with weights from different places of one large array."""
        from tvm.runtime import from_dlpack

        places = [i for i, p in enumerate(self.parameters) if p.weight and not p.written and _can_be_streamed(p)]
        sizes = [_round_up(self.parameters[i].bytes) for i in places]
        count = min(_MOST_STREAMS, streamed // sum(sizes)) if sizes else 1
        if count < 2:  # there are none, or those of one call alone are more than the caches hold
            return [self.tensors]
        slab = _slab(streamed)
        found = []
        for begin in np.linspace(0, streamed - sum(sizes), count):
            tensors, start = list(self.tensors), int(begin) // _ALIGNMENT * _ALIGNMENT
            for i, size in zip(places, sizes, strict=True):
                part = slab[start // 4 : (start + self.parameters[i].bytes) // 4]
                tensors[i] = from_dlpack(part.reshape(self.parameters[i].shape))
                start += size
            found.append(tuple(tensors))
        return found

    @property
    def outputs(self) -> list[NDArray[Any]]:
        """The written arguments, as they are now."""
        return [a for p, a in zip(self.parameters, self._arrays, strict=True) if p.written]

    def blank(self) -> None:
        """Overwrite the outputs, so that a kernel that leaves elements out is not excused by an earlier one's."""
        for array in self.outputs:
            array.fill(np.nan if array.dtype.kind == "f" else 85)


class Reference:
    """Outputs that count as right.

    Attributes:
        bytes: what it holds in memory.
    """

    def __init__(self, outputs: list[NDArray[Any]]) -> None:
        self._outputs = [output.copy() for output in outputs]
        self.bytes = sum(output.nbytes for output in outputs)

    def mismatch(self, outputs: list[NDArray[Any]]) -> str:
        """What is wrong with ``outputs``, in words; empty when nothing is."""
        for index, (output, right) in enumerate(zip(outputs, self._outputs, strict=True)):
            message = _mismatch(output.reshape(-1), right.reshape(-1))
            if message:
                return message if len(outputs) == 1 else f"output {index}: {message}"
        return ""


def _mismatch(output: NDArray[Any], right: NDArray[Any]) -> str:
    error = scale = 0.0
    for begin in range(0, output.size, _PIECE):
        found, wanted = _numbers(output[begin : begin + _PIECE]), _numbers(right[begin : begin + _PIECE])
        finite = np.isfinite(wanted)
        if not finite.all():
            odd = ~finite
            if not np.array_equal(found[odd], wanted[odd], equal_nan=True):
                return "infinities or NaN differ from the reference's"
            found, wanted = found[finite], wanted[finite]
        if found.size:
            piece = float(np.abs(found - wanted).max())
            if not np.isfinite(piece):
                return "NaN or infinity where the reference has none"
            error = max(error, piece)
            scale = max(scale, float(np.abs(wanted).max()))
    if error <= TOLERANCE * scale + _ABSOLUTE:
        return ""
    return f"largest error {error:.3g} where the reference's largest magnitude is {scale:.3g}"


def _can_be_streamed(parameter: Parameter) -> bool:
    return parameter.dtype == "float32" and parameter.bytes >= _LEAST_STREAMED


@lru_cache(maxsize=1)
def _slab(size: int) -> NDArray[np.float32]:
    """Numbers in ``size`` bytes, in which weights lie."""
    slab = _aligned(Parameter((size // 4,), "float32", False))
    fill_uniform(slab, np.random.default_rng(0))
    return slab


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _numbers(array: NDArray[Any]) -> NDArray[Any]:
    """As floating-point numbers in which a difference neither wraps round nor overflows."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _aligned(parameter: Parameter) -> NDArray[Any]:
    dtype = np.dtype(parameter.dtype)
    size = int(np.prod(parameter.shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(parameter.shape)
