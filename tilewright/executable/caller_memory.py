"""Turns a plan that computes in its arena into one that reads inputs and writes outputs in its caller's memory.

A plan that `tilewright tune` wrote has a place in the arena for each input and output. An input has its place for the
whole run. An output has its place from its first write on; before, other tensors may use the same bytes. So the calls
that see an output are those from its first write to the end of the run.

    arena[0:64] x, arena[64:128] y          given0 x, given1 y
    call f(x, arena[64:96] t)        -->    call f(given0, arena[64:96] t)
    call g(t, y)                            call g(t, given1)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tilewright.executable.plan import ARENA, GIVEN, Call, Plan, Tensor

__all__ = ["use_caller_memory"]


@dataclass(frozen=True)
class _Moved:
    """A range of the arena that becomes a tensor of the caller.

    Attributes:
        number: of the caller's tensor.
        begin, end: the range, in bytes.
        first: the first call that finds the tensor there.
    """

    number: int
    begin: int
    end: int
    first: int


@dataclass
class _Tensors:
    """The tensors of the new plan, each once."""

    numbers: dict[Tensor, int] = field(default_factory=dict)

    def number(self, tensor: Tensor) -> int:
        return self.numbers.setdefault(tensor, len(self.numbers))


def use_caller_memory(plan: Plan) -> Plan:
    """The plan on its caller's memory, with the same arena. A plan that is so already is returned as it is.

    An output is copied to the caller if it lies in an input, in another output, or in a larger tensor, or if the plan
    does not say what its calls write.
    """
    if any(tensor.given is not None for tensor in plan.tensors):
        return plan
    moved: list[_Moved] = []
    copied: list[int] = []
    for number, place in enumerate(plan.inputs):
        tensor = plan.tensors[place]
        moved.append(_Moved(number, tensor.place, tensor.place + tensor.bytes, 0))
    for number, place in enumerate(plan.outputs, len(plan.inputs)):
        found = _find_output(plan, plan.tensors[place], number, moved)
        if found is None:
            copied.append(number)
        else:
            moved.append(found)
    tensors = _Tensors()

    def view(tensor: Tensor, now: int) -> int:
        for entry in moved:
            if tensor.region == ARENA and now >= entry.first and _inside(tensor, entry.begin, entry.end):
                return tensors.number(
                    replace(tensor, region=f"{GIVEN}{entry.number}", place=tensor.place - entry.begin)
                )
        return tensors.number(tensor)

    calls = [
        replace(call, tensors=tuple(view(plan.tensors[number], now) for number in call.tensors))
        for now, call in enumerate(plan.calls)
    ]
    ends = [plan.tensors[place] for place in (*plan.inputs, *plan.outputs)]
    given = [tensors.number(replace(t, region=f"{GIVEN}{number}", place=0)) for number, t in enumerate(ends)]
    calls += [Call("", (given[number], view(ends[number], len(plan.calls))), 1) for number in copied]
    count = len(plan.inputs)
    return replace(
        plan,
        tensors=tuple(tensors.numbers),
        calls=tuple(calls),
        inputs=tuple(given[:count]),
        outputs=tuple(given[count:]),
    )


def _find_output(plan: Plan, output: Tensor, number: int, moved: list[_Moved]) -> _Moved | None:
    """Where and from which call on an output can be the caller's; None if it must be copied."""
    begin, end = output.place, output.place + output.bytes
    if output.region != ARENA or any(entry.begin < end and begin < entry.end for entry in moved):
        return None
    first = _find_first_write(plan, begin, end)
    if first is None:
        return None
    for call in plan.calls[first:]:
        for tensor in (plan.tensors[place] for place in call.tensors):
            if tensor.region == ARENA and _touches(tensor, begin, end) and not _inside(tensor, begin, end):
                return None
    return _Moved(number, begin, end, first)


def _find_first_write(plan: Plan, begin: int, end: int) -> int | None:
    """The first of the calls that write a range, which the end of the run needs; None if it is not known."""
    missing = [(begin, end)] if begin < end else []
    for now in range(len(plan.calls) - 1, -1, -1):
        outputs = plan.calls[now].outputs
        if outputs is None:
            return None
        for tensor in (plan.tensors[place] for place in outputs):
            if tensor.region == ARENA:
                missing = _subtract(missing, tensor.place, tensor.place + tensor.bytes)
        if not missing:
            return now
    return None


def _subtract(ranges: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    found = []
    for first, last in ranges:
        found += [(a, b) for a, b in ((first, min(last, begin)), (max(first, end), last)) if a < b]
    return found


def _touches(tensor: Tensor, begin: int, end: int) -> bool:
    return tensor.bytes > 0 and tensor.place < end and begin < tensor.place + tensor.bytes


def _inside(tensor: Tensor, begin: int, end: int) -> bool:
    return tensor.bytes > 0 and begin <= tensor.place and tensor.place + tensor.bytes <= end
