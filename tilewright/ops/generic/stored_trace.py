"""Finds the configs of the *auto* space for traces that MetaSchedule's databases store.

A stored trace is JSON: a list of instructions, each with its inputs, attributes and outputs by name, and a list of
decisions, each with the index of its instruction. It is compared as text with the traces of the space's own sketches.
TVM never sees it, since TVM would trust it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import SpaceError
from tilewright.ops.generic.space import FIRST_SKETCH, AutoSpace, Sketch

if TYPE_CHECKING:
    from tvm.s_tir.schedule import Trace

__all__ = ["TraceReader"]

#: The steps of MetaSchedule's postprocessors come after this instruction. They follow from the steps before it.
_POSTPROCESSING = "EnterPostproc"
#: The instructions of RewriteLayout. The space has no such programs: they change the caller's buffers.
_REWRITES = ("TransformLayout", "TransformBlockLayout")

#: For each sampling instruction of a stored trace: its index there, and the position among the sketch's samples.
_Places = dict[int, int]


class TraceReader:
    """Finds the config of a stored trace.

    Args:
        space: the auto space of the function that the trace was made for.
    """

    def __init__(self, space: AutoSpace) -> None:
        self._space = space
        #: By the text of a trace's instructions: the number of the sketch, and the places of its samples.
        self._known: dict[str, tuple[int, _Places]] = {}
        for number, sketch in enumerate(space.sketches):
            # Records of a search lack the instructions that nothing uses. Records of single schedules have them.
            for trace in (sketch.trace.simplified(True), sketch.trace):
                self._known.setdefault(_text(_instructions(trace)), (number, _places(sketch, trace)))

    def config(self, instructions: Sequence[object], decisions: Sequence[object]) -> NDArray[np.int32]:
        """The config of a stored trace. ``(knobs,)``, int32.

        Args:
            instructions: lists of a kind, inputs, attributes and outputs, as JSON has them.
            decisions: lists of the index of an instruction and its decision.

        Raises:
            SpaceError: the space has no such program. The message gives the reason in a few words, equal for equal
                reasons.
        """
        kinds = [
            instruction[0] if isinstance(instruction, list) and instruction else None for instruction in instructions
        ]
        cut = kinds.index(_POSTPROCESSING) if _POSTPROCESSING in kinds else len(kinds)
        if any(kind in _REWRITES for kind in kinds[cut:]):
            raise SpaceError("the layout of its arguments is rewritten")
        found = self._known.get(_text(instructions[:cut]))
        if found is None:
            raise SpaceError("its trace is of no sketch of the auto space")
        number, places = found
        sketch = self._space.sketches[number]
        decided = _decided(decisions)
        row = np.zeros(len(self._space.knobs), dtype=np.int32)
        row[0] = FIRST_SKETCH + number
        for index, position in places.items():
            try:
                choice = sketch.samples[position].decisions.index(decided[index])
            except (KeyError, ValueError):
                raise SpaceError("a decision is none of its knob's choices") from None
            column = sketch.columns[position]
            if column is not None:
                row[column] = choice
        return row


def _decided(decisions: Sequence[object]) -> dict[int, tuple[int, ...]]:
    """The decisions by the index of their instruction, without malformed ones."""
    found: dict[int, tuple[int, ...]] = {}
    for entry in decisions:
        if isinstance(entry, list) and len(entry) == 2 and type(entry[0]) is int:
            values = entry[1] if isinstance(entry[1], list) else [entry[1]]
            if all(type(value) is int for value in values):
                found[entry[0]] = tuple(values)
    return found


def _places(sketch: Sketch, stored: Trace) -> _Places:
    """The places of a sketch's samples in ``stored``, a form of its trace that has some of its instructions."""
    insts = list(sketch.trace.insts)
    return {
        index: position
        for index, instruction in enumerate(stored.insts)
        for position, sample in enumerate(sketch.samples)
        if insts[sample.index].same_as(instruction)
    }


def _instructions(trace: Trace) -> Sequence[object]:
    instructions: Sequence[object] = trace.as_json()[0]
    return instructions


def _text(instructions: Sequence[object]) -> str:
    return json.dumps(_plain(instructions))


def _plain(value: object) -> object:
    """The value with Python's numbers in place of TVM's, and 0 and 1 for false and true, as databases have them."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    value = getattr(value, "value", value)
    return int(value) if isinstance(value, bool) else value
