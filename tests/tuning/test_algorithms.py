"""Which algorithm is chosen: by latencies that are made up."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import pytest

from tests.models import TARGET
from tilewright.graph.convolution import ALGORITHMS, Convolution
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.runner import NoRunner
from tilewright.records.memory import MemoryStore
from tilewright.space.space import Configs, DesignSpace
from tilewright.task import WEIGHTS
from tilewright.tuning.algorithms import assume_algorithms, choose_algorithms, stages

SMALL = Convolution((1, 8, 8, 8), (16, 8, 3, 3), (1, 1), (1, 1, 1, 1), (8, 8))
LARGE = Convolution((1, 16, 12, 12), (16, 16, 3, 3), (1, 1), (1, 1, 1, 1), (8, 8))


@dataclass
class Table:
    """Milliseconds by the first word of a task's name; each call of ``measure`` takes a second."""

    milliseconds: dict[str, float]
    store: MemoryStore = field(default_factory=MemoryStore)
    now: float = 0.0
    measured: list[str] = field(default_factory=list)

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        if self.now >= deadline:
            return []
        self.now += 1.0
        name = space.task.name.split()[0]
        self.measured.append(name)
        result = []
        for number, row in enumerate(configs.tolist()):
            seconds = 1e-3 * self.milliseconds[name] * (1 + number)
            outcome = Outcome.OK if math.isfinite(seconds) else Outcome.RUN_CRASHED
            repeats = (seconds,) if math.isfinite(seconds) else ()
            result.append(Measurement(space.task.key, TARGET.key, space.template, tuple(row), outcome, repeats))
        self.store.add(result)
        return result

    def clock(self) -> float:
        return self.now


STAGED = {"conv2d": 1.0, "winograd": 0.1, "products": 0.3, "inverse": 0.1, "conv_winograd": 2.0}


def test_the_fastest_is_chosen_and_a_second_run_measures_nothing() -> None:
    table = Table(STAGED)
    choices, trials = choose_algorithms([(SMALL, 1), (LARGE, 2)], TARGET, table, table.store, 1e3, clock=table.clock)
    assert [c.convolution for c in choices] == [LARGE, SMALL]  # the heaviest first
    assert [c.count for c in choices] == [2, 1]
    assert trials > 0
    for choice in choices:
        assert choice.chosen == "winograd4"  # equal to the other, and earlier
        assert choice.seconds["direct"] == pytest.approx(1e-3)
        assert choice.seconds["winograd4"] == pytest.approx(0.5e-3)
    calls = len(table.measured)
    again, trials = choose_algorithms([(SMALL, 1), (LARGE, 2)], TARGET, table, table.store, 1e3, clock=table.clock)
    assert trials == 0
    assert len(table.measured) == calls
    assert [c.seconds for c in again] == [c.seconds for c in choices]


def test_one_function_beats_three_that_take_longer() -> None:
    table = Table({**STAGED, "conv_winograd": 0.4})
    choices, _ = choose_algorithms([(SMALL, 1)], TARGET, table, table.store, 1e3, clock=table.clock)
    assert choices[0].chosen == "fused_winograd4"
    assert choices[0].seconds["fused_winograd4"] == pytest.approx(0.4e-3)
    assert choices[0].seconds["winograd4"] == pytest.approx(0.5e-3)


def test_a_small_gain_is_not_worth_the_rounding() -> None:
    table = Table({**STAGED, "products": 0.78})
    choices, _ = choose_algorithms([(SMALL, 1)], TARGET, table, table.store, 1e3, clock=table.clock)
    assert choices[0].chosen == "direct"


def test_what_is_too_slow_already_is_not_measured_to_its_end() -> None:
    table = Table({**STAGED, "products": 2.0})
    choices, _ = choose_algorithms([(SMALL, 1)], TARGET, table, table.store, 1e3, clock=table.clock)
    assert choices[0].chosen == "direct"
    assert table.measured == ["conv2d", "conv_winograd", "conv_winograd", "products", "products"]


def test_an_algorithm_that_fails_is_not_chosen() -> None:
    table = Table({**STAGED, "inverse": math.nan, "conv_winograd": math.nan})
    choices, _ = choose_algorithms([(SMALL, 1)], TARGET, table, table.store, 1e3, clock=table.clock)
    assert choices[0].chosen == "direct"
    assert set(choices[0].seconds) == {"direct"}


def test_time_and_trials_end_the_choosing() -> None:
    table = Table(STAGED)
    choices, _ = choose_algorithms([(SMALL, 1), (LARGE, 1)], TARGET, table, table.store, 10.0, clock=table.clock)
    assert [(c.convolution, c.chosen) for c in choices] == [(LARGE, "winograd4"), (SMALL, "winograd4")]
    assert choices[1].seconds == {}  # the tenth second was the last: as the other one
    table = Table(STAGED)
    choices, trials = choose_algorithms(
        [(SMALL, 1)], TARGET, table, table.store, 1e3, most_trials=35, clock=table.clock
    )
    assert (choices, trials) == ([], 0)
    table = Table({**STAGED, "conv_winograd": math.nan})
    choices, _ = choose_algorithms([(SMALL, 1)], TARGET, table, table.store, 4.0, clock=table.clock)
    assert choices == []  # no time for more than some of the first other algorithm
    assert choose_algorithms([(SMALL, 1)], TARGET, table, MemoryStore(), 4.0, clock=table.clock) == ([], 0)


def test_a_convolution_without_a_time_leaves_the_choice_to_the_others() -> None:
    table = Table(STAGED)
    choose_algorithms([(SMALL, 1)], TARGET, table, table.store, 1e3, clock=table.clock)
    both = [(SMALL, 1), (LARGE, 2)]
    choices, trials = choose_algorithms(both, TARGET, NoRunner(), table.store, math.inf)
    assert trials == 0
    assert {c.convolution: bool(c.seconds) for c in choices} == {SMALL: True, LARGE: False}  # one as the other


def test_stages_are_tasks_of_their_templates() -> None:
    from tilewright.ops.registry import make_space
    from tilewright.space.module import task_module

    assert [t.kind for t in stages(SMALL, "direct")] == ["contraction"]
    for algorithm in ALGORITHMS[1:3]:
        tasks = stages(SMALL, algorithm)
        assert [t.kind for t in tasks] == ["contraction", "winograd", "winograd"]
        templates = [make_space(t, TARGET).template.partition("/")[0] for t in tasks]
        assert templates == ["contraction", "winograd_transform", "winograd_transform"]
    for algorithm in ALGORITHMS[3:]:
        (task,) = stages(SMALL, algorithm)
        assert task.kind == "winograd"
        assert make_space(task, TARGET).template.startswith("winograd/")
    heavy = [stages(SMALL, algorithm)[0] for algorithm in ALGORITHMS]
    assert all(task_module(task)["main"].attrs[WEIGHTS] == "1" for task in heavy)
    strided = dataclasses.replace(SMALL, stride=(2, 2))
    assert strided.algorithms == ("direct",)
    assert SMALL.algorithms == ALGORITHMS


@pytest.mark.parametrize(
    ("batch", "channels", "side", "gains"),
    [(16, 64, 56, True), (16, 128, 28, True), (16, 512, 7, True), (16, 16, 112, False), (1, 512, 7, False)],
)
def test_algorithms_are_assumed_by_arithmetic_and_traffic(batch: int, channels: int, side: int, gains: bool) -> None:
    """What was measured of ResNet-18 in training: half the time with 64 channels and more, and a batch of 16."""
    conv = Convolution((batch, channels, side, side), (channels, channels, 3, 3), (1, 1), (1, 1, 1, 1), (16, 16))
    strided = dataclasses.replace(conv, stride=(2, 2))
    assert assume_algorithms([conv, strided]) == ({conv: "winograd4"} if gains else {})
