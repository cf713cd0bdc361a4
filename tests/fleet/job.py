"""A job that an outpost does in tests: it measures nothing, but says and keeps all that a tuning does."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tilewright.executable.manifest import FORMAT, NAME, WEIGHTS, seal
from tilewright.fleet.head_store import HeadLine, HeadStore
from tilewright.interrupts import watching
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records.store import Query

__all__ = ["main"]


def main(connection: Connection, folder: str) -> None:
    """Do what the first message says: a number of measurements, and what becomes of the process then."""
    asked: dict[str, Any] = connection.recv()
    line = HeadLine(connection)
    store = HeadStore(line)
    known = len(list(store.scan(Query(task="a"))))
    for number in range(known, asked["measurements"]):
        store.add([Measurement("a", "toy", "toy/1", (number,), Outcome.OK, (1e-3, 1e-3))])
        line.say("state", number + 1)
        if asked["dies"] == number + 1:
            line.close()
            os._exit(3)
    best = store.best("a", "toy", "toy/1", 3)
    out = Path(folder, "out")
    out.mkdir()
    (out / WEIGHTS).write_bytes(Path(folder, "model/weights").read_bytes())
    entries = {"format": FORMAT, "inputs": [], "outputs": [], "plan": None}
    (out / NAME).write_text(seal(entries, out, [WEIGHTS]))
    if asked["spoils"]:
        (out / WEIGHTS).write_bytes(b"something else")
    try:
        with watching():
            if asked["waits"]:
                line.say("state", "waiting")
                for _ in range(600):  # a signal that another thread gets ends no sleep of this one
                    time.sleep(0.1)
            line.say("report", len(best))
    except KeyboardInterrupt:
        line.say("failed", "interrupted")
    line.close()
