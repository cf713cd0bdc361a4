"""Instances of a plan in the C runtime. Each computes in an arena of its own, so that calls can run side by side."""

from __future__ import annotations

import ctypes
import re
import weakref
from collections.abc import Sequence

import numpy as np

from tilewright.errors import MeasureError
from tilewright.executable.image import make_image
from tilewright.executable.memory import Arena, Memory
from tilewright.executable.plan import ARENA, Plan, Tensor
from tilewright.executable.runtime.loaded import LoadedLibrary
from tilewright.executable.segment import is_segment
from tilewright.tensor import Array

__all__ = ["Instances", "can_open"]

#: What TVM's compiler puts before the name of a function that a library exports.
_PREFIX = "__tvm_ffi_"


class _Error(ctypes.Structure):
    """``Error`` of ``instance.h``."""

    _fields_ = (("status", ctypes.c_int32), ("message", ctypes.c_char * 508))


class _Instance:
    """An instance in an arena. It is closed when it is deleted.

    Attributes:
        arena: the address of the arena.
        inputs, outputs: for each input and output an array that shares memory with it.
        error: what the last call said.
        arguments: of each call.
    """

    def __init__(self, library: LoadedLibrary, pointer: ctypes.c_void_p, arena: Arena, plan: Plan) -> None:
        self.arena, self.error = arena.address, _Error()
        self.inputs, self.outputs = (
            [_share(arena, plan.tensors[number]) for number in numbers] for numbers in (plan.inputs, plan.outputs)
        )
        lists = [
            (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)) for arrays in (self.inputs, self.outputs)
        ]
        self.arguments = (
            *(pointer, 0, lists[0], len(self.inputs), lists[1], len(self.outputs)),
            ctypes.byref(self.error),
        )
        weakref.finalize(self, _close, library, pointer).atexit = False  # holds the library until then


class Instances:
    """The instances of a plan, one in each arena. An instance is made when a call first computes in its arena.

    Args:
        library: the kernels, with a runtime that has instances (:func:`can_open`).
        plan: what to run. It calls no segments, and has places in the arena for inputs and outputs.
        memory: holds the weights.

    Raises:
        AttributeError: the library lacks a kernel.
    """

    def __init__(self, library: LoadedLibrary, plan: Plan, memory: Memory) -> None:
        self._loaded, self._library = library, library.functions
        self._plan, self._memory = plan, memory
        names = [""] * (len(plan.inputs) + len(plan.outputs))
        self._image = make_image([plan], names, memory.starts)
        self._content = ctypes.create_string_buffer(self._image.content, len(self._image.content))
        kernels = [getattr(self._library, _PREFIX + kernel) for kernel in self._image.kernels]
        self._kernels = (ctypes.c_void_p * len(kernels))(*(ctypes.cast(k, ctypes.c_void_p) for k in kernels))
        self._made: dict[Arena, _Instance] = {}

    def run(self, arrays: Sequence[Array], arena: Arena) -> list[Array]:
        """The outputs for ``arrays``.

        Args:
            arrays: the inputs.
            arena: in which the plan computes. The caller holds its lock.

        Raises:
            MeasureError: a kernel failed.
        """
        instance = self._made.get(arena)
        if instance is None or instance.arena != arena.address:
            instance = self._made[arena] = self._open(arena)
        # NumPy seldom aligns an array to a vector register, so that kernels could not read it where it is.
        for slot, array in zip(instance.inputs, arrays, strict=True):
            np.copyto(slot, array)
        if self._library.tilewright_call(*instance.arguments):
            raise self._explain(instance.error)
        return [output.copy() for output in instance.outputs]

    def _open(self, arena: Arena) -> _Instance:
        pointer, error = ctypes.c_void_p(), _Error()
        status = self._library.tilewright_open(
            *(self._content, self._kernels, self._memory.address, arena.address),
            *(ctypes.byref(pointer), ctypes.byref(error)),
        )
        if status:
            raise MemoryError(error.message.decode(errors="replace"))
        return _Instance(self._loaded, pointer, arena, self._plan)

    def _explain(self, error: _Error) -> MeasureError:
        said = error.message.decode(errors="replace")
        found = re.match(r"call (\d+) failed: ", said)
        if found is None:
            return MeasureError(f"the network cannot be run: {said}")
        return MeasureError(f"kernel {self._plan.calls[int(found[1])].kernel!r} failed: {said[found.end() :]}")


def _close(library: LoadedLibrary, pointer: ctypes.c_void_p) -> None:
    library.functions.tilewright_close(pointer)


def _share(arena: Arena, tensor: Tensor) -> Array:
    """An array that shares memory with a tensor in an arena."""
    memory = arena.memory[tensor.place : tensor.place + tensor.bytes]
    return memory.view(np.dtype(tensor.dtype)).reshape(tensor.shape)


def can_open(library: ctypes.CDLL, plan: Plan) -> bool:
    """Whether a library's runtime has instances of a plan. Runtimes of earlier versions have none."""
    given = any(plan.tensors[number].region != ARENA for number in (*plan.inputs, *plan.outputs))
    segments = any(is_segment(call.kernel) for call in plan.calls)
    return hasattr(library, "tilewright_open") and not given and not segments
