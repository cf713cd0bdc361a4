"""Whether one function computes an attention, or a pair of convolutions: by latencies that are made up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.graph.test_expansions import inverted_residual
from tests.graph.test_tokens import attention
from tests.models import TARGET, read
from tests.tuning.test_algorithms import Table
from tilewright.graph.expansions import Joint
from tilewright.graph.tasks import Extraction, extract
from tilewright.measure.runner import NoRunner
from tilewright.ops import make_space
from tilewright.ops.attention import Attention
from tilewright.records.memory import MemoryStore
from tilewright.task import Task
from tilewright.tuning.joining import JoinChoice, choose_joined, joined_task
from tilewright.tuning.ways import choose_ways, recorded_ways


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


@pytest.mark.parametrize(("one", "joined"), [(1.0, True), (1.99, False)])
def test_a_pair_of_convolutions_is_chosen_like_an_attention(one: float, joined: bool, tmp_path: Path) -> None:
    extraction = extract(read(inverted_residual(tmp_path / "m.onnx", 8, 32)), TARGET)
    ((form, _),) = extraction.joints
    table = Table({task.name.split()[0]: 1.0 for task in form.several} | {"expansion": one})
    ways = choose_ways(extraction, TARGET, table, table.store, math.inf)
    (choice,) = ways.choices
    assert choice.report().conv == str(form)
    assert choice.report().chosen == ("one_function" if joined else "several")
    assert ways.joined == ({form} if joined else set())
    assert ("expansion" in {use.task.kind for use in ways.apply(extraction).uses}) is joined
    # The records alone say the same, as for `tilewright tasks`.
    assert recorded_ways(extraction, TARGET, table.store).joined == ways.joined


def test_another_kind_is_no_example(extraction: Extraction, tmp_path: Path) -> None:
    """What there is no time to measure is computed as something of its kind, or by several functions."""
    pairs = extract(read(inverted_residual(tmp_path / "m.onnx", 8, 32)), TARGET)
    ((attention_form, _),) = extraction.attentions
    ((pair, _),) = pairs.joints
    table = times(extraction, 1.0, 1.0)
    table.milliseconds |= {"expansion": 1.0} | {task.name.split()[0]: 1.0 for task in pair.several}

    def separate(form: Attention | Joint) -> tuple[Task, ...]:
        return form.several if isinstance(form, Joint) else extraction.separate_tasks(form)

    forms: list[tuple[Attention | Joint, int]] = [(attention_form, 1000), (pair, 1)]
    choices, _ = choose_joined(forms, separate, TARGET, table, table.store, 3.0, clock=table.clock)
    assert [choice.form for choice in choices] == [attention_form]
