"""Properties of the rule of judgement: which outputs agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from tests.verify.onnx_models import normal, single
from tilewright.measure.compare import relative_error
from tilewright.verify.inputs import Trial, Trials
from tilewright.verify.judge import judge
from tilewright.verify.tolerance import compute_tolerance, is_telling, measure_noise
from tilewright.verify.verdict import Outcome, Verdict

Array = NDArray[Any]

_FLOATS = arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=st.floats(-1e3, 1e3, width=32))


def trials(*expected: Array, problem: str = "", noise: float = 1e-7, dtypes: tuple[str, ...] = ("float32",)) -> Trials:
    """Trials of which each has one of the arrays as its only expected output."""
    made = []
    for number, array in enumerate(expected):
        sizes = np.full(array.shape, noise) if array.dtype.kind == "f" else np.zeros(array.shape)
        made.append(Trial((np.array(number),), (array,), (sizes,), "normal", (True,)))
    return Trials(tuple(made), "float64", problem, dtypes, ("y",))


def judged(found: Array, expected: Array, **options: Any) -> Verdict:
    return judge(
        lambda _: [found], trials(expected.astype(np.float64) if expected.dtype.kind == "f" else expected, **options)
    )


@given(_FLOATS)
def test_what_is_equal_is_right(array: Array) -> None:
    verdict = judged(array, array)
    assert verdict.outcome is Outcome.RIGHT
    assert verdict.error == 0
    assert verdict.inputs == 1


@given(_FLOATS, st.data())
def test_one_element_that_is_far_off_is_found(array: Array, data: st.DataObject) -> None:
    place = data.draw(st.tuples(*(st.integers(0, extent - 1) for extent in array.shape)))
    changed = array.copy()
    changed[place] += 0.01 * (1 + abs(changed[place]))
    verdict = judged(changed, array)
    assert verdict.wrong
    assert f"{list(place)}" in verdict.evidence
    assert "'y'" in verdict.evidence


@given(_FLOATS, st.floats(-1e-6, 1e-6))
def test_rounding_is_right(array: Array, size: float) -> None:
    verdict = judged((array * (1 + size)).astype(np.float32), array)
    assert verdict.right
    assert verdict.error is not None
    assert verdict.error < 1e-5


@settings(max_examples=30)
@given(_FLOATS)
def test_a_change_of_scale_changes_no_verdict(array: Array) -> None:
    """Probabilities of 1e-7 are judged as strictly as numbers around 1."""
    for scale in (2.0**-24, 2.0**24):
        right, wrong = array * np.float32(scale), array * np.float32(scale * 1.01)
        assert judged(right, right, noise=1e-7 * scale).right
        if np.abs(array).max() > 1:
            assert judged(wrong, right, noise=1e-7 * scale).wrong


@pytest.mark.parametrize(
    ("found", "expected", "right"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([1.0, 1.0], [np.nan, 1.0], False),
        ([np.nan, 1.0], [1.0, 1.0], False),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([-np.inf, 1.0], [np.inf, 1.0], False),
        ([np.inf, 1.0], [3.0, 1.0], False),
        ([0.0, 1.0], [1e-40, 1.0], True),  # flushed to zero
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 1e-3], [0.0, 0.0], False),
    ],
)
def test_special_numbers(found: list[float], expected: list[float], right: bool) -> None:
    verdict = judged(single(found), single(expected))
    assert verdict.right is right
    assert verdict.wrong is not right


def test_what_overflows_in_float32_is_exempt() -> None:
    expected = np.array([1e39, 1.0])
    noise = measure_noise(expected, [single([np.inf, 1.0])], [1.0], "float64")
    made = Trials((Trial((), (expected,), (noise,), "normal", (True,)),), "float64", "", ("float32",), ("y",))
    assert judge(lambda _: [single([np.inf, 1.0])], made).right
    assert judge(lambda _: [single([np.inf, 1.1])], made).wrong


def test_dtypes_shapes_and_numbers_of_outputs() -> None:
    expected = normal(3, 4)
    assert "float64 instead of float32" in judged(expected.astype(np.float64), expected).evidence
    assert judged(expected.astype(np.float64), expected).wrong
    assert judged(expected.T.copy(), expected).wrong
    assert judged(expected[:, :1] * np.ones((1, 4), np.float32), expected).wrong
    assert judge(lambda _: [], trials(expected)).wrong
    assert judge(lambda _: [expected, expected], trials(expected)).wrong
    assert judged(expected.astype(np.int64), np.zeros((3, 4), np.int32), dtypes=("int32",)).wrong


def test_integers_are_equal() -> None:
    expected = np.arange(12).reshape(3, 4)
    assert judged(expected, expected, dtypes=("int64",)).right
    changed = expected.copy()
    changed[1, 2] += 1
    verdict = judged(changed, expected, dtypes=("int64",))
    assert verdict.wrong
    assert "[1, 2]" in verdict.evidence


def test_ties_are_exempt() -> None:
    expected, other = np.array([3, 1, 2, 5]), np.array([3, 0, 2, 5])
    noise = measure_noise(expected, [other], [1.0], "float64")
    made = Trials((Trial((), (expected,), (noise,), "normal", (True,)),), "float64", "", ("int64",), ("y",))
    assert judge(lambda _: [np.array([3, 7, 2, 5])], made).right
    assert judge(lambda _: [np.array([4, 1, 3, 5])], made).wrong


def test_undecidable_inputs_may_show_that_a_program_is_wrong() -> None:
    zeros = np.zeros((2, 3))
    made = trials(zeros, problem="all zeros")
    assert judge(lambda _: [zeros.astype(np.float32)], made).outcome is Outcome.UNDECIDABLE
    assert "all zeros" in judge(lambda _: [zeros.astype(np.float32)], made).evidence
    assert judge(lambda _: [zeros.astype(np.float32) + 1], made).wrong


def test_no_inputs_at_all() -> None:
    verdict = judge(lambda _: [], Trials((), "", "there is no reference"))
    assert verdict == Verdict(Outcome.UNDECIDABLE, None, 0, "", "there is no reference")
    assert verdict.report() == {
        "outcome": "not decidable",
        "error": None,
        "inputs": 0,
        "precision": "",
        "evidence": "there is no reference",
    }


def test_noise_is_told_for_each_slice() -> None:
    """One output of a detector holds coordinates of hundreds beside probabilities of 1e-5."""
    expected = np.abs(normal(1, 8, 100)).astype(np.float64)
    expected[:, :4] *= 300
    expected[:, 4:] *= 1e-5
    rounded = expected * (1 + 1e-6 * normal(1, 8, 100, seed=1))
    allowed = compute_tolerance(expected, measure_noise(expected, [rounded], [1.0], "float64"))
    assert allowed[:, 4:].max() < 1e-8
    assert allowed[:, :4].max() > 1e-3


def test_rare_jumps_may_come_anywhere() -> None:
    """If a network rounds to integers, the rounding of float32 moves a few elements by a whole step."""
    expected = np.round(10 * normal(4, 1000)).astype(np.float64)
    rounded = expected.copy()
    rounded[0, 7] += 1
    allowed = compute_tolerance(expected, measure_noise(expected, [rounded], [1.0], "float64"))
    assert allowed[0].min() > 1
    assert allowed[1].max() < 0.1


def test_telling() -> None:
    x = np.abs(normal(1000)).astype(np.float64)
    small = compute_tolerance(x, np.full(1000, 1e-7))
    assert is_telling(x, 2 * x, small)
    assert not is_telling(x, x * (1 + 1e-5), small)
    sure, other = 0.9 * np.eye(1, 1000)[0], np.roll(0.9 * np.eye(1, 1000)[0], 3)
    assert not is_telling(sure, other, compute_tolerance(sure, np.full(1000, 1e-7)))  # only 2 of 1000 elements
    codes, others = np.eye(1, 1000), np.roll(np.eye(1, 1000), 3)
    assert is_telling(codes, others, compute_tolerance(codes, np.zeros((1, 1000))))  # as many as there can be
    assert is_telling(np.array([1e-6]), np.array([2e-6]), compute_tolerance(np.array([1e-6]), np.array([1e-12])))
    assert is_telling(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4)))


def test_the_error_is_relative_to_the_largest() -> None:
    found, expected = single([1.00001, 4.0]), single([1.0, 4.0])
    verdict = judged(found, expected)
    assert verdict.error == pytest.approx(relative_error(found, expected), rel=1e-3)
