"""Tunes a model many times, each time with a signal at another moment; one line of JSON for each. Run by a test.

In one process, since importing the compiler takes longer than what is interrupted here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilewright.executable.executable import load_executable
from tilewright.interrupts import watching
from tilewright.tuning.budget import Budget
from tilewright.tuning.session import tune


def moments(short: int, long: int) -> Iterator[tuple[Budget, float]]:
    """Budgets, and the share of what such a command takes after which the signal comes."""
    for i in range(short):  # too short to measure anything: reading, building, checking, publishing
        yield Budget(seconds=2.0), (i + 0.5) / short
    for i in range(long):  # some candidates, and then to the end without waiting for that of the seconds
        yield Budget(seconds=13.0, trials=6), (i + 0.5) / long


def run(model: Path, out: Path, budget: Budget, after: float, number: int) -> dict[str, Any]:
    """Tune once, with a signal ``after`` so many seconds."""
    before = (out / "manifest.json").read_bytes() if out.exists() else b""
    pressed = threading.Event()

    def press() -> None:
        if not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), number)

    timer = threading.Timer(after, press)
    found: dict[str, Any] = {"budget": budget.seconds, "after": after, "earlier": bool(before), "published": None}
    began = time.monotonic()
    with watching():
        try:
            timer.start()
            report = tune(model, out, budget=budget).report
            found |= {"published": report.published, "interrupted": report.interrupted}
            timer.cancel()
            if pressed.is_set():
                time.sleep(0.05)  # a signal of the last moment arrives here
        except KeyboardInterrupt:
            found["interrupted"] = True
    timer.cancel()
    found |= {"seconds": time.monotonic() - began, "pressed": pressed.is_set()}
    found["executable"] = out.exists() and len(load_executable(out).inputs) == 1
    found["untouched"] = bool(before) and (out / "manifest.json").read_bytes() == before
    found["leftovers"] = sorted(path.name for path in out.parent.iterdir() if path != out)
    return found


def main(model: Path, folder: Path, short: int, long: int) -> None:
    """Print what came of each moment."""
    takes: dict[Budget, float] = {}
    for turn, (budget, share) in enumerate(moments(short, long)):
        out = folder / "places" / "out"
        out.parent.mkdir(exist_ok=True)
        if turn % 2 == 0 and out.exists():  # every other time there is an executable from before
            shutil.rmtree(out)
        if budget not in takes:
            # The first time of all imports the compiler, too.
            again = 1 if takes else 2
            whole = [run(model, folder / "whole" / "out", budget, 1e6, 0)["seconds"] for _ in range(again)]
            takes[budget] = min(whole)
        number = signal.SIGTERM if turn % 3 == 2 else signal.SIGINT
        found = run(model, out, budget, share * takes[budget], number)
        if not found["pressed"]:  # faster than all before: the moment is tried again, by what commands take now
            takes[budget] = min(takes[budget], found["seconds"])
            if turn % 2 == 0:
                shutil.rmtree(out)
            found = run(model, out, budget, share * takes[budget], number)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
