"""Checks a plan that was read from a file: no call may reach beyond the memory that it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilewright.executable.plan import ARENA, WEIGHTS, Call, Plan, Tensor
from tilewright.executable.segment import PREFIX, SegmentJson, count_tensors, is_segment
from tilewright.tensor import Array

__all__ = ["check_plan"]

#: The largest number of axes that NumPy's arrays have.
_MOST_DIMENSIONS = 64


def check_plan(plan: Plan, weights: Sequence[Array], memory: int, segments: Sequence[SegmentJson] = ()) -> None:
    """Raise ``ValueError`` if a call would read or write outside of the arena and the weights.

    Args:
        plan: the plan to check.
        weights: its weights.
        memory: the largest number of bytes that the arena may have.
        segments: the segments that it may call.
    """
    if plan.arena_bytes > memory:
        raise ValueError(f"its tensors need {plan.arena_bytes:,} bytes of memory, but {memory:,} are available here")
    if plan.vector not in (16, 32, 64):
        raise ValueError(f"a vector register has 16, 32 or 64 bytes, but this has {plan.vector}")
    _check_tensors(plan, weights)
    for call in plan.calls:
        if any(number >= len(plan.tensors) for number in call.tensors):
            raise ValueError(f"a call of {call.kernel or 'copy'!r} names a tensor that does not exist")
        if is_segment(call.kernel):
            _check_segment(plan, call, segments)
        elif call.kernel and not (call.kernel.isidentifier() and call.kernel.isascii()):
            raise ValueError(f"{call.kernel!r} is not the name of a kernel")
        if not call.kernel:
            to, source = call.tensors
            if plan.tensors[to].bytes < plan.tensors[source].bytes:
                raise ValueError("a copy is longer than the place that it goes to")
    for number in (*plan.inputs, *plan.outputs):
        if number >= len(plan.tensors) or plan.tensors[number].region == WEIGHTS:
            raise ValueError("an input or output lies outside of the arena")


def _check_segment(plan: Plan, call: Call, segments: Sequence[SegmentJson]) -> None:
    text = call.kernel.removeprefix(PREFIX)
    if not text.isdecimal() or int(text) >= len(segments):
        raise ValueError(f"a call names the segment {text!r:.40}, which does not exist")
    entry = segments[int(text)]
    if len(call.tensors) != count_tensors(entry):
        raise ValueError(f"the segment {text} is called with {len(call.tensors)} tensors")
    if any(plan.tensors[number].region != ARENA for number in call.tensors[len(entry["inputs"]) :]):
        raise ValueError(f"the segment {text} would write outside of the arena")


def _check_tensors(plan: Plan, weights: Sequence[Array]) -> None:
    # A kernel loads whole vectors from where its tensors begin. A copy may begin at any element.
    whole = {*plan.inputs, *plan.outputs, *(number for call in plan.calls if call.kernel for number in call.tensors)}
    given = [plan.tensors[number].bytes for number in (*plan.inputs, *plan.outputs)]
    for number, tensor in enumerate(plan.tensors):
        _check_kind(tensor)
        if tensor.region == WEIGHTS:
            fits = tensor.place < len(weights) and tensor.bytes <= weights[tensor.place].nbytes
        else:
            step = plan.vector if number in whole else np.dtype(tensor.dtype).itemsize
            size = _size_of(tensor, plan.arena_bytes, given)
            fits = tensor.place % step == 0 and tensor.place + tensor.bytes <= size
        if not fits:
            raise ValueError(f"{tensor} lies outside of the memory of its region")


def _size_of(tensor: Tensor, arena: int, given: Sequence[int]) -> int:
    """The bytes of the region that a tensor is in; -1 if there is no such region."""
    if tensor.region == ARENA:
        return arena
    return given[tensor.given] if tensor.given is not None and tensor.given < len(given) else -1


def _check_kind(tensor: Tensor) -> None:
    if len(tensor.shape) > _MOST_DIMENSIONS or np.dtype(tensor.dtype).kind not in "iufb":
        raise ValueError(f"{tensor} is not a tensor of numbers")
    # Strides are products of extents, even if another extent is 0 and the tensor has no elements.
    if math.prod(extent for extent in tensor.shape if extent) >= 2**63:
        raise ValueError(f"{tensor} has more elements than can be counted")
