"""The node's side: news is kept until it has arrived, and works are measured in turn."""

from __future__ import annotations

import math
import threading

import pytest

from tests.fleet.here import ToyPool, configs, space_named
from tests.tuning.replay import TARGET
from tilewright.fleet.desk import Desk
from tilewright.fleet.wire import Done, Report, Work
from tilewright.measure.outcome import Measurement
from tilewright.target import Target


def work(number: int, count: int = 3, session: str = "s") -> Work:
    space = space_named("a")
    return Work(number, session, space.task, space.template, (0, 0, 0), configs(count), TARGET, math.inf, 60.0)


def collect(desk: Desk, after: int = 0, session: str = "s", done: int = 1) -> Report:
    """The news once so many works are finished."""
    while True:
        report = desk.collect(session, after, 10.0, 0.0)
        if sum(isinstance(news, Done) for _, news in report.entries) >= done:
            return report


def test_news_is_kept_until_it_has_arrived() -> None:
    desk = Desk(1, make_pool=ToyPool)
    desk.work(work(7))
    report = collect(desk)
    assert [number for number, _ in report.entries] == [7] * 4
    assert collect(desk) == report  # the answer was lost on its way
    (*measured, done) = (news for _, news in report.entries)
    assert isinstance(done, Done)
    assert all(isinstance(news, Measurement) for news in measured)
    assert [m.config for m in done.measurements] == [tuple(row) for row in configs(3).tolist()]
    assert done.statistics.measured == 3
    desk.work(work(8))
    later = collect(desk, report.last)
    assert {number for number, _ in later.entries} == {8}
    assert later.life == report.life != Desk(1, make_pool=ToyPool).collect("s", 0, 0.0, 0.0).life
    desk.close()


def test_sessions_share_a_node_and_see_only_their_own() -> None:
    desk = Desk(1, make_pool=ToyPool)
    desk.work(work(1, session="one"))
    desk.work(work(1, count=2, session="two"))
    assert len(collect(desk, session="two").entries) == 3
    assert len(collect(desk, session="one").entries) == 4
    desk.close()


def test_a_work_that_is_not_wanted_any_more_is_not_begun() -> None:
    begun, gate = threading.Event(), threading.Event()

    class Slow(ToyPool):
        def measure(self, *arguments: object) -> list[Measurement]:
            begun.set()
            gate.wait(10.0)
            return super().measure(*arguments)  # type: ignore[arg-type]

    desk = Desk(1, make_pool=Slow)
    desk.work(work(1))
    desk.work(work(2))
    desk.work(work(3))
    begun.wait(10.0)
    desk.cancel("s", 2)
    gate.set()
    assert {number for number, _ in collect(desk, done=2).entries} == {1, 3}
    desk.close()


@pytest.mark.parametrize("error", ["measuring needs worker processes, but none can be started", ""])
def test_a_pool_that_fails_says_why(error: str) -> None:
    def make_pool(target: Target) -> ToyPool:
        if not error:
            raise ValueError("no pool")
        return ToyPool(target, broken=error)

    desk = Desk(1, make_pool=make_pool)
    desk.work(work(1))
    (_, done) = collect(desk).entries[-1]
    assert isinstance(done, Done)
    assert done.error == (error or "ValueError: no pool")
    assert done.measurements == ()
    desk.close()
