"""Recorded tables keep what was measured, and replay it behind the interfaces of the real things."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from bench.replay import Clock, RecordedModel, ReplayRunner, ReplaySpace, Table, read, replay_store, write
from tests.toys import TableSpace
from tilewright.cost.xgb import XGBoostModel
from tilewright.errors import RecordsError, SpaceError
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records.store import Query
from tilewright.space.configs import sample
from tilewright.space.loop_nest import LoopNest

SPACE = TableSpace()


def made(count: int = 300) -> Table:
    """Some configs of the toy table: one in 17 failed, the fast ones were measured twice."""
    configs = sample(SPACE, np.random.default_rng(0), count)
    seconds = SPACE.seconds(configs)
    failed = np.arange(count) % 17 == 3
    fast = seconds < 1.3 * seconds[~failed].min()
    return Table(
        name="toy",
        task=SPACE.task,
        target="machine",
        template=SPACE.template,
        knobs=SPACE.knobs,
        default=SPACE.default(),
        configs=configs,
        outcomes=tuple(Outcome.RUN_CRASHED if f else Outcome.OK for f in failed),
        repeats=tuple(
            () if f else ((1.1 * s, 1.2 * s), (1.02 * s,)) if again else ((s,),)
            for f, s, again in zip(failed.tolist(), seconds.tolist(), fast.tolist(), strict=True)
        ),
        elapsed=np.full(count, 0.25),
        overlap=0.5,
        nest=SPACE.loop_nest(configs),
        about={"date": "2026-11-23"},
    )


@pytest.fixture(scope="module")
def table() -> Table:
    return made()


def test_a_file_keeps_everything(table: Table, tmp_path: Path) -> None:
    write(table, tmp_path / "new" / "toy.parquet")
    again = read(tmp_path / "new" / "toy.parquet")
    for name in ("name", "task", "target", "template", "knobs", "outcomes", "overlap", "about"):
        assert getattr(again, name) == getattr(table, name), name
    assert [type(knob) for knob in again.knobs] == [type(knob) for knob in table.knobs]
    np.testing.assert_array_equal(again.configs, table.configs)
    np.testing.assert_array_equal(again.default, table.default)
    np.testing.assert_allclose(again.seconds, table.seconds, rtol=1e-6)
    np.testing.assert_array_equal(again.fastest, table.fastest)
    for field in fields(LoopNest):
        np.testing.assert_array_equal(getattr(again.nest, field.name), getattr(table.nest, field.name))


@pytest.mark.parametrize("content", [b"", b"no table", b"PAR1 cut off"])
def test_a_file_that_is_no_table_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(RecordsError, match=r"a recorded table is a file that bench\.record wrote"):
        read(tmp_path / "x.parquet")


def test_another_parquet_file_is_an_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(RecordsError, match="a recorded table is a file"):
        read(tmp_path / "x.parquet")


def test_only_recorded_configs_are_valid(table: Table) -> None:
    space = ReplaySpace(table)
    assert space.valid(table.configs).all()
    every = sample(SPACE, np.random.default_rng(1), 10_000)
    assert int(space.valid(every).sum()) == len(table)
    np.testing.assert_array_equal(table.find(table.configs), np.arange(len(table)))
    with pytest.raises(SpaceError, match="no programs"):
        space.schedule(table.configs[0])


def test_the_closed_form_is_the_recorded_one(table: Table) -> None:
    rows = table.configs[[5, 2, 5]]
    np.testing.assert_array_equal(ReplaySpace(table).loop_nest(rows).touched, SPACE.loop_nest(rows).touched)


def test_the_runner_gives_the_fastest_measurement_of_a_config(table: Table) -> None:
    space, runner = ReplaySpace(table), ReplayRunner(table)
    row = next(i for i, passes in enumerate(table.repeats) if len(passes) == 2)
    found = [runner.measure(space, table.configs[[row]])[0] for _ in range(3)]
    assert [m.repeats for m in found] == 3 * [table.repeats[row][1]]
    assert found[0].seconds == table.seconds[row]


def test_a_noisy_runner_gives_each_time_the_next(table: Table) -> None:
    space, runner = ReplaySpace(table), ReplayRunner(table, noisy=True)
    row = next(i for i, passes in enumerate(table.repeats) if len(passes) == 2)
    found = [runner.measure(space, table.configs[[row]])[0].repeats for _ in range(3)]
    assert found == [table.repeats[row][0], table.repeats[row][1], table.repeats[row][0]]
    failed = runner.measure(space, table.configs[[3]])[0]
    assert failed.outcome is Outcome.RUN_CRASHED
    assert math.isnan(failed.seconds)


def test_the_runner_keeps_to_simulated_time(table: Table) -> None:
    clock = Clock()
    seen: list[Measurement] = []
    runner = ReplayRunner(table, clock, seen.append)
    measured = runner.measure(ReplaySpace(table), table.configs[:50], math.inf, deadline=1.0)
    assert len(measured) == len(seen) == 8  # 0.25 s each, of which half is overlapped
    assert clock() == pytest.approx(1.0)


def test_the_runner_knows_no_other_configs(table: Table) -> None:
    known = {tuple(row) for row in table.configs.tolist()}
    other = next(row for row in sample(SPACE, np.random.default_rng(1), 10_000) if tuple(row.tolist()) not in known)
    with pytest.raises(SpaceError, match="valid configs only"):
        ReplayRunner(table).measure(ReplaySpace(table), other[None])


def test_the_store_holds_every_measurement(table: Table) -> None:
    store = replay_store([table])
    assert len(list(store.scan(Query(table.task.key)))) == sum(max(1, len(passes)) for passes in table.repeats)
    best = store.best(table.task.key, "machine", table.template, 1)[0]
    assert best.seconds == pytest.approx(min(min(times) for passes in table.repeats for times in passes), rel=0.03)


def test_looked_up_scores_are_the_models_own(table: Table) -> None:
    space = ReplaySpace(table)
    some = np.arange(0, 300, 3)
    model = RecordedModel(XGBoostModel(seed=0), table)
    model.fit([space.loop_nest(table.configs[some])], [table.seconds[some]])
    other = XGBoostModel(seed=0)
    other.fit([SPACE.loop_nest(table.configs[some])], [table.seconds[some]])
    rows = table.configs[100:120]
    np.testing.assert_allclose(model.predict(space.loop_nest(rows)), other.predict(SPACE.loop_nest(rows)), rtol=1e-4)
