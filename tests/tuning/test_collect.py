from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.space.test_contraction import target, task
from tilewright.measure.outcome import Measurement, Outcome, robust_seconds
from tilewright.records.memory import MemoryStore
from tilewright.space.configs import sample
from tilewright.space.registry import make_space
from tilewright.task import Task
from tilewright.tuning.collect import collect

DENSE = replace(task("dense 5"), key="dense", name="dense 5")
TARGET = target()
SPACE = make_space(DENSE, TARGET)
CONFIGS = sample(SPACE, np.random.default_rng(0), 6)


def measured(row: int, *repeats: float, outcome: Outcome = Outcome.OK) -> Measurement:
    config = tuple(CONFIGS[row].tolist())
    return Measurement("dense", TARGET.key, SPACE.template, config, outcome, repeats, time=1.7e9)


def store_of(*measurements: Measurement) -> MemoryStore:
    store = MemoryStore()
    store.add(measurements)
    return store


def test_programs_and_latencies() -> None:
    crashed = measured(2, outcome=Outcome.RUN_CRASHED)
    store = store_of(measured(0, 1.0, 2.0), measured(1, 3.0), crashed)
    data = collect(store, [DENSE], TARGET, {"dense": ["bert", "albert"]}, "a command")
    (found,) = data.tasks
    assert (found.task, found.name, found.flop) == ("dense", "dense 5", DENSE.flop)
    assert (found.networks, found.target, found.template) == (("albert", "bert"), TARGET.key, SPACE.template)
    assert (found.configs == CONFIGS[:3]).all()
    np.testing.assert_array_equal(found.seconds, [robust_seconds((1.0, 2.0)), 3.0, np.nan])
    assert (found.nest.touched == SPACE.loop_nest(CONFIGS[:3]).touched).all()
    assert data.about["date"] == "2023-11-14"
    assert data.about["command"] == "a command"
    target = data.about["target"]
    assert isinstance(target, dict)
    assert target["mcpu"] == "core-avx2"


def test_a_config_counts_once_with_all_its_repeats() -> None:
    store = store_of(measured(0, 1.0), measured(1, 5.0), measured(0, 2.0, 3.0))
    (found,) = collect(store, [DENSE], TARGET).tasks
    assert found.seconds.tolist() == [robust_seconds((1.0, 2.0, 3.0)), 5.0]


def test_a_failure_beside_a_latency_and_a_wrong_result() -> None:
    store = store_of(
        measured(0, 1.0), measured(0, outcome=Outcome.RUN_TIMED_OUT),
        measured(1, 1.0), measured(1, outcome=Outcome.WRONG_RESULT), measured(1, 1.0),
        measured(2, 0.1, outcome=Outcome.WRONG_RESULT), measured(3, 0.1, outcome=Outcome.RUN_CRASHED),
    )  # fmt: skip
    (found,) = collect(store, [DENSE], TARGET).tasks
    np.testing.assert_array_equal(found.seconds, [1.0, np.nan, np.nan, np.nan])


def test_rows_that_are_not_of_the_space_are_left_out() -> None:
    good = [measured(0, 1.0), measured(1, 2.0)]
    knobs = len(SPACE.knobs)
    odd = [(1,), (), (10**6,) * knobs, (0,) * (knobs + 1)]
    store = store_of(*good, *(replace(good[0], config=config) for config in odd))
    store.add([replace(measured(2, 1.0), template="contraction/0"), replace(measured(3, 1.0), target="another")])
    (found,) = collect(store, [DENSE], TARGET).tasks
    assert (found.configs == CONFIGS[:2]).all()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_programs(count: int) -> None:
    store = store_of(*[measured(0, 1.0)] * count)
    assert collect(store, [DENSE], TARGET).tasks == ()
    store.add([replace(measured(0, 1.0), config=(10**6,) * len(SPACE.knobs))] * 2)
    assert collect(store, [DENSE], TARGET).tasks == ()


def test_tasks_without_a_closed_form_or_a_function() -> None:
    tasks = [replace(DENSE, key="auto", kind="auto"), Task("broken", "broken", "contraction", 1.0, "{"), DENSE]
    store = store_of(measured(0, 1.0), measured(1, 2.0))
    for key in ("auto", "broken"):
        store.add([replace(measured(0, 1.0), task=key), replace(measured(1, 1.0), task=key)])
    assert [found.task for found in collect(store, tasks, TARGET).tasks] == ["dense"]


@pytest.mark.parametrize("time", [1e300, -1e300, 0.0])
def test_times_that_no_calendar_has(time: float) -> None:
    store = store_of(replace(measured(0, 1.0), time=time), replace(measured(1, 1.0), time=time))
    assert collect(store, [DENSE], TARGET).about["date"] in ("9999-12-31", "1970-01-01")
