"""The result of a check of outputs: right, wrong, or not decidable, with its evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Outcome", "Verdict"]


class Outcome(Enum):
    """How a check ended."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDABLE = "not decidable"


@dataclass(frozen=True)
class Verdict:
    """The judgement of one program's outputs.

    Attributes:
        outcome: right, wrong, or not decidable.
        error: the largest difference of an output, relative to its largest expected magnitude, over the conclusive
            inputs; None where nothing was compared.
        inputs: the number of conclusive inputs that the program was judged on.
        precision: of the reference: ``float64`` or ``float32``; empty where there is no reference.
        evidence: one sentence for people. Right: the error and the number of inputs. Wrong: which output, which
            input, which element, and how far it is off. Not decidable: why.
    """

    outcome: Outcome
    error: float | None = None
    inputs: int = 0
    precision: str = ""
    evidence: str = ""

    @property
    def right(self) -> bool:
        """Whether the outputs were shown to be right."""
        return self.outcome is Outcome.RIGHT

    @property
    def wrong(self) -> bool:
        """Whether the outputs were shown to be wrong."""
        return self.outcome is Outcome.WRONG

    def report(self) -> dict[str, Any]:
        """The verdict as JSON-able data; ``outcome`` is "right", "wrong" or "not decidable"."""
        return {
            "outcome": self.outcome.value,
            "error": self.error,
            "inputs": self.inputs,
            "precision": self.precision,
            "evidence": self.evidence,
        }
