"""The network of an executable as a graph for people: a node for each call, and where it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tilewright.executable.plan import ARENA, Plan, Tensor
from tilewright.executable.segment import is_segment
from tilewright.tuning.run_events import TaskFunctions

__all__ = ["Node", "draw_network", "find_task"]

#: Hexadecimal digits at the end of a kernel's name, after its function's name and an underscore.
_DIGITS = 8


@dataclass(frozen=True)
class Node:
    """A call of the plan.

    Attributes:
        number: of the call.
        kernel: its name; empty: a copy.
        task: the key of the task that it computes; empty: of none.
        depth: how many calls, at least, have to come before it: the place from left to right.
        lane: the place from the middle, up or down.
        reads: the numbers of the calls whose results it reads.
        shape: of its first output, for people.
    """

    number: int
    kernel: str
    task: str
    depth: int
    lane: float
    reads: tuple[int, ...]
    shape: str

    @property
    def segment(self) -> bool:
        """Whether ONNX Runtime runs it."""
        return is_segment(self.kernel)


def draw_network(plan: Plan, tasks: Sequence[TaskFunctions]) -> list[Node]:
    """The calls of a plan with their places.

    A call reads what the last calls wrote to the memory of its inputs. Its depth is one more than the largest depth of
    these. Calls of one depth have lanes around the middle.
    """
    functions = {name: task.key for task in tasks for name in task.functions}
    reads = _find_reads(plan)
    depths: list[int] = []
    for found in reads:
        depths.append(1 + max((depths[number] for number in found), default=-1))
    lanes = _find_lanes(depths)
    nodes = []
    for number, call in enumerate(plan.calls):
        outputs = call.outputs or call.tensors[-1:]
        shape = "x".join(map(str, plan.tensors[outputs[0]].shape)) if outputs else ""
        task = find_task(call.kernel, functions)
        nodes.append(Node(number, call.kernel, task, depths[number], lanes[number], reads[number], shape))
    return nodes


def find_task(kernel: str, functions: Mapping[str, str]) -> str:
    """The key of the task that a kernel computes, by the names of functions; empty: of none.

    A library has a kernel's name as its function's name, cut, with a number (``compiling.objects``).
    """
    stem, _, digits = kernel.rpartition("_")
    if len(digits) != _DIGITS:
        stem = kernel
    if stem in functions:
        return functions[stem]
    return next((key for name, key in functions.items() if stem and name.startswith(stem)), "")


def _find_reads(plan: Plan) -> list[tuple[int, ...]]:
    """For each call, the earlier calls whose results it reads."""
    written: list[tuple[Tensor, int]] = []
    found: list[tuple[int, ...]] = []
    for number, call in enumerate(plan.calls):
        outputs = call.outputs or call.tensors[-1:]
        inputs = [tensor for tensor in call.tensors if tensor not in outputs]
        sources: set[int] = set()
        for tensor in (plan.tensors[index] for index in inputs):
            if tensor.region == ARENA:
                sources |= _writers(written, tensor)
        found.append(tuple(sorted(sources)))
        written += [(plan.tensors[index], number) for index in outputs]
    return found


def _writers(written: Sequence[tuple[Tensor, int]], tensor: Tensor) -> set[int]:
    """The calls that wrote the bytes of a tensor, the latest for each byte."""
    open_parts, found = [(tensor.place, tensor.place + tensor.bytes)], set()
    for other, number in reversed(written):
        if other.region != ARENA or not open_parts:
            continue
        begin, end = other.place, other.place + other.bytes
        left = []
        for start, stop in open_parts:
            if end <= start or begin >= stop:
                left.append((start, stop))
                continue
            found.add(number)
            left += [part for part in ((start, begin), (end, stop)) if part[0] < part[1]]
        open_parts = left
    return found


def _find_lanes(depths: Sequence[int]) -> list[float]:
    """The lane of each call: those of one depth lie around 0, one apart."""
    counts = {depth: depths.count(depth) for depth in set(depths)}
    seen: dict[int, int] = {}
    lanes = []
    for depth in depths:
        place = seen.get(depth, 0)
        seen[depth] = place + 1
        lanes.append(place - (counts[depth] - 1) / 2)
    return lanes
