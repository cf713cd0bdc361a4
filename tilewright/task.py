"""The task: one fused function of a network, as data that any process and any module can hold."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WEIGHTS", "Task"]

#: The attribute of a task's function that tells which of its parameters are weights: their places, such as "1,2".
WEIGHTS = "tilewright.weights"


@dataclass(frozen=True)
class Task:
    """One fused function of a network, to be scheduled well.

    Holds no compiler object, so that it can be pickled, stored, and used where TVM is not imported.

    Attributes:
        key: structural hash of the function, the same in every process; the identity of the task.
        name: for people, such as ``conv2d 3x3 64x55x55 -> 64x55x55``.
        kind: which templates are made for it, as the mark of its expression says (``contraction``, ``winograd``,
            ``rows``); ``auto`` without a mark.
        flop: floating-point operations of one call.
        ir: the function as TVM's JSON.
    """

    key: str
    name: str
    kind: str
    flop: float
    ir: str

    def __repr__(self) -> str:
        return f"Task({self.name!r}, key={self.key!r}, flop={self.flop:.4g})"
