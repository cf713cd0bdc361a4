"""A process that dies says so, and takes nobody along."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tilewright.errors import MeasureError
from tilewright.measure.isolated import IsolatedError, IsolatedProcess


class Thing:
    """What the process makes, which finds it by its name."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("not below 0")
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def divide(self, number: int) -> float:
        return self.count / number

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGFPE)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def variable(self) -> str | None:
        return os.environ.get("TILEWRIGHT_TEST_VARIABLE")


def test_it_keeps_what_it_made() -> None:
    with IsolatedProcess(Thing, (3,), {"TILEWRIGHT_TEST_VARIABLE": "here"}) as process:
        assert process.call("add", 4) == 7
        assert process.call("add", 1) == 8
        assert process.call("variable") == "here"
    assert not process.alive
    assert "TILEWRIGHT_TEST_VARIABLE" not in os.environ


def test_an_exception_is_an_answer() -> None:
    with IsolatedProcess(Thing, (3,)) as process:
        with pytest.raises(MeasureError, match="ZeroDivisionError: division by zero") as caught:
            process.call("divide", 0)
        assert not isinstance(caught.value, IsolatedError)
        assert process.call("add", 0) == 3


def test_it_cannot_be_made() -> None:
    with IsolatedProcess(Thing, (-1,)) as process, pytest.raises(MeasureError, match="not below 0"):
        process.wait()


def test_its_death_is_told() -> None:
    with IsolatedProcess(Thing, (3,)) as process:
        with pytest.raises(IsolatedError, match="SIGFPE"):
            process.call("die")
        assert not process.alive
        with pytest.raises(IsolatedError, match="SIGFPE"):
            process.call("add", 1)


def test_one_that_takes_too_long_is_ended() -> None:
    with IsolatedProcess(Thing, (3,)) as process:
        process.wait()
        with pytest.raises(IsolatedError, match="no answer within"):
            process.call("sleep", 60.0, seconds=0.2)
        assert not process.alive
