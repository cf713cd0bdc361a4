"""How a budget is divided: as values, without a network."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tilewright.tuning.budget import Budget
from tilewright.tuning.budget_plan import Facts, in_place_seconds, plan_budget, race_reserve, reference_seconds

#: A network like ResNet-50.
FACTS = Facts(
    read_seconds=4.0,
    incumbent_seconds=8.0,
    extract_seconds=2.0,
    compile_seconds=5.0,
    tasks=36,
    weight_bytes=100_000_000,
    run_seconds=0.08,
    chooses=True,
    places=True,
)


def test_five_minutes_are_divided_whole() -> None:
    plan = plan_budget(Budget(seconds=300.0), FACTS)
    steps = dict(plan.steps())
    assert sum(step.seconds for step in steps.values()) == pytest.approx(300.0)
    assert list(steps) == [
        "reading",
        "incumbent",
        "algorithms",
        "rounds",
        "finalists",
        "in place",
        "checking",
        "race",
        "runtime",
        "writing",
    ]
    assert plan.algorithms.seconds == pytest.approx(33.0)
    assert plan.in_place.seconds == in_place_seconds(Budget(seconds=300.0)) == pytest.approx(18.0)
    assert plan.checking.seconds == pytest.approx(9.0)
    assert plan.writing.seconds == pytest.approx(2.0 + 4.0 + 1.3 * 5.0)
    assert plan.rounds.seconds > 150.0
    assert plan.after_rounds == pytest.approx(18.0 + 9.0 + plan.race.seconds + 12.5)


def test_a_race_against_onnx_runtime_takes_its_seconds_from_the_rounds() -> None:
    without = plan_budget(Budget(seconds=300.0), FACTS)
    plan = plan_budget(Budget(seconds=300.0), replace(FACTS, races_runtime=True))
    assert without.runtime.seconds == 0.0
    assert 4.0 < plan.runtime.seconds < 10.0
    assert plan.rounds.seconds == pytest.approx(without.rounds.seconds - plan.runtime.seconds)


def test_a_plan_is_printed_with_its_reasons() -> None:
    lines = str(plan_budget(Budget(seconds=300.0), FACTS)).splitlines()
    assert lines[0] == "reading        4.0 s  spent: reading the network and cutting it into tasks"
    assert lines[5] == "in place      18.0 s  6 % of the budget"
    assert len(lines) == 10
    assert "rounds      no limit  what the other steps leave" in str(plan_budget(Budget(trials=100), FACTS))


def test_a_short_budget_is_not_spent_on_comparisons() -> None:
    plan = plan_budget(Budget(seconds=40.0), FACTS)
    assert (plan.race.seconds, plan.in_place.seconds) == (0.0, 0.0)
    assert "less than 4 times" in plan.race.why
    spent = plan_budget(Budget(seconds=5.0), FACTS)
    assert (spent.rounds.seconds, spent.algorithms.seconds) == (0.0, 0.0)


def test_what_a_network_cannot_use_takes_no_time() -> None:
    plan = plan_budget(Budget(seconds=300.0), replace(FACTS, chooses=False, places=False))
    assert (plan.algorithms.seconds, plan.in_place.seconds) == (0.0, 0.0)
    assert plan.algorithms.why == "no convolution or attention of the network has a choice"
    unknown = plan_budget(Budget(seconds=300.0), replace(FACTS, run_seconds=math.inf))
    assert unknown.race.seconds == 0.0


def test_trials_limit_the_choice_of_algorithms_too() -> None:
    assert plan_budget(Budget(trials=500), FACTS).most_algorithm_trials == pytest.approx(50)
    assert math.isinf(plan_budget(Budget(seconds=60.0), FACTS).most_algorithm_trials)


@pytest.mark.parametrize(("seconds", "expected"), [(30.0, 8.0), (180.0, 9.0), (300.0, 10.0), (None, 10.0)])
def test_inputs_to_judge_on_have_a_twentieth_of_the_budget_within_bounds(seconds: float, expected: float) -> None:
    assert reference_seconds(Budget(seconds=seconds, trials=9)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("run", "seconds", "reserve"),
    [
        (0.5, 600.0, 23.0),  # ten turns of two executables, each of which runs twice, and 3 s until they are there
        (2.0, 300.0, 30.0),  # the same would take 43 s: a tenth of the budget
        (5.0, 300.0, 33.0),  # three turns, which take more; nothing is warmed up any more
        (5.0, None, 103.0),  # ten
    ],
)
def test_the_final_race_takes_a_tenth_of_the_budget_or_three_turns(
    run: float, seconds: float | None, reserve: float
) -> None:
    assert race_reserve(run, Budget(seconds=seconds, trials=9)) == pytest.approx(reserve)
