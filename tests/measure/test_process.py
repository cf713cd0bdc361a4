"""A child process: what it answers, how it ends, and that it takes along what it started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.processes import wait_until
from tilewright.errors import MeasureError
from tilewright.measure.process import ChildProcess, Lost, find


def main(connection: Connection, number: int = 0) -> None:
    """The child's side: do what is asked until it is the end."""
    while True:
        what, amount = connection.recv()
        if what == "fill":
            held = bytearray(amount)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(60)
        elif what == "sleep":
            time.sleep(amount)
        elif what == "exit":
            print("these are my last words", flush=True)
            os._exit(amount)
        elif what == "raise":
            raise ValueError("no more")
        elif what == "start":
            connection.send(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid)
            continue
        connection.send((what, amount + number, os.environ.get("TILEWRIGHT_TEST_VARIABLE")))


@pytest.fixture
def child() -> Iterator[ChildProcess]:
    process = ChildProcess("testing needs a process", __name__, (5,), {"TILEWRIGHT_TEST_VARIABLE": "here"})
    yield process
    process.kill()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_answers_with_its_arguments_and_variables(child: ChildProcess) -> None:
    child.send(("say", 1))
    assert child.receive(60.0) == ("say", 6, "here")
    assert child.peak_rss > 1 << 20
    assert child.kill() == child.kill() == "SIGKILL"
    assert not child.alive
    assert child.peak_rss > 1 << 20
    assert child.receive(60.0) == Lost(timed_out=False, reason="SIGKILL")


@pytest.mark.parametrize(
    ("question", "reason"), [(("exit", 7), "exit code 7: these are my"), (("raise", 0), "no more")]
)
def test_how_it_ended_is_told_with_its_last_words(child: ChildProcess, question: tuple[str, int], reason: str) -> None:
    child.send(question)
    lost = child.receive(60.0)
    assert isinstance(lost, Lost)
    assert reason in lost.reason
    assert reason in lost.because(0, "the call", 1.0)
    assert not lost.timed_out
    assert not lost.memory


def test_an_overdue_answer_ends_it(child: ChildProcess) -> None:
    child.send(("sleep", 60))
    lost = child.receive(0.2)
    assert isinstance(lost, Lost)
    assert lost.timed_out
    assert lost.because(0, "the call", 0.2) == "the call took longer than 0.2 s"
    assert not alive(child.pid)


def test_too_much_memory_ends_it(child: ChildProcess) -> None:
    child.send(("fill", 1 << 28))
    lost = child.receive(60.0, memory=150 << 20)
    assert isinstance(lost, Lost)
    assert lost.memory > 150 << 20
    assert "of memory, where 150 MiB are allowed" in lost.because(150 << 20, "the call", 60.0)


def test_it_takes_along_what_it_started(child: ChildProcess) -> None:
    child.send(("start", 0))
    grandchild = child.receive(60.0)
    assert isinstance(grandchild, int)
    assert alive(grandchild)
    child.send(("exit", 0))
    assert isinstance(child.receive(60.0), Lost)
    assert wait_until(lambda: not alive(grandchild))


def test_a_stopped_one_goes_on_where_it_was(child: ChildProcess) -> None:
    child.send(("say", 1))
    child.receive(60.0)
    child.pause()
    child.send(("say", 2))
    assert not child.connection.poll(0.2)
    child.resume()
    assert child.receive(60.0) == ("say", 7, "here")


def test_another_thread_may_end_it(child: ChildProcess) -> None:
    child.send(("sleep", 60))
    timer = threading.Timer(0.3, child.kill)
    timer.start()
    lost = child.receive(60.0)
    timer.join()
    assert lost == Lost(timed_out=False, reason="SIGKILL")


def test_one_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MeasureError, match=r"testing needs a process, but none can be started: .*nonexistent"):
        ChildProcess("testing needs a process", __name__)


def test_functions_and_classes_are_found_by_their_names() -> None:
    assert find("pathlib", "Path.is_file") is Path.is_file
