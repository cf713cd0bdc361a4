"""Whether one function computes an attention: by latencies that are made up."""

from __future__ import annotations

import math

import pytest

from tests.graph.test_tokens import attention
from tests.models import TARGET, read
from tests.tuning.test_algorithms import Table
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.runner import NoRunner
from tilewright.ops import make_space
from tilewright.records.memory import MemoryStore
from tilewright.tuning.joining import JoinChoice, choose_joined, joined_task


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    return extract(read(attention(path, 1, 24, 2, 16, masked=True, one=True)), TARGET)


def choose(
    extraction: Extraction, table: Table, deadline: float = 1e3, most: float = math.inf
) -> tuple[list[JoinChoice], int]:
    return choose_joined(
        extraction.attentions,
        extraction.separate_tasks,
        TARGET,
        table,
        table.store,
        deadline,
        most_trials=most,
        clock=table.clock,
    )


def times(extraction: Extraction, one: float, each: float) -> Table:
    ((form, _),) = extraction.attentions
    names = {task.name.split()[0] for task in extraction.separate_tasks(form)}
    return Table(dict.fromkeys(names, each) | {"attention": one})


@pytest.mark.parametrize(("one", "joined"), [(1.0, True), (2.95, False), (4.0, False)])
def test_one_function_must_be_faster(extraction: Extraction, one: float, joined: bool) -> None:
    table = times(extraction, one, 1.0)
    (choice,), trials = choose(extraction, table)
    assert choice.joined is joined
    assert trials > 0
    assert choice.report().chosen == ("one_function" if joined else "several")
    assert choice.report().milliseconds["one_function"] == pytest.approx(one)
    # What is on record is not measured again.
    table.measured.clear()
    (again,), trials = choose(extraction, table)
    assert (again.joined, trials, table.measured) == (joined, 0, [])


def test_several_functions_are_not_measured_further_than_they_have_lost(extraction: Extraction) -> None:
    table = times(extraction, 1.0, 2.0)
    (choice,), _ = choose(extraction, table)
    assert choice.joined
    assert len(table.measured) == 2


def test_without_time_nothing_is_chosen(extraction: Extraction) -> None:
    table = times(extraction, 1.0, 1.0)
    assert choose(extraction, table, deadline=0.0) == ([], 0)
    assert choose(extraction, table, most=7) == ([], 0)
    assert choose(extraction, table, deadline=2.0)[0] == []  # the several functions have not lost
    table.store = MemoryStore()


def test_records_of_the_one_function_alone_choose_nothing(extraction: Extraction) -> None:
    ((form, _),) = extraction.attentions
    table = times(extraction, 1.0, 1.0)
    space = make_space(joined_task(form), TARGET)
    table.measure(space, space.default()[None], math.inf, math.inf)
    (choice,), trials = choose_joined(
        extraction.attentions, extraction.separate_tasks, TARGET, NoRunner(), table.store, math.inf
    )
    assert (choice.joined, choice.seconds, trials) == (False, {}, 0)


def test_a_function_that_fails_is_not_chosen(extraction: Extraction) -> None:
    (choice,), _ = choose(extraction, times(extraction, math.inf, 1.0))
    assert not choice.joined
