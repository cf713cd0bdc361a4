"""A kernel's arguments: which ones its function has, reproducible data for them, and the check of its outputs."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from tilewright.task import WEIGHTS
from tilewright.tensor import Array, fill_uniform

if TYPE_CHECKING:
    from tvm.runtime import Tensor
    from tvm.tirx import Buffer, PrimFunc

__all__ = ["TOLERANCE", "Arguments", "Parameter", "Reference", "parameters_of"]

#: The largest error that passes, as a fraction of the reference's largest magnitude. Reordered float32 sums stay two
#: orders of magnitude below it; wrong indexing of random data lies three orders above it.
TOLERANCE = 1e-3
#: The error that always passes, in the unit of the output: an output may be all zero in the reference, as a clipped
#: activation is (a choice).
_ABSOLUTE = 1e-6
#: The alignment that TVM's code assumes of every tensor, in bytes.
_ALIGNMENT = 64
#: The types of weights that are streamed. What has another type, such as bfloat16, may be slow with arbitrary bits.
_STREAMED_TYPES = ("float32", "int8", "uint8")
#: The largest magnitude of floating-point weights: sums of hundreds of products stay as small as in a network. With
#: weights of 1, GELU would give denormal numbers, and what multiplies these would take many times as long.
_LARGEST_WEIGHT = 2.0**-4
#: Weights of fewer bytes are not streamed, because reading them takes only a microsecond.
_LEAST_STREAMED = 1 << 15
#: The largest number of sets of weights that are streamed. It bounds the number of tensors; 256 sets of the smallest
#: weights fill 8 MiB.
_MOST_STREAMS = 256
#: The number of elements that are compared at once. Their float64 values, 512 KiB, stay in the second cache.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Parameter:
    """One tensor argument.

    Attributes:
        shape: of the tensor.
        dtype: of the tensor.
        written: whether the kernel stores to the tensor, so that it is an output.
        weight: whether the tensor is a weight of the network.
    """

    shape: tuple[int, ...]
    dtype: str
    written: bool
    weight: bool = False

    @property
    def bytes(self) -> int:
        """The size of the tensor."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def parameters_of(function: PrimFunc) -> tuple[Parameter, ...]:
    """The tensor arguments of a function of static shapes, in order.

    What the function stores to is an output. If it stores to no argument (it has only extern calls), the last one is.
    """
    import tvm_ffi
    from tvm.tirx import BufferStore

    stored: list[Buffer] = []
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
    """The data that a kernel is run on. The same parameters and ``seed`` give the same data in every process.

    Attributes:
        parameters: what the data is for.
        tensors: the arguments as TVM tensors, which share their memory with the arrays here.

    Args:
        parameters: what the data is for.
        seed: of the data.
        streamed: bytes of weights that calls go through before they meet the same weights again (:meth:`called`). 0:
            all calls have the same weights.
    """

    def __init__(self, parameters: tuple[Parameter, ...], seed: str, streamed: int = 0) -> None:
        from tvm.runtime import from_dlpack

        digest = hashlib.sha256(seed.encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        self.parameters = parameters
        self._arrays = [_allocate(parameter) for parameter in parameters]
        for parameter, array in zip(parameters, self._arrays, strict=True):
            if not parameter.written:
                fill_uniform(array, generator, _LARGEST_WEIGHT if parameter.weight else 1.0)
        self.tensors: tuple[Tensor, ...] = tuple(from_dlpack(array) for array in self._arrays)
        self._turns = itertools.cycle(self._streams(streamed)) if streamed else None

    def called(self, function: Callable[..., object]) -> Callable[..., object]:
        """What to time instead of ``function``. If weights are streamed, each call has others than the one before.

        In a network whose weights do not fit a cache, a kernel finds them behind it, but its data in the caches.
        """
        turns = self._turns
        if turns is None:
            return function
        return lambda *_: function(*next(turns))

    @property
    def outputs(self) -> list[Array]:
        """The written arguments, as they are now."""
        return [a for p, a in zip(self.parameters, self._arrays, strict=True) if p.written]

    def blank(self) -> None:
        """Overwrite the outputs, so that a kernel which leaves elements out does not pass by an earlier kernel's."""
        for array in self.outputs:
            array.fill(np.nan if array.dtype.kind == "f" else 85)

    def _streams(self, streamed: int) -> list[tuple[Tensor, ...]]:
        """Sets of arguments whose weights come from different places of one array of ``streamed`` bytes."""
        from tvm.runtime import from_dlpack

        places = [i for i, p in enumerate(self.parameters) if p.weight and not p.written and _can_be_streamed(p)]
        sizes = [_round_up(self.parameters[i].bytes) for i in places]
        count = min(_MOST_STREAMS, streamed // sum(sizes)) if sizes else 1
        if count < 2:  # there are no weights, or those of one call alone are more than the caches hold
            return [self.tensors]
        slab = _slab(streamed)
        found = []
        for begin in np.linspace(0, streamed - sum(sizes), count):
            tensors, start = list(self.tensors), int(begin) // _ALIGNMENT * _ALIGNMENT
            for i, size in zip(places, sizes, strict=True):
                parameter = self.parameters[i]
                part = slab[start : start + parameter.bytes].view(np.dtype(parameter.dtype))
                tensors[i] = from_dlpack(part.reshape(parameter.shape))
                start += size
            found.append(tuple(tensors))
        return found


class Reference:
    """Outputs that count as right.

    Attributes:
        bytes: the size of the outputs.
    """

    def __init__(self, outputs: Sequence[Array]) -> None:
        self._outputs = [output.copy() for output in outputs]
        self.bytes = sum(output.nbytes for output in outputs)

    def mismatch(self, outputs: Sequence[Array]) -> str:
        """What is wrong with ``outputs``, in words; empty if nothing is wrong."""
        for index, (output, right) in enumerate(zip(outputs, self._outputs, strict=True)):
            message = _mismatch(output.reshape(-1), right.reshape(-1))
            if message:
                return message if len(outputs) == 1 else f"output {index}: {message}"
        return ""


def _mismatch(output: Array, right: Array) -> str:
    error = scale = 0.0
    for begin in range(0, output.size, _PIECE):
        found, wanted = _as_floats(output[begin : begin + _PIECE]), _as_floats(right[begin : begin + _PIECE])
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
    return parameter.dtype in _STREAMED_TYPES and parameter.bytes >= _LEAST_STREAMED


@lru_cache(maxsize=1)
def _slab(size: int) -> NDArray[np.uint8]:
    """An array of ``size`` bytes, from which weights are taken: float32 numbers of the size of weights."""
    slab = cast("NDArray[np.float32]", _allocate(Parameter((size // 4,), "float32", False)))
    fill_uniform(slab, np.random.default_rng(0), _LARGEST_WEIGHT)
    return slab.view(np.uint8)


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _as_floats(array: Array) -> NDArray[np.floating]:
    """The numbers of ``array`` in a dtype in which a difference neither wraps round nor overflows."""
    if array.dtype in (np.float32, np.float64):
        return cast("NDArray[np.floating]", array)
    return array.astype(np.float64)


def _allocate(parameter: Parameter) -> Array:
    """An aligned array for ``parameter``."""
    dtype = np.dtype(parameter.dtype)
    size = int(np.prod(parameter.shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, dtype=np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(parameter.shape)
