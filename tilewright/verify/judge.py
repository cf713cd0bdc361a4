"""Judges whether a program's outputs are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.difference import compare_arrays
from tilewright.errors import MeasureError
from tilewright.tensor import Array
from tilewright.verify.inputs import Trial, Trials
from tilewright.verify.tolerance import compute_tolerance
from tilewright.verify.verdict import Outcome, Verdict
from tilewright.wording import counted

__all__ = ["Run", "judge"]

#: Runs a program: takes the inputs, returns the outputs. Only the model knows the dtypes.
Run: TypeAlias = Callable[[Sequence[NDArray[Any]]], list[Array]]


def judge(run: Run, trials: Trials) -> Verdict:
    """Compare a program's outputs with the expected ones.

    A program is right if its outputs agree with the expected ones on all inputs:

    - their number, dtypes and shapes are those of the model;
    - NaN and infinities are in the same places;
    - no element is further off than :mod:`tilewright.verify.tolerance` allows.

    Besides, the inputs must be conclusive: a wrong result would have shown in each output.

    Args:
        run: runs the program. It raises ``MeasureError`` if the program fails, for example if its process ends.
        trials: the inputs that the program is judged on.
    """
    error: float | None = None
    conclusive = 0
    for number, trial in enumerate(trials.trials, 1):
        try:
            outputs = run(trial.inputs)
        except MeasureError as exc:
            return _wrong(trials, error, conclusive, f"on input {number} ({trial.what}) the program failed: {exc}")
        problem, largest = _find_problem(outputs, trial, trials)
        if problem:
            error = None if largest is None else max(error or 0.0, largest)
            return _wrong(trials, error, conclusive, f"on input {number} ({trial.what}) {problem}")
        if trial.conclusive:
            conclusive += 1
            error = max(error or 0.0, largest or 0.0)
    note = f"; {trials.note}" if trials.note else ""
    if trials.problem or not conclusive:
        why = trials.problem or "no inputs were found for which a wrong result would show"
        return Verdict(Outcome.UNDECIDABLE, error, conclusive, trials.precision, why + note)
    evidence = (
        f"the outputs agree with the reference in {trials.precision} to {error:.2g} of the largest, "
        f"on {counted(conclusive, 'input')}"
    )
    return Verdict(Outcome.RIGHT, error, conclusive, trials.precision, evidence + note)


def _wrong(trials: Trials, error: float | None, inputs: int, evidence: str) -> Verdict:
    note = f"; {trials.note}" if trials.note else ""
    return Verdict(Outcome.WRONG, error, inputs, trials.precision, evidence + note)


def _find_problem(outputs: Sequence[Array], trial: Trial, trials: Trials) -> tuple[str, float | None]:
    """What is wrong with outputs, in words, or an empty text; and their largest relative error."""
    if len(outputs) != len(trial.expected):
        return f"the number of outputs is {len(outputs)} instead of {len(trial.expected)}", None
    largest = 0.0
    for k, (found, expected, noise) in enumerate(zip(outputs, trial.expected, trial.noise, strict=True)):
        name = repr(trials.names[k]) if k < len(trials.names) else f"number {k}"
        dtype = trials.dtypes[k] if k < len(trials.dtypes) else str(found.dtype)
        if str(found.dtype) != dtype or (found.dtype.kind == "f") != (expected.dtype.kind == "f"):
            return f"output {name} is {found.dtype} instead of {dtype}", None
        if found.shape != expected.shape:
            return f"output {name} is {list(found.shape)} instead of {list(expected.shape)}", None
        allowed = compute_tolerance(expected, noise, dtype)
        difference = compare_arrays(found, expected, allowed)
        largest = max(largest, difference.error)
        if difference.count:
            at = difference.place
            return (
                f"output {name} is wrong in {difference.count} of {found.size} elements: "
                f"{list(at)} is {_in_words(found[at])} instead of {_in_words(expected[at])}, "
                f"where {float(allowed[at]):.2g} is allowed"
            ), largest
    return "", largest


def _in_words(value: object) -> str:
    """An element of an array with six digits."""
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
