"""A plan's calls as the C runtime takes them, on memory that is allocated once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from tilewright.executable.memory import Memory, allocate_aligned
from tilewright.executable.plan import ARENA, Plan, Tensor
from tilewright.executable.segment import LoadedSegment, is_segment, segment_number
from tilewright.tensor import Array

__all__ = ["PreparedCalls"]

#: What TVM's compiler puts before the name of a function that a library exports.
_PREFIX = "__tvm_ffi_"
#: The type code of tensors in tvm-ffi.
_DLTENSOR = 7
#: The device type of DLPack for the processor's memory, and DLPack's type codes by NumPy's kinds.
_DL_CPU = 1
_DL_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


class _DLTensor(ctypes.Structure):
    """A tensor as DLPack defines it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Argument(ctypes.Structure):
    """``Argument`` of ``runtime.c``."""

    _fields_ = (("type_index", ctypes.c_int32), ("padding", ctypes.c_uint32), ("value", ctypes.c_void_p))


class _Call(ctypes.Structure):
    """``Call`` of ``runtime.c``."""

    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p), ("count", ctypes.c_int32))


class PreparedCalls:
    """The calls of a plan with the addresses of their kernels and tensors.

    Args:
        library: the kernels, with the runtime linked in.
        plan: the calls.
        memory: holds the weights and the arena of the plan.
        segments: what the plan's calls of segments call. They are bound to the tensors of their calls.

    Attributes:
        count: the number of calls.
        begin: the address of the first call.
        hollow: the address of the first of as many calls that run no kernel.

    Raises:
        AttributeError: the library lacks a kernel.
        KeyError: an input or an output is not in the arena.
    """

    def __init__(
        self, library: ctypes.CDLL, plan: Plan, memory: Memory, segments: Sequence[LoadedSegment] = ()
    ) -> None:
        self._library, self._plan, self._segments = library, plan, segments
        self._memory, self._arena = memory, memory.arena.address
        self._addresses = [self._find_address(tensor, self._arena) for tensor in plan.tensors]
        self._keep: list[object] = []  # what the calls point at must live as long as this object
        self._tensors = tensors = self._make_tensors()
        #: What holds the address of a caller's tensor: the number of that tensor, an offset, and how to set it.
        self._given = [(t.given, t.place, tensors[i]) for i, t in enumerate(plan.tensors) if t.given is not None]
        self._given_copies: list[tuple[int, int, _Argument]] = []
        #: What holds an address in the arena: an offset, and how to set it.
        self._placed = [(t.place, tensors[i]) for i, t in enumerate(plan.tensors) if t.region == ARENA]
        self._placed_copies: list[tuple[int, _Argument]] = []
        self._calls = (_Call * len(plan.calls))()
        hollow = (_Call * len(plan.calls))()
        nothing = ctypes.cast(library.tilewright_nothing, ctypes.c_void_p).value
        for call, empty, planned in zip(self._calls, hollow, plan.calls, strict=True):
            if is_segment(planned.kernel):
                segment = segments[segment_number(planned.kernel)]
                segment.bind([self._view(i) for i in planned.tensors])
                call.kernel, values = segment.address, []
            elif planned.kernel:
                call.kernel = self.find_kernel(planned.kernel)
                values = [(_DLTENSOR, ctypes.addressof(tensors[i])) for i in planned.tensors]
            else:
                to, source = planned.tensors
                values = [(0, self._addresses[to]), (0, self._addresses[source]), (0, plan.tensors[source].bytes)]
            arguments = (_Argument * len(values))(*(_Argument(t, 0, v) for t, v in values))
            if not planned.kernel:
                named = [plan.tensors[number] for number in planned.tensors]
                self._given_copies += [
                    (t.given, t.place, a) for t, a in zip(named, arguments, strict=False) if t.given is not None
                ]
                self._placed_copies += [
                    (t.place, a) for t, a in zip(named, arguments, strict=False) if t.region == ARENA
                ]
            call.arguments, call.count = ctypes.addressof(arguments), len(values)
            empty.kernel, empty.arguments, empty.count = nothing, call.arguments, call.count
            self._keep.append(arguments)
        self._keep.append(hollow)
        self.count = len(plan.calls)
        self.begin, self.hollow = ctypes.addressof(self._calls), ctypes.addressof(hollow)
        self._own: list[Array] = []

    @property
    def inputs(self) -> list[Array]:
        """For each input of the network an array that shares memory with it.

        If the plan computes on its caller's memory, the arrays are allocated when they are first asked for.
        """
        return self._share_ends()[: len(self._plan.inputs)]

    @property
    def outputs(self) -> list[Array]:
        """The same for each output."""
        return self._share_ends()[len(self._plan.inputs) :]

    def give(self, addresses: Sequence[int]) -> None:
        """Let the next runs compute on the caller's memory.

        Args:
            addresses: of the inputs, then of the outputs. Each is a multiple of the plan's ``vector``.
        """
        self._follow_arena()
        for number, place, tensor in self._given:
            tensor.data = addresses[number] + place
        for number, place, argument in self._given_copies:
            argument.value = addresses[number] + place

    def take_back(self) -> None:
        """Let the next runs compute on :attr:`inputs` and :attr:`outputs` again."""
        self._follow_arena()
        if self._given:
            self.give([array.ctypes.data for array in self._share_ends()])

    def _follow_arena(self) -> None:
        """Compute where the arena is now. It moved if it has grown for another executable."""
        arena = self._memory.arena.address
        if arena == self._arena:
            return
        self._arena, self._own = arena, []
        for place, tensor in self._placed:
            tensor.data = arena + place
        for place, argument in self._placed_copies:
            argument.value = arena + place
        for planned in self._plan.calls:
            if is_segment(planned.kernel):
                segment = self._segments[segment_number(planned.kernel)]
                segment.bind([self._view(i) for i in planned.tensors])

    def address(self, number: int) -> int:
        """The address of the call ``number``."""
        return self.begin + number * ctypes.sizeof(_Call)

    def find_kernel(self, kernel: str) -> int:
        """The address of a function of the library. Raises ``AttributeError`` if there is none of this name."""
        address = ctypes.cast(getattr(self._library, _PREFIX + kernel), ctypes.c_void_p).value
        assert address is not None
        return address

    def exchange_kernel(self, numbers: Sequence[int], address: int) -> None:
        """Let the calls ``numbers`` call the function at ``address``."""
        for number in numbers:
            self._calls[number].kernel = address

    def copy_tensor(self, number: int) -> Array:
        """A copy of a tensor of the plan as it is now."""
        return self._view(number).copy()

    def _find_address(self, tensor: Tensor, arena: int) -> int:
        """The address of a tensor; 0 if it is the caller's."""
        if tensor.given is not None:
            return 0
        return arena + tensor.place if tensor.region == ARENA else self._memory.weight_address(tensor.place)

    def _share_ends(self) -> list[Array]:
        """Arrays on the memory of the inputs, then of the outputs."""
        if not self._own:
            self._own = [self._share(number) for number in (*self._plan.inputs, *self._plan.outputs)]
            if self._given:
                self.give([array.ctypes.data for array in self._own])
        return self._own

    def _view(self, number: int) -> Array:
        """An array on the memory of a tensor of the plan, which must live as long as the array."""
        tensor = self._plan.tensors[number]
        memory = (ctypes.c_uint8 * tensor.bytes).from_address(int(self._tensors[number].data))
        return np.asarray(memory).view(np.dtype(tensor.dtype)).reshape(tensor.shape)

    def _make_tensors(self) -> ctypes.Array[_DLTensor]:
        """The plan's tensors as DLPack has them."""
        plan = self._plan
        tensors = (_DLTensor * len(plan.tensors))()
        for slot, tensor, address in zip(tensors, plan.tensors, self._addresses, strict=True):
            dtype = np.dtype(tensor.dtype)
            shape = (ctypes.c_int64 * max(1, len(tensor.shape)))(*tensor.shape)
            slot.data, slot.device_type, slot.ndim = address, _DL_CPU, len(tensor.shape)
            slot.code, slot.bits, slot.lanes = _DL_CODES[dtype.kind], 8 * dtype.itemsize, 1
            slot.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
            # tvm-ffi needs strides even for tensors that lie in order.
            strides = (ctypes.c_int64 * max(1, len(tensor.shape)))(*_strides(tensor.shape))
            slot.strides = ctypes.cast(strides, ctypes.POINTER(ctypes.c_int64))
            self._keep += [shape, strides]
        self._keep.append(tensors)
        return tensors

    def _share(self, number: int) -> Array:
        """An array that shares memory with a tensor in the arena, or that stands for a tensor of the caller."""
        tensor = self._plan.tensors[number]
        if tensor.given is not None:
            return allocate_aligned(tensor.bytes).view(np.dtype(tensor.dtype)).reshape(tensor.shape)
        if tensor.region != ARENA:
            raise KeyError("inputs and outputs are in the arena")
        memory = self._memory.arena.memory[tensor.place : tensor.place + tensor.bytes]
        return memory.view(np.dtype(tensor.dtype)).reshape(tensor.shape)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """The steps, in elements, between neighbours along each axis of a tensor that lies in order."""
    steps = [1]
    for extent in reversed(shape[1:]):
        steps.append(steps[-1] * extent)
    return steps[::-1]
