"""Several tuners on one store at once: nothing is lost, nothing waits forever, and ids are in the order of adding."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.records.server import Server
from tests.records.test_sqlite import TASK, measured
from tilewright.records import open_store
from tilewright.records.store import Query

WRITERS, BATCHES, EACH = "abcd", 25, 4
#: However busy the machine is: a wait that never ends, ends here.
_LONGEST = 300.0


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "sqlite":
        return tmp_path / "records.db"
    server: Server = request.getfixturevalue("postgresql")
    return server.empty()


def tune(where: str | Path, writer: str, start: Any, failures: Any) -> None:
    """What a tuner does with its store, and that it finds its own measurements at once."""
    try:
        start.wait(_LONGEST)
        # Opened here, so that the processes race for making the tables too.
        with open_store(where) as store:
            store.describe(TASK)
            for batch in range(BATCHES):
                store.add([measured(writer, EACH * batch + index) for index in range(EACH)])
                assert len(store.best("t", writer, "contraction/1", 3)) == 3
                seen = [m.config for m in store.scan(Query("t", writer))]
                assert seen == [(index,) for index in range(EACH * (batch + 1))], seen
                assert store.tasks() == [TASK]
    except BaseException as error:
        failures.put(f"{writer}: {error!r}")
        raise


def at_once(work: Callable[..., None], where: str | Path) -> list[str]:
    """Run ``work`` in four processes that start at the same moment; what went wrong in them."""
    context = multiprocessing.get_context("spawn")
    start, failures = context.Barrier(len(WRITERS)), context.SimpleQueue()
    processes = [context.Process(target=work, args=(where, name, start, failures)) for name in WRITERS]
    for process in processes:
        process.start()
    deadline = time.monotonic() + _LONGEST
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    found = ["a process did not end"] * len(late)
    while not failures.empty():
        found.append(failures.get())
    return found + [f"exit code {process.exitcode}" for process in processes if process.exitcode]


def test_four_tuners_write_and_read_at_once(where: str | Path) -> None:
    assert at_once(tune, where) == []
    with open_store(where) as store:
        assert [(s.target, s.count, s.ok) for s in store.summary()] == [
            (n, BATCHES * EACH, BATCHES * EACH) for n in WRITERS
        ]
        for name in WRITERS:
            assert list(store.scan(Query(target=name))) == [measured(name, index) for index in range(BATCHES * EACH)]
        # One transaction at a time: a batch is never torn apart by another.
        order = [(m.target, m.config[0]) for m in store.scan(Query())]
    for start in range(0, len(order), EACH):
        writer, first = order[start]
        assert order[start : start + EACH] == [(writer, first + index) for index in range(EACH)]
