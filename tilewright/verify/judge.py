"""Judges whether a program's outputs are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.verify.inputs import Trial, Trials
from tilewright.verify.rule import compare, tolerance
from tilewright.verify.verdict import Outcome, Verdict

__all__ = ["judge"]

Array = NDArray[Any]


def judge(run: Callable[[Sequence[Array]], list[Array]], trials: Trials) -> Verdict:
    """Compare a program's outputs with the expected ones.

    A program is right if this holds for all inputs: the number of outputs, their dtypes and shapes are those of the
    model, NaN and infinities are in the same places, and no element is further off than
    :mod:`tilewright.verify.rule` allows. Besides, the inputs must be conclusive: a wrong result
    would have shown in each output.

    Args:
        run: runs the program; a ``MeasureError`` that it raises is the program's own failure, such as the end of its
            process.
        trials: the inputs that it is judged on.
    """
    error: float | None = None
    conclusive = 0
    for number, trial in enumerate(trials.trials, 1):
        try:
            outputs = run(trial.inputs)
        except MeasureError as exc:
            return _wrong(trials, error, conclusive, f"on input {number} ({trial.what}) the program failed: {exc}")
        problem, largest = _problem(outputs, trial, trials)
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
    said = (
        f"the outputs agree with the reference in {trials.precision} to {error:.2g} of the largest, "
        f"on {conclusive} input{'s' if conclusive > 1 else ''}"
    )
    return Verdict(Outcome.RIGHT, error, conclusive, trials.precision, said + note)


def _wrong(trials: Trials, error: float | None, inputs: int, evidence: str) -> Verdict:
    note = f"; {trials.note}" if trials.note else ""
    return Verdict(Outcome.WRONG, error, inputs, trials.precision, evidence + note)


def _problem(outputs: Sequence[Array], trial: Trial, trials: Trials) -> tuple[str, float | None]:
    """What is wrong with outputs, in words, or nothing; and their largest relative error."""
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
        allowed = tolerance(expected, noise, dtype)
        difference = compare(found, expected, allowed)
        largest = max(largest, difference.error)
        if difference.count:
            at = difference.place
            return (
                f"output {name} is wrong in {difference.count} of {found.size} elements: "
                f"{list(at)} is {_number(found[at])} instead of {_number(expected[at])}, "
                f"where {float(allowed[at]):.2g} is allowed"
            ), largest
    return "", largest


def _number(value: Any) -> str:
    return f"{float(value):.6g}" if np.asarray(value).dtype.kind == "f" else str(value)
