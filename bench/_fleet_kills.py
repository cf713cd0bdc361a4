"""Kills what belongs to a fleet with ``kill -9`` at random moments, and counts lost and doubled records."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench._kills import doubled
from bench._ray_cluster import ROOT, LocalCluster, alive, cluster
from tests.records import server
from tilewright.measure.outcome import Measurement
from tilewright.records import open_store
from tilewright.records.store import Query

__all__ = ["VICTIMS", "kill_fleets"]

MODEL = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"
#: What is killed: the command, the raylet of a node, the process that measures on a node, a worker of it, PostgreSQL.
VICTIMS = ("head", "node", "desk", "worker", "database")
#: Seconds in which everything that a killed command had started must be gone.
_GONE = 30.0


@dataclass
class _Command:
    """The same ``tilewright tune --fleet`` command, again and again."""

    folder: Path
    made: LocalCluster
    records: str
    trials: int
    reported: int = 0
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tilewright.cli", "tune", str(MODEL), f"--trials={self.trials}"]
        command += [f"--fleet={self.made.address}", f"--out={self.folder / 'out'}", f"--records={self.records}"]
        environment = {**self.made.environment, "TILEWRIGHT_BENCH": self.mark, "TMPDIR": str(self.folder)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.reported = 0
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr, contextlib.suppress(ValueError):
            for line in process.stderr:
                if match := re.search(r"\btrials (\d+)", line):
                    self.reported = int(match[1])

    def orphans(self) -> int:
        """What is left of a killed command, and of what it had started on the nodes."""
        until = time.monotonic() + _GONE
        while (count := len(_marked(self.mark)) + len(self.made.pids("ray::Desk"))) and time.monotonic() < until:
            time.sleep(0.2)
        return count


def kill_fleets(kills: int, seconds: float = 1800.0, trials: int = 40, seed: int = 0) -> dict[str, Any]:
    """Kill random parts of a fleet at random moments, start the same command again, and let it end once.

    Args:
        kills: how many.
        seconds: no run is begun after so many.
        trials: of each run; with so few there is no final race, so nothing is measured twice.
        seed: of moments and victims.
    """
    rng, begin = np.random.default_rng(seed), time.monotonic()
    killed: Counter[str] = Counter()
    lost = orphans = failed = survived = 0
    lacks = server.missing()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="twk-")))
        base = None if lacks else stack.enter_context(server.running())
        made = stack.enter_context(cluster(1, 1))
        records = str(folder / "records.db") if base is None else base.empty()
        command = _Command(folder, made, records, trials)
        victims = [victim for victim in VICTIMS if victim != "database" or base is not None]
        while sum(killed.values()) < kills and time.monotonic() - begin < seconds:
            before, process, hit = len(_stored(records)), command.start(), Counter[str]()
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(float(rng.uniform(1.0, 25.0)))
                if process.poll() is not None or sum((killed + hit).values()) >= kills:
                    process.wait(600.0)
                    break
                victim = str(rng.choice(victims))
                if not _kill(victim, process, made, base, rng):
                    continue
                hit[victim] += 1
                if victim == "head":
                    break
            process.wait()
            left = command.orphans()
            missing = max(0, before + command.reported - len(_stored(records)))
            bad = process.returncode not in (0, -signal.SIGKILL)
            killed += hit
            survived += 0 if left or missing or bad else sum(hit.values())
            lost, orphans, failed = lost + missing, orphans + left, failed + bad
        last = command.start()
        failed += last.wait(900.0) != 0
        stored = _stored(records)
    return {
        "kills": sum(killed.values()),
        "killed": dict(killed),
        "kills_survived": survived,
        "records": len(stored),
        "records_lost": lost,
        "records_doubled": doubled(stored),
        "orphans": orphans + len(_marked(command.mark)),
        "runs_failed": failed,
        "store": "SQLite" if base is None else "PostgreSQL",
        "kill_seconds": time.monotonic() - begin,
    }


def _kill(
    victim: str,
    process: subprocess.Popen[str],
    made: LocalCluster,
    base: server.Server | None,
    rng: np.random.Generator,
) -> bool:
    """Kill one thing. Returns whether it was there."""
    if victim == "head":
        process.kill()
        return True
    if victim == "node":
        node = made.nodes[-1]
        made.kill_node(node)
        made.nodes.remove(node)
        made.start(1)
        return True
    if victim == "database":
        assert base is not None
        base.kill()
        base.start()
        return True
    pids = made.pids("ray::Desk" if victim == "desk" else "tilewright.measure.worker")
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(rng.choice(pids)), signal.SIGKILL)
    return True


def _stored(records: str) -> list[Measurement]:
    if "://" not in records and not Path(records).exists():
        return []
    with open_store(records if "://" in records else Path(records)) as store:
        return list(store.scan(Query()))


def _marked(mark: str) -> list[int]:
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            if f"TILEWRIGHT_BENCH={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes() and alive(pid):
                found.append(pid)
    return found
