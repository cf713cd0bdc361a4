"""The agreement of two tasks' rankings, as a measure of their similarity."""

from __future__ import annotations

import numpy as np
import pytest

from bench._agreement import RankingAgreement, Recorded, ranking_agreement
from tests.toys import TableSpace, ToySpace
from tests.tuning.replay import task
from tilewright.share.similarity import overlap, similarity_matrix
from tilewright.space.configs import sample

TABLE = TableSpace()


def recorded(sign: float, seed: int = 0) -> Recorded:
    configs = sample(TABLE, np.random.default_rng(seed), 300)
    return Recorded(TABLE.knobs, configs, np.exp(sign * np.log(TABLE.seconds(configs))))


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
