"""A plan on its caller's memory computes what it computes in its arena, and copies only what it must."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tilewright.executable.buffers import Buffer, place_buffers
from tilewright.executable.caller_memory import use_caller_memory
from tilewright.executable.plan import ARENA, Call, Plan, Tensor

Bytes = NDArray[np.uint8]


def tensor(place: int, size: int = 64) -> Tensor:
    return Tensor(ARENA, place, (size,), "uint8")


def plan_of(tensors: Sequence[Tensor], calls: Sequence[Call], inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
    size = max(t.place + t.bytes for t in tensors)
    return Plan(size, tuple(tensors), tuple(calls), tuple(inputs), tuple(outputs))


def run(plan: Plan, inputs: Sequence[Bytes]) -> list[Bytes]:
    """The outputs. A kernel fills its outputs with numbers that depend on all bytes of its inputs."""
    arena = np.zeros(plan.arena_bytes, np.uint8)
    ends = [plan.tensors[number] for number in (*plan.inputs, *plan.outputs)]
    given = [x.copy() for x in inputs] + [np.zeros(plan.tensors[n].bytes, np.uint8) for n in plan.outputs]

    def view(number: int) -> Bytes:
        found = plan.tensors[number]
        memory = arena if found.given is None else given[found.given]
        return memory[found.place : found.place + found.bytes]

    for end, x in zip(plan.inputs, inputs, strict=True):
        view(end)[:] = x
    for call in plan.calls:
        if not call.kernel:
            view(call.tensors[0])[:] = view(call.tensors[1])
            continue
        assert call.written is not None
        count = len(call.tensors) - call.written
        seed = zlib.crc32(b"".join(view(number).tobytes() for number in call.tensors[:count]))
        for number in call.tensors[count:]:
            view(number)[:] = np.random.default_rng(seed + number % 7).integers(0, 256, plan.tensors[number].bytes)
    assert all(end.bytes for end in ends)
    return [view(number).copy() for number in plan.outputs]


def draw_plan(rng: np.random.Generator) -> Plan:
    """A plan of random kernels with views, and outputs of any kind, whose buffers share memory as planned ones do."""
    sizes, buffers, calls = [], [], []

    def allocate(now: int) -> int:
        sizes.append(64 * int(rng.integers(1, 4)))
        buffers.append(Buffer(sizes[-1], now, now))
        return len(buffers) - 1

    inputs = [allocate(0) for _ in range(int(rng.integers(1, 3)))]
    for now in range(int(rng.integers(1, 9))):
        read = [int(n) for n in rng.choice(len(buffers), min(len(buffers), 2), replace=False)]
        written = [allocate(now) for _ in range(int(rng.integers(1, 3)))]
        calls.append((f"k{now}", [*read, *written], len(written)))
        for number in (*read, *written):
            buffers[number].last = now
    outputs = [int(n) for n in rng.choice(len(buffers), int(rng.integers(1, 4)))]
    for number in (*inputs, *outputs):
        buffers[number].last = len(calls)
    offsets = place_buffers(buffers)
    # The tensors of a plan have one number for each place and shape, so two buffers may share one.
    numbers: dict[Tensor, int] = {}

    def find(buffer: int, part: bool = False) -> int:
        size = 64 if part else sizes[buffer]
        return numbers.setdefault(tensor(offsets[id(buffers[buffer])], size), len(numbers))

    made = [
        Call(kernel, tuple(find(n, part=i == 0 and bool(rng.integers(2))) for i, n in enumerate(operands)), written)
        for kernel, operands, written in calls
    ]
    ends = [find(n) for n in inputs], [find(n, part=bool(rng.integers(3) == 0)) for n in outputs]
    return plan_of(list(numbers), made, *ends)


def test_outputs_stay_the_same() -> None:
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(300):
        plan = draw_plan(rng)
        inputs = [rng.integers(0, 256, plan.tensors[n].bytes).astype(np.uint8) for n in plan.inputs]
        given = use_caller_memory(plan)
        # The number of a tensor is part of what a test's kernel writes, so both plans need equal ones.
        for expected, found in zip(run(renumber(plan), inputs), run(renumber(given), inputs), strict=True):
            np.testing.assert_array_equal(found, expected)
        moved += len(given.calls) == len(plan.calls)
    assert moved > 50


def renumber(plan: Plan) -> Plan:
    """The plan with a tensor of its own for each operand, whose number modulo 7 is its place in its call."""
    tensors: list[Tensor] = []
    calls = []
    for call in plan.calls:
        while len(tensors) % 7:
            tensors.append(tensor(0))
        calls.append(replace(call, tensors=tuple(range(len(tensors), len(tensors) + len(call.tensors)))))
        tensors += [plan.tensors[number] for number in call.tensors]
    first = len(tensors)
    ends = [plan.tensors[number] for number in (*plan.inputs, *plan.outputs)]
    count = len(plan.inputs)
    numbers = range(first, first + len(ends))
    return replace(
        plan,
        tensors=(*tensors, *ends),
        calls=tuple(calls),
        inputs=tuple(numbers[:count]),
        outputs=tuple(numbers[count:]),
    )


def test_kernels_compute_on_the_callers_memory() -> None:
    tensors = [tensor(0), tensor(64), tensor(128, 32), tensor(160, 32)]
    # The output's place first holds another tensor, which stays in the arena.
    calls = [Call("f", (0, 1), 1), Call("g", (1, 2, 3), 2), Call("h", (2, 3, 1), 1)]
    given = use_caller_memory(plan_of(tensors, calls, [0], [1]))
    names = [[(given.tensors[n].region, given.tensors[n].place) for n in call.tensors] for call in given.calls]
    assert names == [
        [("given0", 0), ("arena", 64)],
        [("arena", 64), ("arena", 128), ("arena", 160)],
        [("arena", 128), ("arena", 160), ("given1", 0)],
    ]
    assert use_caller_memory(given) is given


@pytest.mark.parametrize(
    ("written", "output"), [(1, 0), (1, 2), (None, 1)], ids=["an input", "a part of a tensor", "an earlier version"]
)
def test_other_outputs_are_copied(written: int | None, output: int) -> None:
    tensors = [tensor(0), tensor(64), tensor(64, 32)]
    plan = plan_of(tensors, [Call("f", (0, 1), written), Call("g", (1, 1), written)], [0], [output])
    given = use_caller_memory(plan)
    assert [call.kernel for call in given.calls] == ["f", "g", ""]
    assert given.tensors[given.calls[-1].tensors[0]] == replace(tensors[output], region="given1", place=0)


def test_an_output_that_is_given_twice_is_computed_once() -> None:
    plan = plan_of([tensor(0), tensor(64)], [Call("f", (0, 1), 1)], [0], [1, 1])
    given = use_caller_memory(plan)
    assert [call.kernel for call in given.calls] == ["f", ""]
    assert [given.tensors[n].region for n in given.calls[1].tensors] == ["given2", "given1"]
