"""Measures of similarity: what is published, and what ours can tell that it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.space.strategies import Recipe, recipes
from tests.toys import TableSpace, ToySpace, plain
from tests.tuning.replay import task
from tilewright.share.similarity import (
    Measure,
    ProgramLikeness,
    overlap,
    similarity_matrix,
)
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob

TABLE = TableSpace()
MEASURES = pytest.mark.parametrize("measure", [overlap, ProgramLikeness(16)], ids=["overlap", "likeness"])


def space(*knobs: Knob, key: str = "a", template: str = "toy/1") -> ToySpace:
    return ToySpace(knobs, task=task(key), template=template)


def test_overlap_is_the_product_of_the_jaccard_indices() -> None:
    one = space(ChoiceKnob.of("u", [1, 2, 4]), ChoiceKnob.of("p", [0, 1]))
    other = space(ChoiceKnob.of("u", [2, 4, 8, 16]), ChoiceKnob.of("p", [1, 2]))
    assert overlap(one, other) == pytest.approx(2 / 5 * 1 / 3)


def test_overlap_of_splits_leaves_the_outermost_factor_out() -> None:
    half, whole = SplitKnob.exact("tile", 8, 2), SplitKnob.exact("tile", 16, 2)
    assert overlap(space(half), space(whole)) == pytest.approx(4 / 5)  # 1, 2, 4, 8 and 16 inside


@MEASURES
def test_other_templates_and_other_knobs_have_nothing_in_common(measure: Measure) -> None:
    one = space(ChoiceKnob.of("u", [1, 2]))
    assert measure(one, space(ChoiceKnob.of("u", [1, 2]), key="b", template="toy/2")) == 0.0
    assert measure(one, space(ChoiceKnob.of("v", [1, 2]), key="c")) == 0.0
    assert measure(one, space(OrderKnob.of("u", [(0,), (1,)]), key="d")) == 0.0
    assert measure(one, space(*plain(2, 2), key="e")) == 0.0


@MEASURES
@given(st.lists(recipes(200), min_size=1, max_size=4))
def test_the_matrix_is_symmetric_with_ones_on_the_diagonal(measure: Measure, drawn: list[Recipe]) -> None:
    spaces = [ToySpace(r.space().knobs, r.space().constraint, r.space().start, task(f"{r}")) for r in drawn]
    matrix = similarity_matrix(spaces, measure)
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 1).all()
    assert ((matrix >= 0) & (matrix <= 1)).all()
    # Of a task and itself the measure says the same as the diagonal.
    assert measure(spaces[0], spaces[0]) == pytest.approx(1.0)


def test_likeness_falls_as_programs_differ() -> None:
    spaces = [space(SplitKnob.exact("tile", extent, 2), key=str(extent)) for extent in (64, 128, 4096)]
    near, far = ProgramLikeness()(spaces[0], spaces[1]), ProgramLikeness()(spaces[0], spaces[2])
    assert 0.0 < far < near < 1.0


def test_likeness_of_programs_in_closed_form_is_of_their_features() -> None:
    assert ProgramLikeness(8)(TABLE, TableSpace()) == 1.0


@given(st.permutations(range(4)))
def test_likeness_does_not_depend_on_the_order_of_questions(order: list[int]) -> None:
    spaces = [space(SplitKnob.exact("tile", extent, 2), key=str(extent)) for extent in (6, 8, 60, 64)]
    asked = similarity_matrix([spaces[i] for i in order], ProgramLikeness(8))
    assert (asked == similarity_matrix(spaces, ProgramLikeness(8))[np.ix_(order, order)]).all()
