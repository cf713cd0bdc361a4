"""MetaSchedule's generated schedules as traces: their sampling instructions, and replays with other decisions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.space.knob import divisors
from tilewright.space.module import TVM_ERRORS
from tilewright.tvm_compat import light_tensor_intrinsics

if TYPE_CHECKING:
    import tvm
    from tvm.ir import IRModule
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Instruction, LoopRV, SBlockRV, Trace

__all__ = ["Generator", "Sample", "factorisations", "read_samples", "replay"]

_TILE = "SamplePerfectTile"
_CHOICE = "SampleCategorical"
_LOCATION = "SampleComputeLocation"

#: Replays with random decisions that find out where a block may be computed. That depends on earlier decisions.
_PROBES = 3
#: A number above the index of any loop. TVM answers it with the innermost location that is possible.
_INNERMOST = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One sampling instruction of a trace.

    Attributes:
        kind: ``tile``, ``choice`` or ``at``.
        index: position among the trace's instructions.
        decisions: the possible decisions, tuples of ints. tile: factors from outside in; choice: position among the
            candidates; at: -2 inline, -1 root, from 0 the index of the loop to compute at.
        labels: the meaning of the decisions, in the same order: the candidates' values, or the decisions themselves.
        extent: of the loop that is tiled; 1 for other kinds.
    """

    kind: str
    index: int
    decisions: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]
    extent: int = 1


class Generator:
    """MetaSchedule's rules and postprocessors for CPUs, bound to one function."""

    def __init__(self, module: IRModule, target: tvm.target.Target) -> None:
        """Bind the generator to a function.

        Args:
            module: the function.
            target: the CPU.
        """
        light_tensor_intrinsics()
        from tvm.s_tir import meta_schedule as ms

        # ApplyCustomRule has no rules for CPUs, and prints so at every pooling. RewriteLayout would change the buffers
        # of the function's caller.
        rules = [r for r in ms.ScheduleRule.create("llvm") if type(r).__name__ != "ApplyCustomRule"]
        posts = [p for p in ms.Postproc.create("llvm") if type(p).__name__ != "RewriteLayout"]
        self._context = ms.TuneContext(
            mod=module,
            target=target,
            space_generator=ms.space_generator.PostOrderApply(sch_rules=rules, postprocs=posts, mutator_probs={}),
            task_name="tilewright",
            rand_state=1,
            num_threads=1,
        )

    def traces(self) -> list[Trace]:
        """The generated design spaces, in an order that is the same in every process."""
        return [schedule.trace for schedule in self._context.generate_design_space()]

    def finish(self, schedule: Schedule) -> str | None:
        """Run the postprocessors on ``schedule``. Returns the name of the one that refuses it, or None."""
        for post in self._context.space_generator.postprocs:
            if not post.apply(schedule):
                return type(post).__name__
        return None


def read_samples(trace: Trace, module: IRModule) -> list[Sample]:
    """The sampling instructions of ``trace`` in order, each with all of its possible decisions."""
    probe = _Probe()
    probe.replay(trace, module)
    if any(inst.kind.name == _LOCATION for inst in trace.insts):
        rng = random.Random(0)
        for _ in range(_PROBES):
            try:
                probe.replay(trace, module, rng)
            except TVM_ERRORS:  # random decisions may be impossible; what the replay found until then holds
                continue
    return [
        _sample(index, inst, probe.extents.get(index, 1), probe.locations.get(index, set()))
        for index, inst in enumerate(trace.insts)
        if inst.kind.name in (_TILE, _CHOICE, _LOCATION)
    ]


class _Probe:
    """Observes what sampling instructions may decide, over several replays of a trace.

    Attributes:
        extents: by instruction, the extent of the loop that is tiled.
        locations: by instruction, the outermost and innermost places that are possible; -2 if inlining is.
    """

    def __init__(self) -> None:
        self.extents: dict[int, int] = {}
        self.locations: dict[int, set[int]] = {}

    def replay(self, trace: Trace, module: IRModule, rng: random.Random | None = None) -> None:
        """Replay the trace with its own decisions, or with random ones, and observe."""
        from tvm.s_tir import Schedule

        schedule = Schedule(module, seed=1)
        position = -1

        # TVM calls this before each instruction. The schedule is in the state that the instruction will find.
        def decide(
            inst: Instruction, inputs: Sequence[SBlockRV | LoopRV], attrs: Sequence[int], decision: object
        ) -> object:
            nonlocal position
            position += 1
            kind = inst.kind.name
            if kind == _TILE:
                extent = self.extents[position] = int(schedule.get(inputs[0]).extent)
                if rng is not None:
                    return list(rng.choice(factorisations(extent, int(attrs[0]), int(attrs[1]))))
            elif kind == _LOCATION:
                innermost = _nearest_location(schedule, inputs[0], _INNERMOST)
                inline = _nearest_location(schedule, inputs[0], -2)
                self.locations.setdefault(position, {-1}).update((innermost, inline))
                if rng is not None:
                    return rng.randint(-1, max(innermost, -1))
            return decision

        trace.apply_to_schedule(schedule, False, decide)


def replay(trace: Trace, module: IRModule, decisions: dict[int, tuple[int, ...]]) -> Schedule:
    """A new schedule of ``module`` by ``trace`` with other decisions, given by the index of their instruction."""
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    schedule = Schedule(module, seed=1)
    insts = list(trace.insts)
    chosen = {}
    for index, decision in decisions.items():
        tile = insts[index].kind.name == _TILE
        chosen[insts[index]] = list(decision) if tile else decision[0]
    Trace(insts, chosen).apply_to_schedule(schedule, False)
    return schedule


def factorisations(extent: int, parts: int, innermost: int) -> tuple[tuple[int, ...], ...]:
    """Every way to write ``extent`` as a product of ``parts`` factors, of which the last is at most ``innermost``."""
    if parts == 1:
        return ((extent,),) if extent <= innermost else ()
    return tuple(
        (first, *rest) for first in divisors(extent) for rest in factorisations(extent // first, parts - 1, innermost)
    )


def _nearest_location(schedule: Schedule, block: SBlockRV, wanted: int) -> int:
    """The location that TVM takes for ``wanted``: itself, or the nearest possible one before it."""
    schedule.sample_compute_location(block, decision=wanted)
    trace = schedule.trace
    return int(trace.decisions[trace.insts[-1]])


def _sample(index: int, inst: Instruction, extent: int, locations: set[int]) -> Sample:
    kind = inst.kind.name
    if kind == _TILE:
        tiles = factorisations(extent, int(inst.attrs[0]), int(inst.attrs[1]))
        return Sample("tile", index, tiles, tiles, extent)
    if kind == _CHOICE:
        values = tuple((int(v),) for v in inst.attrs[0])
        return Sample("choice", index, tuple((i,) for i in range(len(values))), values)
    # TVM replaces an impossible location by the nearest one outside it. So the whole range is legal in every state.
    places = tuple((i,) for i in range(min(locations), max(locations) + 1) if i != -2 or -2 in locations)
    return Sample("at", index, places, places)
