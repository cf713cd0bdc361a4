"""A design space for any function: MetaSchedule's generated spaces, seen as knobs.

The first knob, ``sketch``, chooses the program's structure. The other knobs are the decisions that the structure leaves
open. Sketch 0 is the function as it stands, which TVM builds untuned. Sketch 1 is :mod:`tilewright.ops.generic.simple`.
The rest are MetaSchedule's sketches, by its rules for CPUs. Sketches that make the same choice share a knob, so that
few knobs are idle.

A function that is too large for MetaSchedule's generator (:mod:`tilewright.ops.generic.generation`) has the first two
only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.ops.generic.generation import generate, generate_apart, is_small, read_generated, why_too_large
from tilewright.ops.generic.simple import (
    MOVING_WORK,
    moves_elements,
    simple_schedule,
    stages_and_reductions,
)
from tilewright.ops.generic.trace import Generator, Sample, replay
from tilewright.ops.mark import UNMARKED
from tilewright.space.knob import ChoiceKnob, Knob, SplitKnob
from tilewright.space.knobs_alone import KnobsAlone
from tilewright.space.loops import PARALLEL_WORK, count_iterations
from tilewright.space.module import space_errors, task_module
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

__all__ = ["FIRST_SKETCH", "PLAIN", "AutoSpace", "AutoTemplate", "Sketch"]

#: The template of a space without MetaSchedule's sketches: the function or its generation exceeds a limit.
PLAIN = "plain/1"

_UNTUNED, _SIMPLE = 0, 1
#: The number of MetaSchedule's first sketch.
FIRST_SKETCH = 2
#: Columns of the simple sketch's knobs.
_INLINE, _PARALLEL, _VECTOR, _UNROLL, _JOIN = _SIMPLE_KNOBS = range(1, 6)


@dataclass(frozen=True)
class Sketch:
    """One of MetaSchedule's spaces.

    Attributes:
        trace: the steps that make its programs.
        samples: the trace's sampling instructions.
        columns: for each sampling instruction the column of its knob; None if there is no choice.
    """

    trace: Trace
    samples: tuple[Sample, ...]
    columns: tuple[int | None, ...]


class AutoSpace(KnobsAlone):
    """MetaSchedule's spaces, the untuned program and a plain parallel one, for any task.

    The same task and target give the same knobs in every process. Knobs that the config's sketch does not use are 0
    (:meth:`canonical` sets them), so that each program has one config.

    Attributes:
        template: ``auto/1``, or ``plain/1`` if a limit excluded MetaSchedule's sketches.
        sketches: MetaSchedule's, which are numbers ``FIRST_SKETCH`` and up of the knob ``sketch``.
        generator_error: why MetaSchedule's generator gave no sketches, or "".

    Args:
        task: the task to schedule.
        target: the CPU to schedule it for.

    Raises:
        SpaceError: the task's function cannot be read or scheduled.
    """

    template = "auto/1"

    def __init__(self, task: Task, target: Target) -> None:
        self.task = task
        self.target = target
        self._module = task_module(task)
        generated, self.generator_error = self._generate()
        knobs: list[Knob] = [
            ChoiceKnob.of("sketch", range(FIRST_SKETCH + len(generated))),
            ChoiceKnob.of("inline", [0, 1]),
            ChoiceKnob.of("parallel", [0, 1]),
            ChoiceKnob.of("vector", [1, target.lanes, 2 * target.lanes, 4 * target.lanes]),
            ChoiceKnob.of("unroll", [1, 16, 64]),
            ChoiceKnob.of("join", [0, 1]),
        ]
        self.sketches = tuple(_share(generated, knobs))
        self.knobs: tuple[Knob, ...] = tuple(knobs)
        #: ``(sketches, knobs)``: whether each sketch uses each knob.
        self._active = np.zeros((FIRST_SKETCH + len(generated), len(knobs)), dtype=np.bool_)
        self._active[:, 0] = True
        self._active[_SIMPLE, list(_SIMPLE_KNOBS)] = True
        with suppress(SpaceError), space_errors("the function's stages are not known"):
            stages, reduces = stages_and_reductions(self._module)
            self._active[_SIMPLE, _INLINE] = stages > 1
            self._active[_SIMPLE, [_UNROLL, _JOIN]] = reduces
        for row, sketch in enumerate(self.sketches, start=FIRST_SKETCH):
            self._active[row, [c for c in sketch.columns if c is not None]] = True

    def __repr__(self) -> str:
        return f"AutoSpace({self.task.name!r}, {len(self._active)} sketches, {len(self.knobs)} knobs)"

    def valid(self, configs: Configs) -> NDArray[np.bool_]:
        """Which configs are 0 in all knobs that their sketch does not use. ``(n,)``."""
        idle = ~self._active[configs[:, 0]]
        return np.asarray(~((configs != 0) & idle).any(axis=1), dtype=np.bool_)

    def canonical(self, configs: Configs) -> Configs:
        """The configs with 0 in all knobs that their sketch does not use. ``(n, knobs)``."""
        return np.where(self._active[configs[:, 0]], configs, 0).astype(np.int32)

    def default(self) -> NDArray[np.int32]:
        """The simple sketch, or the untuned program if the simple sketch does not apply.

        For a function that moves elements (a transposition, a slice, a concatenation) it is MetaSchedule's program, if
        there is only one. On the light networks, that program takes half of the time of the simple sketch.
        """
        return self._default.copy()

    @cached_property
    def _default(self) -> NDArray[np.int32]:
        simple, moved, untuned = np.zeros((3, len(self.knobs)), dtype=np.int32)
        simple[0], moved[0] = _SIMPLE, FIRST_SKETCH
        with suppress(SpaceError), space_errors("the function's work is not known"):
            size = count_iterations(self._module)
            simple[list(_SIMPLE_KNOBS)] = 1, size >= PARALLEL_WORK, 1, 1, 1
            simple = self.canonical(simple[None])[0]
            only = bool(self.sketches) and all(column is None for column in self.sketches[0].columns)
            moves = only and size >= MOVING_WORK and moves_elements(self._module)
            for config in (moved, simple) if moves else (simple,):
                with suppress(SpaceError), space_errors("the sketch does not apply"):
                    self.schedule(config)
                    return config
        return untuned

    def schedule(self, config: NDArray[np.int32]) -> Schedule:
        """The program of one config, traced, with its one function called ``main``.

        Raises:
            SpaceError: the config is not of the space, or its program is impossible.
        """
        row = np.asarray(config)
        if row.shape != (len(self.knobs),) or any(not 0 <= int(i) < len(k) for i, k in zip(row, self.knobs)):  # noqa: B905
            raise SpaceError(
                f"a config of this space is a row of {len(self.knobs)} indices, each below its knob's number of "
                f"choices, but this is {row.tolist()}; was it written by another version of {self.template}?"
            )
        if not self.valid(row[None])[0]:
            raise SpaceError(f"knobs that sketch {row[0]} does not use must be 0: {row.tolist()}; use canonical()")
        with space_errors(f"{self.task.name!r} has no program for the config {row.tolist()}"):
            return self._scheduled([int(i) for i in row])

    def _scheduled(self, row: Sequence[int]) -> Schedule:
        from tvm.s_tir import Schedule

        if row[0] == _UNTUNED:
            return Schedule(self._module, seed=1)
        if row[0] == _SIMPLE:
            inline, parallel, vector, unroll, join = (self.knobs[c].choices[row[c]][0] for c in _SIMPLE_KNOBS)
            return simple_schedule(self._module, bool(inline), bool(parallel), vector, unroll, bool(join))
        sketch = self.sketches[row[0] - FIRST_SKETCH]
        schedule = replay(
            sketch.trace,
            self._module,
            {
                sample.index: sample.decisions[0 if column is None else row[column]]
                for sample, column in zip(sketch.samples, sketch.columns, strict=True)
            },
        )
        schedule.enter_postproc()  # MetaSchedule's search drops what follows this mark from a stored trace
        refused = self._generator.finish(schedule)
        if refused is not None:
            raise SpaceError(f"MetaSchedule's {refused} refuses the config {list(row)} of {self.task.name!r}")
        return schedule

    @cached_property
    def _generator(self) -> Generator:
        return Generator(self._module, self.target.tvm)

    def _generate(self) -> tuple[list[tuple[Trace, list[Sample]]], str]:
        """MetaSchedule's sketches, or why there are none. The untuned and the simple program remain."""
        problem = why_too_large(self._module)
        made = None if problem or is_small(self._module) else generate_apart(self.task, self.target)
        if problem or (made is not None and made.problem):
            self.template = PLAIN
            return [], problem or (made.problem if made is not None else "")
        try:
            sketches = generate(self._module, self.target) if made is None else read_generated(made, self._module)
        except SpaceError as exc:
            return [], str(exc)
        return sketches, ""


def _share(generated: Sequence[tuple[Trace, list[Sample]]], knobs: list[Knob]) -> list[Sketch]:
    """Give each sample a knob, and append new knobs to ``knobs``. The n-th equal choices of all sketches share one."""
    known: dict[tuple[str, tuple[tuple[int, ...], ...], int], int] = {}
    sketches = []
    for trace, samples in generated:
        seen: Counter[tuple[str, tuple[tuple[int, ...], ...]]] = Counter()
        columns: list[int | None] = []
        for sample in samples:
            if len(sample.decisions) == 1:
                columns.append(None)
                continue
            kind = (sample.kind, sample.labels)
            key = (*kind, seen[kind])
            seen[kind] += 1
            if key not in known:
                known[key] = len(knobs)
                name = f"{sample.kind}{len(knobs)}"
                tile = sample.kind == "tile"
                knobs.append(SplitKnob(name, sample.labels, sample.extent) if tile else ChoiceKnob(name, sample.labels))
            columns.append(known[key])
        sketches.append(Sketch(trace, tuple(samples), tuple(columns)))
    return sketches


class AutoTemplate:
    """Schedules any function."""

    name = "auto"
    kind = UNMARKED.kind

    def serves(self, task: Task, target: Target) -> bool:
        """Always."""
        return True

    def space(self, task: Task, target: Target) -> DesignSpace:
        """MetaSchedule's spaces, a plain parallel program and the untuned one."""
        return AutoSpace(task, target)
