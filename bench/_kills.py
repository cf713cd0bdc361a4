"""Kills tuners, workers and writers with ``kill -9`` at random moments, and counts lost and doubled records.

Each function is bounded in seconds and returns figures that are ready for JSON.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench._recorded import dense
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.measure.pool import LocalPool
from tilewright.measure.worker_process import WorkerProcess
from tilewright.measure.workforce import MOST_START_FAILURES
from tilewright.methods.parts import combine
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.records.store import Query
from tilewright.target import Target
from tilewright.tuning.tuner import TaskTuner

__all__ = ["Tuning", "doubled", "kill_tuners", "kill_workers", "writers"]

ROOT = Path(__file__).parents[1]
#: Seconds in which everything that a killed tuner had started must be gone. A compiler at work ends by itself.
_GONE_SECONDS = 20.0


@dataclass
class Tuning:
    """The same ``tilewright tune`` command, again and again, with all its files in one folder.

    Attributes:
        folder: for the records, the executable and temporary files.
        model: an ONNX file outside of the folder.
        trials: of each run; with less than 60 and no other limit there is no final race, so nothing is measured twice.
        reported: the number of trials in the last line of progress that the current run has printed.
    """

    folder: Path
    model: Path
    trials: int = 40
    reported: int = 0
    mark: str = field(default_factory=lambda: f"TILEWRIGHT_BENCH={uuid.uuid4().hex}")

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)

    def start(self) -> subprocess.Popen[str]:
        """Start the command; what it reports is read in the background."""
        command = [sys.executable, "-m", "tilewright.cli", "tune", str(self.model), f"--trials={self.trials}"]
        command += [f"--out={self.folder / 'out'}", f"--records={self.folder / 'records.db'}"]
        name, _, value = self.mark.partition("=")
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {name: value, "TMPDIR": str(self.folder / "tmp")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reported = 0
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def finish(self, seconds: float) -> int:
        """Run the command to its end, or kill it after so many seconds; its exit code."""
        process = self.start()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            process.kill()
            process.wait()

    def kill(self, after: float) -> int | None:
        """Run the command and kill it after so many seconds; its exit code, where it had ended by then."""
        process = self.start()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            return process.returncode
        finally:
            process.kill()
            process.wait()

    def orphans(self, seconds: float = _GONE_SECONDS) -> int:
        """How many processes of a killed tuner are left after so many seconds, if not before."""
        end = time.monotonic() + seconds
        while (count := sum(_has(pid, self.mark) for pid in _processes())) and time.monotonic() < end:
            time.sleep(0.05)
        return count

    def measurements(self) -> list[Measurement]:
        """What the records hold."""
        if not (self.folder / "records.db").exists():
            return []
        with open_store(self.folder / "records.db") as store:
            return list(store.scan(Query()))

    def leftovers(self) -> list[str]:
        """Files that should not be there when a run has ended as it should."""
        found = [path for path in self.folder.rglob("*") if path.parent != self.folder / "out"]
        wanted = {"out", "records.db", "tmp"}
        return sorted(str(path.relative_to(self.folder)) for path in found if path.name not in wanted)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr, contextlib.suppress(ValueError):
            for line in process.stderr:
                if match := re.search(r"\btrials (\d+)", line):
                    self.reported = int(match[1])


def kill_tuners(
    model: Path,
    folder: Path,
    *,
    kills: int = 50,
    seconds: float = 900.0,
    latest: float = 12.0,
    last: float = 600.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Kill a tuner at random moments, start the same command again each time, and let it end once.

    Args:
        model: what it tunes.
        folder: for all its files.
        kills: how many.
        seconds: no run is begun after so many.
        latest: seconds after its start at which a run is killed at the latest; it should end in about as many.
        last: seconds that the run may take that is not killed.
        seed: of the moments.
    """
    rng, begin = np.random.default_rng(seed), time.monotonic()
    tuning, killed, survived, lost, orphans, failed = Tuning(folder, model), 0, 0, 0, 0, 0
    while killed < kills and not failed and time.monotonic() - begin < seconds:
        before = len(tuning.measurements())
        code = tuning.kill(float(rng.uniform(0.1, latest)))
        if code is not None:  # it was faster than the moment
            failed += code != 0
            continue
        killed += 1
        left = tuning.orphans()
        missing = max(0, before + tuning.reported - len(tuning.measurements()))
        survived += not left and not missing
        lost, orphans = lost + missing, orphans + left
    failed += tuning.finish(last) != 0
    return {
        "kills": killed,
        "kills_survived": survived,
        "records_lost": lost,
        "records_doubled": doubled(tuning.measurements()),
        "records": len(tuning.measurements()),
        "orphans": orphans,
        "runs_failed": failed,
        "leftovers": tuning.leftovers(),
        "seconds": time.monotonic() - begin,
    }


def kill_workers(folder: Path, *, kills: int = 50, seconds: float = 300.0, seed: int = 0) -> dict[str, Any]:
    """Kill workers, starting ones too, at random moments while a task is tuned. Each costs one candidate at most.

    Args:
        folder: for the records.
        kills: how many.
        seconds: none after so many.
        seed: of the moments and of the search.
    """
    target = Target.parse()
    space = make_space(task_of("dense", dense(64, 64, 64)), target)
    reported: list[Measurement] = []
    begin = time.monotonic()
    with open_store(folder / "records.db") as store:

        def note(measurement: Measurement) -> None:
            store.add([measurement])
            reported.append(measurement)

        with LocalPool(target, on_measurement=note) as pool:
            tuner = TaskTuner(space, target, pool, store, np.random.default_rng(seed), combine("random", "top"))
            killer = _Killer(pool, reported, kills, seed)
            killer.start()
            try:
                while killer.is_alive() and time.monotonic() - begin < seconds and not tuner.exhausted:
                    tuner.round(8, math.inf)
            finally:
                killer.stop.set()
                killer.join()
            after = tuner.round(8, math.inf).measurements
            pids = [process.pid for process in pool.workforce.processes]
            statistics = pool.statistics
        stored = list(store.scan(Query()))
    # A time-out is none of the killer's work, but a config that is called invalid is: all that are drawn are valid.
    failed = sum(m.outcome.doubtful or m.outcome is Outcome.INVALID for m in reported)
    return {
        "kills": killer.done,
        "kills_survived": killer.done - max(0, failed - killer.done) - (0 if any(m.ok for m in after) else 1),
        "candidates_lost": failed,
        "records_lost": sum((Counter(reported) - Counter(stored)).values()),
        "records_doubled": doubled(stored),
        "records": len(stored),
        "orphans": sum(_alive(pid) for pid in pids),
        "longest_gap": statistics.longest_gap,
        "seconds": time.monotonic() - begin,
    }


class _Killer(threading.Thread):
    """Kills one to three random workers of a pool at random moments, with a candidate that worked between each two."""

    def __init__(self, pool: LocalPool, reported: Sequence[Measurement], kills: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.done = 0
        self._pool, self._reported, self._kills = pool, reported, kills
        self._rng = np.random.default_rng(seed)
        self._shot: list[WorkerProcess] = []

    def run(self) -> None:
        """Until all are done, or it is told to stop."""
        seen = 0
        while self.done < self._kills and not self.stop.wait(float(self._rng.exponential(0.2))):
            worked = sum(m.ok for m in self._reported)
            if worked > seen and (chosen := self.chosen(list(self._pool.workforce.processes))):
                seen = worked
                self._shot = [process for process in chosen if _kill_child(process.pid)]
                self.done += len(self._shot)

    def chosen(self, processes: Sequence[WorkerProcess]) -> list[WorkerProcess]:
        """Which of a pool's workers to kill now: none while the pool has to recover first.

        A pool gives up when ``MOST_START_FAILURES`` workers in a row die while they start and nobody else is there:
        then none ever will start. On a busy machine, where starting takes long, shots could bring that about. So they
        wait until the pool has noticed all earlier ones, and has a worker that has started: it has done so after any
        death that left the pool without one, and with that the pool has begun to count anew. And they take fewer
        starting workers than make it give up. All that have started, even all that there are, may go at once.
        """
        if any(process in processes for process in self._shot) or not any(process.started for process in processes):
            return []
        count = min(self._kills - self.done, int(self._rng.integers(1, 4)))
        chosen = [processes[number] for number in self._rng.permutation(len(processes))[:count]]
        spared = [process for process in chosen if not process.started][MOST_START_FAILURES - 1 :]
        return [process for process in chosen if process not in spared]


def writers(folder: Path, *, count: int = 4, seconds: float = 20.0) -> dict[str, Any]:
    """Several processes tune on a recorded table and add to one store; one of them is killed half-way.

    Args:
        folder: for the records.
        count: how many.
        seconds: how long.
    """
    path, begin = folder / "records.db", time.monotonic()
    with contextlib.ExitStack() as stack:
        commands = [
            [sys.executable, "-m", "bench._writer", str(path), str(number), str(seconds)] for number in range(count)
        ]
        started = [
            stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
            for command in commands
        ]
        threading.Timer(seconds / 2, started[0].kill).start()
        told = [process.communicate()[0].split() for process in started]
    with open_store(path) as store:
        stored = list(store.scan(Query()))
    found = Counter(m.target for m in stored)
    reported = {f"writer-{number}": int(lines[-1]) if lines else 0 for number, lines in enumerate(told)}
    return {
        "writers": count,
        "failed": sum(process.returncode != 0 for process in started[1:]),
        "records": len(stored),
        "records_lost": sum(max(0, reported[name] - found[name]) for name in reported),
        "records_doubled": doubled(stored),
        "seconds": time.monotonic() - begin,
    }


def doubled(measurements: Sequence[Measurement]) -> int:
    """How many of them have a latency of a config that another one has, too."""
    counts = Counter((m.task, m.target, m.template, m.config) for m in measurements if m.ok)
    return sum(count - 1 for count in counts.values())


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _has(pid: int, mark: str) -> bool:
    """Whether a process that lives has inherited the mark."""
    try:
        return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and _alive(pid)
    except OSError:
        return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _kill_child(pid: int) -> bool:
    """Kill a process if it is a child of this one: its number may be another's by now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        if parent != os.getpid() or not _alive(pid):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
