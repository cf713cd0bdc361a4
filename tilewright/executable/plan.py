"""A network as a list of kernel calls on tensors whose places in memory are decided before it runs.

Nothing is allocated while the network runs. Tensors that are not alive at the same time share memory. The result of a
reshape has the same bytes as its operand. The operands of a concatenation are written where their copies would lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from tilewright.executable.segment import is_segment
from tilewright.jsonable import Json
from tilewright.tensor import Array

__all__ = ["ARENA", "GIVEN", "SEGMENT_SYMBOL", "WEIGHTS", "Call", "Plan", "PlanJson", "Tensor", "count_bytes"]

#: The name of the external function in Relax that stands for a segment, without the segment's number.
SEGMENT_SYMBOL = "tilewright_segment"
#: The regions of memory: the arena holds inputs, outputs and intermediate results.
ARENA, WEIGHTS = "arena", "weights"
#: Regions of a plan that computes on its caller's memory: ``given0``, ``given1``, ... for the inputs, then the outputs.
GIVEN = "given"


@dataclass(frozen=True)
class Tensor:
    """A tensor and its place.

    Attributes:
        region: ``ARENA``, ``WEIGHTS``, or ``GIVEN`` with a number.
        place: the offset in the region in bytes; of a weight, its number.
        shape: the tensor's shape.
        dtype: NumPy's name of its dtype.
    """

    region: str
    place: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return count_bytes(self.shape, self.dtype)

    @property
    def given(self) -> int | None:
        """The number of the caller's tensor that it is a part of; None: it is a part of none."""
        number = self.region.removeprefix(GIVEN)
        return int(number) if number != self.region and number.isdecimal() else None


@dataclass(frozen=True)
class Call:
    """A call of a kernel or of a segment, or a copy.

    Attributes:
        kernel: the name of the kernel's function, or of the segment (``segment.segment_name``); empty: a copy.
        tensors: the numbers of a kernel's inputs, then those of its outputs; of a copy: to, from.
        written: how many outputs it has; None: the plan is of an earlier version, which does not say so.
    """

    kernel: str
    tensors: tuple[int, ...]
    written: int | None = None

    @property
    def outputs(self) -> tuple[int, ...] | None:
        """The numbers of the tensors that it writes; None: the plan does not say so."""
        if not self.kernel:
            return self.tensors[:1]
        return None if self.written is None else self.tensors[len(self.tensors) - self.written :]


class _Required(TypedDict):
    arena_bytes: int
    vector: int
    tensors: list[list[Json]]
    calls: list[list[Json]]
    inputs: list[int]
    outputs: list[int]


class PlanJson(_Required, total=False):
    """A plan as JSON-able data.

    ``tensors`` has ``[region, place, shape, dtype]`` for each tensor; ``calls`` has ``[kernel, tensors]`` for each, and
    ``written`` how many of these tensors it writes. Plans of earlier versions have no ``written``.
    """

    written: list[int]


@dataclass(frozen=True)
class Plan:
    """The calls of a network in their order, and the tensors that they are made on.

    Attributes:
        arena_bytes: the size of the arena.
        tensors: every tensor that a call names.
        calls: the calls in the order in which they run.
        inputs: the numbers of the network's inputs among the tensors.
        outputs: the numbers of its outputs.
        constants: the arrays in the network itself. Their tensors are weights that follow the network's weights.
        vector: bytes that a tensor's address is a multiple of: the size of the target's vector register.
    """

    arena_bytes: int
    tensors: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[Array, ...] = ()
    vector: int = 16

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of all kernels, each once. Segments are not among them."""
        names = dict.fromkeys(call.kernel for call in self.calls if call.kernel)
        return tuple(name for name in names if not is_segment(name))

    def rename_kernels(self, names: Mapping[str, str]) -> Plan:
        """The plan with other kernels: ``names`` has the new name by the old one."""
        calls = tuple(replace(call, kernel=names.get(call.kernel, call.kernel)) for call in self.calls)
        return replace(self, calls=calls)

    def to_json(self) -> PlanJson:
        """The plan without its constants, which are kept with the weights."""
        written = [call.written for call in self.calls if call.written is not None]
        made: PlanJson = {
            "arena_bytes": self.arena_bytes,
            "vector": self.vector,
            "tensors": [[t.region, t.place, list(t.shape), t.dtype] for t in self.tensors],
            "calls": [[c.kernel, list(c.tensors)] for c in self.calls],
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
        }
        if len(written) == len(self.calls):
            made["written"] = written
        return made

    @classmethod
    def from_json(cls, data: PlanJson) -> Plan:
        """The plan that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: ``data`` is of another form.
        """
        calls = [(_text(kernel), _numbers(tensors)) for kernel, tensors in data["calls"]]
        written = _numbers(data["written"]) if "written" in data else [None] * len(calls)
        if len(written) != len(calls) or any(
            n is not None and n > len(c[1]) for n, c in zip(written, calls, strict=True)
        ):
            raise ValueError("a plan says of each call how many of its tensors it writes, but this does not")
        return cls(
            _number(data["arena_bytes"]),
            tuple(Tensor(_text(r), _number(p), _numbers(s), _text(d)) for r, p, s, d in data["tensors"]),
            tuple(Call(*call, count) for call, count in zip(calls, written, strict=True)),
            _numbers(data["inputs"]),
            _numbers(data["outputs"]),
            vector=_number(data.get("vector", 16)),  # earlier plans have no entry for it
        )

    @property
    def used_bytes(self) -> int:
        """The bytes of the arena up to the end of its last tensor. A plan that claims a larger arena gets no more."""
        return max((t.place + t.bytes for t in self.tensors if t.region == ARENA), default=0)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"a plan has integers from 0 to 2**63 - 1, but this is {value!r:.80}")
    return value


def _numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise ValueError(f"a plan has a list of integers here, but this is {values!r:.80}")
    return tuple(map(_number, values))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a plan has a text here, but this is {value!r:.80}")
    return str(value)  # TVM's texts are of a class of their own


def count_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """The size of a tensor in bytes."""
    return math.prod(shape) * np.dtype(dtype).itemsize
