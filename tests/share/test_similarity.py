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
    RankingAgreement,
    Recorded,
    overlap,
    ranking_agreement,
    similarity_matrix,
)
from tilewright.space.configs import sample
from tilewright.space.knob import ChoiceKnob, Knob, OrderKnob, SplitKnob

TABLE = TableSpace()
MEASURES = pytest.mark.parametrize("measure", [overlap, ProgramLikeness(16)], ids=["overlap", "likeness"])


def space(*knobs: Knob, key: str = "a", template: str = "toy/1") -> ToySpace:
    return ToySpace(knobs, task=task(key), template=template)


def recorded(sign: float, seed: int = 0) -> Recorded:
    configs = sample(TABLE, np.random.default_rng(seed), 300)
    return Recorded(TABLE.knobs, configs, np.exp(sign * np.log(TABLE.seconds(configs))))


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


def test_equal_rankings_agree_and_opposite_ones_do_not() -> None:
    assert ranking_agreement(recorded(1.0), recorded(1.0, 1)) > 0.5
    assert ranking_agreement(recorded(1.0), recorded(-1.0, 1)) < -0.5
    assert ranking_agreement(recorded(1.0), recorded(1.0)) == pytest.approx(1.0, abs=0.1)


def test_agreement_knows_nothing_of_failures_ties_and_other_knobs() -> None:
    one, other = recorded(1.0), recorded(1.0, 1)
    assert ranking_agreement(one, Recorded(TABLE.knobs, one.configs, np.full(300, np.nan))) == 0.0
    assert ranking_agreement(one, Recorded(TABLE.knobs, one.configs, np.ones(300))) == 0.0
    assert ranking_agreement(one, Recorded(TABLE.knobs[1:], one.configs[:, 1:], one.seconds)) == 0.0
    some = Recorded(TABLE.knobs, other.configs, np.where(np.arange(300) % 3 == 0, np.nan, other.seconds))
    assert ranking_agreement(one, some) > 0.5


def test_agreement_as_a_measure_takes_the_usual_where_there_are_no_records() -> None:
    spaces = [ToySpace(TABLE.knobs, task=task(key)) for key in "abcd"]
    records = {"a": recorded(1.0), "b": recorded(-1.0, 1), "c": recorded(1.0, 2)}
    matrix = similarity_matrix(spaces, RankingAgreement(records, overlap))
    assert matrix[0, 1] == matrix[1, 2] == 0.0
    assert matrix[0, 2] > 0.5 > matrix[0, 3] == matrix[1, 3] > 0.0
    few = RankingAgreement(records, overlap, least=301)
    assert few(spaces[0], spaces[1]) == few(spaces[0], spaces[3])


def test_agreement_as_a_measure_asks_the_programs_as_well() -> None:
    tables = [ToySpace(TABLE.knobs, task=task("a")), ToySpace(TABLE.knobs, task=task("b"), template="toy/2")]
    assert RankingAgreement({"a": recorded(1.0), "b": recorded(1.0, 1)})(*tables) == 0.0
