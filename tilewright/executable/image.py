"""The image of a network: its plans as constant data for the C runtime, without pointers (``runtime/image.h``)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilewright.executable.buffers import ALIGNMENT
from tilewright.executable.caller_memory import use_caller_memory
from tilewright.executable.plan import ARENA, WEIGHTS, Plan, Tensor
from tilewright.executable.segment import is_segment, segment_number

__all__ = ["DL_CODES", "Image", "make_image"]

#: DLPack's type codes by NumPy's kinds.
DL_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
#: ``IMAGE_MAGIC``, ``IMAGE_VERSION`` and the regions of ``image.h``.
_MAGIC, _VERSION = b"TWIMAGE\0", 1
_IN_ARENA, _IN_WEIGHTS = -1, -2
#: ``COPY`` and ``FIRST_SEGMENT`` of ``image.h``.
_COPY, _FIRST_SEGMENT = -1, -2
#: The structures of ``image.h``, in the machine's byte order.
_HEADER = struct.Struct("=8s16I2Q16s")
_BUCKET, _TENSOR, _END, _CALL = map(struct.Struct, ("=6I", "=iBBHIIQQ", "=IIQ", "=iIII"))


@dataclass(frozen=True)
class Image:
    """An image, and the kernels that its calls name by numbers.

    Attributes:
        content: the bytes, which must begin at a multiple of 8.
        kernels: the names of the kernels in the order of their numbers.
    """

    content: bytes
    kernels: tuple[str, ...]


def make_image(
    plans: Sequence[Plan],
    names: Sequence[str],
    starts: Sequence[int],
    features: Sequence[str] = (),
    identity: bytes = bytes(16),
) -> Image:
    """The image of a network.

    Args:
        plans: the plan of each bucket. All have as many inputs and outputs. Only the runtime of a C library
            runs plans that call segments.
        names: the names of the network's inputs, then of its outputs.
        starts: where each weight begins, and the size of all (:func:`~tilewright.executable.memory.layout_weights`).
        features: extensions of the processor that the kernels need, by LLVM's names.
        identity: the first 16 bytes of the SHA-256 of the weights.
    """
    tables = _Tables(starts)
    for plan in plans:
        tables.add(plan)
    return tables.finish(plans, names, features, identity)


class _Tables:
    """The tables of an image, bucket after bucket."""

    def __init__(self, starts: Sequence[int]) -> None:
        self._starts = starts
        self._kernels: dict[str, int] = {}
        self._buckets, self._tensors, self._ends, self._calls = bytearray(), bytearray(), bytearray(), bytearray()
        self._extents: list[int] = []
        self._operands: list[int] = []
        self._arena = 0

    def add(self, plan: Plan) -> None:
        """Add a bucket."""
        given = use_caller_memory(plan)
        operands = sum(len(call.tensors) for call in given.calls)
        first = [len(t) // s.size for t, s in ((self._tensors, _TENSOR), (self._calls, _CALL), (self._ends, _END))]
        self._buckets += _BUCKET.pack(first[0], len(given.tensors), first[1], len(given.calls), first[2], operands)
        for tensor in given.tensors:
            self._add_tensor(tensor)
        used = -(-plan.used_bytes // ALIGNMENT) * ALIGNMENT
        for number, home in zip((*given.inputs, *given.outputs), (*plan.inputs, *plan.outputs), strict=True):
            place = plan.tensors[home]
            slot = place.place if place.region == ARENA else used  # memory that is not aligned is copied there
            used = max(used, slot + -(-place.bytes // ALIGNMENT) * ALIGNMENT)
            self._ends += _END.pack(number, 0, slot)
        self._arena = max(self._arena, used)
        for call in given.calls:
            self._calls += _CALL.pack(self._number(call.kernel), len(self._operands), len(call.tensors), 0)
            self._operands += call.tensors

    def _number(self, kernel: str) -> int:
        """What stands for a kernel, a segment or a copy in a call."""
        if is_segment(kernel):
            return _FIRST_SEGMENT - segment_number(kernel)
        return self._kernels.setdefault(kernel, len(self._kernels)) if kernel else _COPY

    def _add_tensor(self, tensor: Tensor) -> None:
        dtype = np.dtype(tensor.dtype)
        if tensor.region == WEIGHTS:
            region, place = _IN_WEIGHTS, self._starts[tensor.place]
        else:
            region, place = _IN_ARENA if tensor.given is None else tensor.given, tensor.place
        code, bits, rank = DL_CODES[dtype.kind], 8 * dtype.itemsize, len(tensor.shape)
        self._tensors += _TENSOR.pack(region, code, bits, rank, len(self._extents), 0, place, tensor.bytes)
        strides = [1]
        for extent in reversed(tensor.shape[1:]):
            strides.append(strides[-1] * extent)
        self._extents += [*tensor.shape, *strides[:rank][::-1]]

    def finish(self, plans: Sequence[Plan], names: Sequence[str], features: Sequence[str], identity: bytes) -> Image:
        """The image of all buckets."""
        texts, offsets = bytearray(), []
        for text in (*names, *features):
            offsets.append(len(texts))
            texts += text.encode("utf-8", "replace").replace(b"\0", b"?") + b"\0"
        content, at = bytearray(_HEADER.size), {}
        extents, operands = np.asarray(self._extents, "=i8").tobytes(), np.asarray(self._operands, "=u4").tobytes()
        tables = (bytes(self._buckets), bytes(self._tensors), extents, bytes(self._calls), operands, bytes(self._ends))
        for number, table in enumerate(tables):
            content += bytes(-len(content) % 8)
            at[number] = len(content)
            content += table
        content += bytes(-len(content) % 8)
        names_at, features_at = len(content), len(content) + 4 * len(names)
        first = len(content) + 4 * len(offsets)
        content += np.asarray([first + offset for offset in offsets], "=u4").tobytes() + texts
        count = len(plans[0].inputs), len(plans[0].outputs)
        sizes = (_VERSION, len(content), *count, len(plans), len(self._kernels), len(features))
        vector = max(plan.vector for plan in plans)
        ats = (*at.values(), names_at, features_at)
        _HEADER.pack_into(content, 0, _MAGIC, *sizes, vector, *ats, self._arena, self._starts[-1], identity)
        return Image(bytes(content), tuple(self._kernels))
