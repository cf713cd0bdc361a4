"""A model that tasks share: believed while it ranks tasks that it has not seen, never by a task's own measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.toys import TableSpace
from tilewright.cost.features import itervar_features
from tilewright.cost.model import KnobTable, Programs
from tilewright.cost.ranking import pairwise_accuracy
from tilewright.cost.shared import SharedModel
from tilewright.space.configs import sample
from tilewright.space.loop_nest import LoopNest

SPACE = TableSpace()


class Opinion:
    """A model that scores programs by a function of their latencies, and never learns."""

    ready = True

    def __init__(self, opinion: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        configs = sample(SPACE, np.random.default_rng(0), 1 << 20)
        names = [row.tobytes() for row in itervar_features(SPACE.loop_nest(configs))]
        self._scores = dict(zip(names, opinion(SPACE.seconds(configs)), strict=True))

    def fit(self, programs: Sequence[Programs], seconds: Sequence[NDArray[np.float64]]) -> None:
        raise AssertionError("what was known beforehand is not changed")

    def predict(self, programs: Programs) -> NDArray[np.float64]:
        assert isinstance(programs, LoopNest)
        return np.asarray([self._scores[row.tobytes()] for row in itervar_features(programs)])


def measured(seed: int, count: int = 12, scale: float = 1.0) -> tuple[LoopNest, NDArray[np.float64]]:
    configs = sample(SPACE, np.random.default_rng(seed), count)
    return SPACE.loop_nest(configs), scale * SPACE.seconds(configs)


def taught(model: SharedModel, tasks: int = 12) -> SharedModel:
    for number in range(tasks):
        programs, seconds = measured(number, scale=1.0 + number)
        model.of(f"task{number}").fit([programs], [seconds])
    return model


def accuracy(model: SharedModel, task: str) -> float:
    programs, seconds = measured(1000, 400)
    return pairwise_accuracy(model.predict(task, programs), seconds)


def test_it_knows_nothing_until_it_was_taught() -> None:
    model = SharedModel()
    assert not model.ready
    assert not model.of("task").ready
    assert model.of("task").predict(measured(0)[0]).tolist() == [0.0] * 12
    assert np.isnan(model.gained)


def test_what_tasks_measure_is_a_model_for_one_that_measured_nothing() -> None:
    model = taught(SharedModel())
    assert model.believed
    assert model.ready
    assert model.gained > 0.1
    assert accuracy(model, "another") > 0.7
    assert accuracy(model, "task0") > 0.7


def test_a_model_that_is_wrong_here_is_corrected() -> None:
    model = taught(SharedModel(Opinion(lambda seconds: seconds)))
    assert model.believed
    assert accuracy(model, "another") > 0.7


def test_a_model_that_is_right_stays_as_it_is() -> None:
    right = Opinion(lambda seconds: -seconds)
    model = taught(SharedModel(right))
    assert not model.believed
    programs, _ = measured(1000, 50)
    np.testing.assert_array_equal(model.predict("another", programs), right.predict(programs))


def test_a_correction_that_stops_proving_itself_is_dropped() -> None:
    model = taught(SharedModel())
    assert model.believed
    rng = np.random.default_rng(0)
    for number in range(12):  # from now on latencies have nothing to do with programs
        programs, seconds = measured(100 + number, 100)
        model.teach(f"task{number}", programs, rng.permutation(seconds))
    assert not model.believed


def test_a_task_is_not_scored_by_its_own_measurements() -> None:
    programs, seconds = measured(2000, 60)
    one, other = SharedModel(), SharedModel()
    for model, own in ((one, seconds), (other, seconds[::-1])):
        model.of("mine")
        for number in range(12):
            model.teach(f"task{number}", *measured(number))
        model.teach("mine", programs, own)
    np.testing.assert_array_equal(one.predict("mine", programs), other.predict("mine", programs))


@pytest.mark.parametrize("seconds", [[np.nan] * 12, [1.0, *[np.nan] * 11], []], ids=["failed", "one", "none"])
def test_what_teaches_nothing_is_passed_over(seconds: list[float]) -> None:
    model = taught(SharedModel(), 5)
    for number in range(5, 12):
        programs = SPACE.loop_nest(sample(SPACE, np.random.default_rng(number), len(seconds)))
        model.teach(f"task{number}", programs, np.asarray(seconds, dtype=np.float64))
    assert not model.believed


def test_programs_without_a_closed_form_take_no_part() -> None:
    table = KnobTable(np.ones((12, 3), dtype=np.float32))
    model = SharedModel(Opinion(lambda seconds: -seconds))
    model.teach("task", table, np.ones(12))
    assert model.predict("task", table).tolist() == [0.0] * 12


def test_the_same_lessons_give_the_same_scores() -> None:
    programs, _ = measured(1000, 50)
    np.testing.assert_array_equal(
        taught(SharedModel()).predict("x", programs), taught(SharedModel()).predict("x", programs)
    )
