"""The process that compiles: one takes the place of another, and none stays that nobody uses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from tests.processes import wait_until
from tilewright.measure.isolated import IsolatedError
from tilewright.training import worker
from tilewright.training.options import Options
from tilewright.training.orders import KernelTask, Order, Prepared, Request
from tilewright.training.recording import Signature


class Process:
    """Stands for the process: its executables are all the same, and nothing is tuned.

    Attributes:
        made: all of them, the first one first.
        deaths: how often the next calls of ``finish`` end their process.
        seconds: that ``prepare`` takes.
    """

    made: list[Process]
    deaths: int
    seconds: float

    def __init__(self, *_: object, **__: object) -> None:
        self.alive = True
        self.asked: list[str] = []
        self.made.append(self)

    def call(self, method: str, *_: object, **__: object) -> object:
        """What a method returns."""
        self.asked.append(method)
        if method == "finish" and self.deaths > 0:
            type(self).deaths -= 1
            self.kill()
            raise IsolatedError("its process ended (SIGKILL)")
        if method == "prepare":
            time.sleep(self.seconds)
            assert self.alive
        return Prepared("", Path("nowhere"), 1, 0, 0)

    def kill(self) -> None:
        """End it."""
        self.alive = False

    def pause(self) -> None:
        """Stop it."""

    resume = pause


class Part:
    """Stands for a part that never runs, so that no step copies what its proof needs."""

    name, state, kernel_seconds, tasks = "part", "waiting", dict[str, float](), dict[str, KernelTask]()
    signature = Signature((), (), (), ())

    def record(self, *_: object) -> None:
        """Copy nothing."""

    offer = record


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    """What stands for processes."""

    class Fresh(Process):
        """Those of one test."""

    Fresh.made, Fresh.deaths, Fresh.seconds = [], 0, 0.0
    monkeypatch.setattr(worker, "IsolatedProcess", Fresh)
    monkeypatch.setattr(worker, "load_executable", lambda *_: None)
    monkeypatch.setattr(worker, "_WATCH", 0.01)
    monkeypatch.setattr("tilewright.training.slots._AWAY_SECONDS", 0.1)
    return Fresh


@pytest.fixture
def make_worker() -> Iterator[Any]:
    """Makes workers, which are closed in the end."""
    made = []

    def make(**options: Any) -> worker.Worker:
        made.append(worker.Worker(Options(budget="1s", **options), 1))
        return made[-1]

    yield make
    for each in made:
        each.close()


def make_order(key: str) -> Order:
    """The order of a part."""
    part: Any = Part()
    return Order(Request("part", b"", (), (), key=key), part)


def count(process: type[Process], method: str) -> int:
    """How often a method was called."""
    return sum(each.asked.count(method) for each in process.made)


def has_finished(process: type[Process], times: int) -> Callable[[], bool]:
    """Whether tuning has ended so many times."""
    return lambda: count(process, "finish") == times


def test_parts_that_come_after_the_end_have_a_budget_of_their_own(process: type[Process], make_worker: Any) -> None:
    tried = make_worker()
    for number in (1, 2):
        tried.enqueue(make_order(str(number)))
        assert wait_until(has_finished(process, number))
    time.sleep(0.1)
    assert count(process, "finish") == 2


def test_parts_that_come_after_the_end_may_cost_as_many_processes_as_the_first_ones(
    process: type[Process], make_worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tried = make_worker()
    with caplog.at_level(logging.WARNING, "tilewright.training"):
        for number in (1, 2):
            process.deaths = 3
            tried.enqueue(make_order(str(number)))
            assert wait_until(has_finished(process, 4 * number))
            assert wait_until(lambda: tried.ended)
        assert caplog.messages == []
        process.deaths = 4
        tried.enqueue(make_order("3"))
        assert wait_until(lambda: caplog.messages != [])
    assert caplog.messages[0].startswith("tuning has ended, and training goes on")


def test_a_process_that_nobody_uses_ends_and_another_one_comes_when_it_is_needed(
    process: type[Process], make_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_MOST_IDLE", 0.05)
    process.seconds = 0.3  # it is in use, and not ended
    tried = make_worker(mode="now")
    for number in (1, 2):
        assert tried.prepare(make_order(str(number)))
        assert len(process.made) == number
        assert wait_until(lambda: not process.made[-1].alive)


def test_a_process_for_which_no_part_comes_ends(
    process: type[Process], make_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_MOST_IDLE", 0.05)
    tried = make_worker()
    tried.start()
    assert wait_until(lambda: not process.made[0].alive)
    tried.enqueue(make_order("1"))  # it comes nevertheless
    assert wait_until(lambda: count(process, "finish") == 1)
