"""The loop of one task, on toy spaces with known latencies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tests.toys import ToySpace, plain
from tests.tuning.replay import TABLE, TARGET, Clock, Latency, Replay, bowl, failing, task
from tilewright.errors import SpaceError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.methods.autotvm import autotvm, quick
from tilewright.methods.method import Method
from tilewright.methods.parts import combine
from tilewright.records.memory import MemoryStore
from tilewright.records.store import Query
from tilewright.space.configs import sample
from tilewright.space.space import Configs, DesignSpace
from tilewright.tuning.tuner import TaskTuner

METHODS = pytest.mark.parametrize(
    "method", [autotvm(steps=60), quick(), combine("random", "top")], ids=lambda m: m.name
)
SMALL = ToySpace(plain(4, 5, 6), lambda c: c.sum(axis=1) % 2 == 0, task=task("small"))


def tuner(
    store: MemoryStore, runner: Replay, space: ToySpace = TABLE, seed: int = 0, method: Method | None = None
) -> TaskTuner:
    rng = np.random.default_rng(seed)
    return TaskTuner(space, TARGET, runner, store, rng, method or quick(), clock=runner.clock)


def table(store: MemoryStore, clock: Clock | None = None) -> Replay:
    return Replay(store, {"toy": TABLE.seconds}, clock or Clock())


def test_finds_nearly_the_best_of_7398_in_160_trials() -> None:
    store = MemoryStore()
    runner = table(store)
    tuned = tuner(store, runner)
    for _ in range(10):
        tuned.round(16, math.inf)
    everything = sample(TABLE, np.random.default_rng(0), 10_000)
    assert tuned.best_seconds <= 1.1 * TABLE.seconds(everything).min()
    assert tuned.best_config is not None
    assert TABLE.seconds(tuned.best_config[None])[0] == pytest.approx(tuned.best_seconds)
    assert tuned.trials == 160 == len({config for _, config, _ in runner.log})
    assert [best for _, _, best in tuned.history] == sorted((best for _, _, best in tuned.history), reverse=True)


@pytest.mark.parametrize("searcher", ["random", "annealing", "genetic", "gbfs", "bayesian"])
@pytest.mark.parametrize("count", [2, 4])
def test_a_first_round_is_as_large_as_said_whoever_begins_with_the_default(searcher: str, count: int) -> None:
    store = MemoryStore()
    runner = table(store)
    tuner(store, runner, method=combine(searcher, "top")).round(count, math.inf)
    assert len(runner.log) == count


@METHODS
def test_the_default_is_first_and_the_best_so_far_is_passed_on(method: Method) -> None:
    store = MemoryStore()
    runner = table(store)
    tuned = tuner(store, runner, method=method)
    result = tuned.round(4, math.inf)
    assert runner.log[0] == ("toy", tuple(TABLE.default().tolist()), math.inf)
    assert result.before == math.inf
    assert result.after == tuned.best_seconds
    tuned.round(4, math.inf)
    assert [best for _, _, best in runner.log[4:]] == [result.after] * 4


@METHODS
def test_a_small_space_is_exhausted_with_each_config_measured_once(method: Method) -> None:
    store = MemoryStore()
    runner = Replay(store, {"small": bowl})
    tuned = tuner(store, runner, SMALL, method=method)
    for _ in range(20):
        tuned.round(7, math.inf)
    assert tuned.exhausted
    assert tuned.trials == 60 == len({config for _, config, _ in runner.log})


def test_records_are_learnt_and_not_measured_again() -> None:
    store = MemoryStore()
    first = tuner(store, table(store))
    for _ in range(4):
        first.round(16, math.inf)
    runner = table(store)
    second = tuner(store, runner, seed=1)
    assert second.recorded == 64
    assert second.best_seconds == first.best_seconds
    assert second.history == [(0, 0.0, first.best_seconds)]
    known = {m.config for m in store.scan(Query())}
    second.round(16, math.inf)
    assert second.best_seconds <= first.best_seconds
    assert second.trials == 16
    assert not known & {config for _, config, _ in runner.log}


def test_records_that_do_not_fit_the_space_are_passed_over() -> None:
    store = MemoryStore()
    ok = Measurement("small", TARGET.key, "toy/1", (0, 0, 0), Outcome.OK, (1.0,))
    rows: list[tuple[int, ...]] = [(0, 0), (0, 0, 0, 0), (0, 0, 6), (1, 0, 0), ()]
    others = [Measurement("small", TARGET.key, "toy/1", row, Outcome.OK, (1e-9,)) for row in rows]
    elsewhere = Measurement("small", "another machine", "toy/1", (1, 1, 0), Outcome.OK, (1e-9,))
    older = Measurement("small", TARGET.key, "toy/0", (1, 1, 0), Outcome.OK, (1e-9,))
    store.add([*others, ok, elsewhere, older])
    tuned = tuner(store, Replay(store, {"small": bowl}), SMALL)
    assert tuned.recorded == 1
    assert tuned.best_seconds == 1.0


@METHODS
def test_failures_are_counted_and_learnt(method: Method) -> None:
    store = MemoryStore()

    def half(configs: Configs) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.where(configs[:, 0] % 2 == 0, np.nan, bowl(configs))

    tuned = tuner(store, Replay(store, {"small": half}), SMALL, method=method)
    for _ in range(12):
        tuned.round(6, math.inf)
    assert tuned.failures == {Outcome.RUN_CRASHED: 30 + 2}  # two were tried again, in vain
    assert tuned.trials == 60 + 2
    assert tuned.best_config is not None
    assert tuned.best_config[0] % 2 == 1


@METHODS
def test_nothing_but_failures(method: Method) -> None:
    store = MemoryStore()
    tuned = tuner(store, Replay(store, {"toy": failing}), method=method)
    for _ in range(3):
        tuned.round(8, math.inf)
    assert tuned.best_config is None
    assert tuned.best_seconds == math.inf
    assert tuned.failures.total() == 24
    assert tuned.finalists().shape == (0, len(TABLE.knobs))


@METHODS
def test_equal_seeds_measure_equal_configs(method: Method) -> None:
    logs = []
    for _ in range(2):
        store = MemoryStore()
        runner = table(store)
        tuned = tuner(store, runner, seed=5, method=method)
        for _ in range(4):
            tuned.round(8, math.inf)
        logs.append(runner.log)
    assert logs[0] == logs[1]


def test_candidates_that_the_deadline_cut_off_are_measured_later() -> None:
    store = MemoryStore()
    runner = Replay(store, {"small": bowl})
    tuned = tuner(store, runner, SMALL)
    assert len(tuned.round(60, 5.0).measurements) == 5
    assert tuned.round(60, 5.0).measurements == ()
    assert not tuned.exhausted
    for _ in range(10):
        tuned.round(20, math.inf)
    assert tuned.trials == 60


def test_an_interrupted_round_keeps_a_second_try_that_worked() -> None:
    store = MemoryStore()
    latencies: dict[str, Latency] = {"toy": failing}
    runner = Replay(store, latencies, Clock())
    tuned = tuner(store, runner)
    tuned.round(16, math.inf)
    assert (failed := sum(tuned.failures.values())) > 0
    latencies["toy"] = TABLE.seconds  # whatever it was is over
    runner.interrupt_after = len(runner.log) + 1
    with pytest.raises(KeyboardInterrupt):
        tuned.round(16, math.inf)
    again = runner.log[-1][1]
    assert again in {m.config for m in store.scan(Query()) if not m.ok}
    assert np.isfinite(tuned.known(np.asarray([again], dtype=np.int32))).all()
    assert tuned.trials == 17
    assert sum(tuned.failures.values()) == failed


def test_an_interrupted_round_keeps_what_it_had_measured() -> None:
    store = MemoryStore()
    runner = table(store)
    runner.interrupt_after = 5
    tuned = tuner(store, runner)
    with pytest.raises(KeyboardInterrupt):
        tuned.round(16, math.inf)
    assert tuned.trials == 5
    assert tuned.best_seconds < math.inf


def test_without_a_racer_all_repeats_decide_and_are_no_trials() -> None:
    store = MemoryStore()
    lucky, steady, slow = (0, 0, 0), (0, 0, 2), (0, 0, 4)
    rows = [(lucky, (0.9,)), (steady, (1.0, 1.0)), (slow, (3.0,))]
    store.add([Measurement("small", TARGET.key, "toy/1", row, Outcome.OK, seconds) for row, seconds in rows])
    truth = {lucky: 1.2, steady: 0.8, slow: 0.1}
    runner = Replay(store, {"small": lambda c: np.asarray([truth[tuple(row)] for row in c.tolist()])})
    tuned = tuner(store, runner, SMALL)
    assert tuned.best_config is not None
    assert tuple(tuned.best_config.tolist()) == lucky
    assert tuned.race(3, math.inf) == 2  # the third is too slow to be in doubt
    assert tuple(tuned.best_config.tolist()) == steady
    assert tuned.trials == 0
    assert {best for _, _, best in runner.log} == {math.inf}


@dataclass
class Racing(Replay):
    """A runner that can race: what the race of a config gives."""

    blocks: dict[tuple[int, ...], tuple[float, ...]] = field(default_factory=dict)

    def race(self, space: DesignSpace, configs: Configs, deadline: float) -> list[Measurement]:
        rows = [tuple(row) for row in configs.tolist()]
        ok, crashed = Outcome.OK, Outcome.RUN_CRASHED
        found = [
            Measurement(
                space.task.key, TARGET.key, space.template, row, ok if self.blocks[row] else crashed, self.blocks[row]
            )
            for row in rows
            if row in self.blocks
        ]
        self.store.add(found)
        return found


def raced(
    blocks: dict[tuple[int, ...], tuple[float, ...]], earlier: dict[tuple[int, ...], tuple[float, ...]]
) -> TaskTuner:
    """A tuner that knows what was measured earlier, after a race."""
    store = MemoryStore()
    store.add([Measurement("small", TARGET.key, "toy/1", row, Outcome.OK, times) for row, times in earlier.items()])
    tuned = tuner(store, Racing(store, {"small": bowl}, blocks=blocks), SMALL)
    assert tuned.race(3, math.inf) == len(blocks)
    return tuned


LUCKY, STEADY, FOURTH = (0, 0, 0), (0, 0, 2), (1, 1, 0)
EARLIER: dict[tuple[int, ...], tuple[float, ...]] = {
    LUCKY: (0.5,) * 40,
    STEADY: (0.55,),
    (0, 1, 1): (0.56,),
    FOURTH: (0.57,),
}


def test_a_race_alone_decides_whatever_was_read_before() -> None:
    blocks: dict[tuple[int, ...], tuple[float, ...]] = {LUCKY: (1.2,) * 9, STEADY: (1.0,) * 9, (0, 1, 1): (0.9,) * 7}
    tuned = raced(blocks, EARLIER)
    assert tuned.best_config is not None
    # Not the one with the lucky readings, not the one that dropped out, and not the one that was not in the race.
    assert tuple(tuned.best_config.tolist()) == STEADY
    assert tuned.best_seconds == 1.0
    assert tuned.trials == 0
    assert tuned.known(np.asarray([LUCKY], dtype=np.int32))[0] == 1.2
    assert tuned.finalists(4, math.inf).tolist() == [list(row) for row in (STEADY, FOURTH, (0, 1, 1), LUCKY)]


def test_the_default_is_in_every_race_that_it_might_win() -> None:
    """Also where three others are faster by what was read of them."""
    earlier: dict[tuple[int, ...], tuple[float, ...]] = {
        STEADY: (0.55,),
        (0, 1, 1): (0.56,),
        FOURTH: (0.57,),
        LUCKY: (0.6,),
    }
    assert tuple(SMALL.default().tolist()) == LUCKY
    store = MemoryStore()
    store.add([Measurement("small", TARGET.key, "toy/1", row, Outcome.OK, times) for row, times in earlier.items()])
    blocks: dict[tuple[int, ...], tuple[float, ...]] = {row: (1.0 if row == LUCKY else 1.1,) * 9 for row in earlier}
    tuned = tuner(store, Racing(store, {"small": bowl}, blocks=blocks), SMALL)
    assert tuned.race(3, math.inf) == 4
    assert tuned.best_config is not None
    assert tuple(tuned.best_config.tolist()) == LUCKY


@dataclass
class Drifting(Replay):
    """A machine that is slower by a tenth until a moment, and tells by its anchors."""

    slow: int = 4

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        speed = 1.1 if len(self.log) < self.slow else 1.0
        found = super().measure(space, configs, best, deadline)
        default = float(bowl(np.asarray(space.default())[None])[0])
        return [replace(m, repeats=tuple(speed * s for s in m.repeats), anchor=speed * default) for m in found]


def test_rounds_of_a_slow_moment_are_compared_with_others_fairly() -> None:
    store = MemoryStore()
    tuned = tuner(store, Drifting(store, {"small": bowl}), SMALL)
    first = tuned.round(4, math.inf)
    assert first.after == pytest.approx(1.1 * bowl(np.asarray([m.config for m in first.measurements])).min())
    second = tuned.round(4, math.inf)
    # What the task gained is what the search has found, not that the machine became faster.
    assert second.before == pytest.approx(first.after / 1.1)
    rows = np.asarray([m.config for m in (*first.measurements, *second.measurements)], dtype=np.int32)
    assert tuned.known(rows) == pytest.approx(bowl(rows))


def test_only_a_later_measurement_beats_the_winner_of_a_race() -> None:
    tuned = raced({LUCKY: (1.2,) * 9, STEADY: (1.0,) * 9}, EARLIER)
    tuned.suggest(np.asarray([[3, 3, 4]], dtype=np.int32))
    result = tuned.round(2, math.inf)
    assert result.before == 1.0
    assert tuned.best_seconds == pytest.approx(bowl(np.asarray([[3, 3, 4]], dtype=np.int32))[0])


def test_a_racer_that_fails_leaves_the_others_their_race() -> None:
    tuned = raced({LUCKY: (1.2,) * 9, STEADY: (), (0, 1, 1): (1.0,) * 9}, EARLIER)
    assert tuned.best_config is not None
    assert tuple(tuned.best_config.tolist()) == (0, 1, 1)


@pytest.mark.parametrize("blocks", [{}, {LUCKY: (1.2,) * 9}])
def test_a_race_without_rivals_decides_nothing(blocks: dict[tuple[int, ...], tuple[float, ...]]) -> None:
    tuned = raced(blocks, EARLIER)
    assert tuned.best_config is not None
    assert tuple(tuned.best_config.tolist()) == LUCKY
    assert tuned.best_seconds == 0.5


def test_a_wrong_result_disqualifies_even_a_config_that_once_worked() -> None:
    store = MemoryStore()
    row = (0, 0, 0)
    store.add([Measurement("small", TARGET.key, "toy/1", row, Outcome.OK, (1.0,))])
    store.add([Measurement("small", TARGET.key, "toy/1", row, Outcome.WRONG_RESULT)])
    assert tuner(store, Replay(store, {}), SMALL).best_config is None


@METHODS
def test_suggestions_come_after_the_default_and_before_proposals(method: Method) -> None:
    store = MemoryStore()
    runner = table(store)
    tuned = tuner(store, runner, method=method)
    wanted = sample(TABLE, np.random.default_rng(9), 5)
    assert tuned.suggest(wanted) == 5
    assert tuned.suggest(wanted[:2]) == 5
    tuned.round(3, math.inf)
    tuned.round(8, math.inf)
    rows = [config for _, config, _ in runner.log]
    assert rows[:6] == [tuple(TABLE.default().tolist()), *map(tuple, wanted.tolist())]
    assert len(set(rows)) == 11
    assert (tuned.known(wanted) == TABLE.seconds(wanted)).all()
    assert tuned.suggest(wanted) == 0
    assert np.isnan(tuned.known(sample(TABLE, np.random.default_rng(8), 1))).all()


def test_suggestions_that_are_invalid_or_measured_are_passed_over() -> None:
    store = MemoryStore()
    store.add([Measurement("small", TARGET.key, "toy/1", (0, 0, 2), Outcome.OK, (1.0,))])
    runner = Replay(store, {"small": bowl})
    tuned = tuner(store, runner, SMALL)
    assert tuned.suggest(np.asarray([[1, 0, 0], [0, 0, 2], [1, 1, 0], [1, 1, 0]], dtype=np.int32)) == 1
    tuned.round(2, math.inf)
    assert [config for _, config, _ in runner.log] == [(0, 0, 0), (1, 1, 0)]
    with pytest.raises(SpaceError, match="shape"):
        tuned.suggest(np.zeros((1, 2), dtype=np.int32))
    with pytest.raises(SpaceError, match="indices"):
        tuned.suggest(np.full((1, 3), 9, dtype=np.int32))


def test_suggestions_that_the_deadline_cut_off_are_measured_next() -> None:
    store = MemoryStore()
    runner = table(store)
    tuned = tuner(store, runner)
    wanted = sample(TABLE, np.random.default_rng(9), 4)
    tuned.suggest(wanted)
    tuned.round(5, 2.0)
    tuned.round(4, math.inf)
    rows = [config for _, config, _ in runner.log]
    assert rows[1:5] == list(map(tuple, wanted.tolist()))
    assert len(set(rows)) == 6


def test_a_small_space_with_suggestions_is_exhausted_with_each_config_measured_once() -> None:
    store = MemoryStore()
    runner = Replay(store, {"small": bowl})
    tuned = tuner(store, runner, SMALL)
    for seed in range(20):
        tuned.suggest(sample(SMALL, np.random.default_rng(seed), 3))
        tuned.round(7, math.inf)
    assert tuned.exhausted
    assert tuned.trials == 60 == len({config for _, config, _ in runner.log})
