"""The result of a check of outputs: right, wrong, or not decidable, with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypedDict

__all__ = ["Outcome", "Verdict", "VerdictReport", "join_verdicts"]


class Outcome(Enum):
    """How a check ended."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDABLE = "not decidable"


class VerdictReport(TypedDict):
    """A verdict as JSON-able data: the fields of :class:`Verdict`, with the outcome as a text."""

    outcome: str
    error: float | None
    inputs: int
    precision: str
    evidence: str


@dataclass(frozen=True)
class Verdict:
    """The judgement of one program's outputs.

    Attributes:
        outcome: right, wrong, or not decidable.
        error: the largest difference of an output, relative to its largest expected magnitude, over the conclusive
            inputs; None if nothing was compared.
        inputs: the number of conclusive inputs that the program was judged on.
        precision: the reference's: ``float64`` or ``float32``; empty if there is no reference.
        evidence: one sentence for people. Right: the error and the number of inputs. Wrong: which output is wrong on
            which input, in which element, and how far it is off. Not decidable: why.
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

    def report(self) -> VerdictReport:
        """The verdict as JSON-able data; ``outcome`` is "right", "wrong" or "not decidable"."""
        return {
            "outcome": self.outcome.value,
            "error": self.error,
            "inputs": self.inputs,
            "precision": self.precision,
            "evidence": self.evidence,
        }


def join_verdicts(names: Sequence[str], verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a program in several buckets: wrong if one is, and right if all are.

    Args:
        names: of the buckets, for people.
        verdicts: on the program in each of them; at least one.
    """
    order = (Outcome.WRONG, Outcome.UNDECIDABLE, Outcome.RIGHT)
    worst = min(range(len(verdicts)), key=lambda bucket: order.index(verdicts[bucket].outcome))
    outcome = verdicts[worst].outcome
    errors = [verdict.error for verdict in verdicts if verdict.error is not None]
    inputs = sum(verdict.inputs for verdict in verdicts)
    error = max(errors) if errors else None
    precision = verdicts[worst].precision
    if outcome is not Outcome.RIGHT:
        return Verdict(outcome, error, inputs, precision, f"with {names[worst]}: {verdicts[worst].evidence}")
    evidence = (
        f"in each of {len(verdicts)} buckets the outputs agree with the reference in {precision}, to {error or 0:.2g} "
        f"of the largest, on {inputs} inputs in all"
    )
    return Verdict(outcome, error, inputs, precision, evidence)
