"""The log of a run: what happened when, as JSON lines in the executable's directory.

The report of a run (:mod:`tilewright.tuning.report`) has its sums. The log has its course: the phases, the estimated
latency, every candidate, disturbances and memory. It is written while the run goes on, one line an event, and published
with the executable. :mod:`tilewright.tuning.run_events` has the events.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tilewright.jsonable import finite, to_json_object
from tilewright.measure.memory import held
from tilewright.measure.runner import Pool
from tilewright.records.runs import KeepsRuns, RunRecord
from tilewright.tuning.run_events import (
    END,
    Event,
    HearsEvents,
    KernelsEvent,
    KnobText,
    LatencyEvent,
    MachineEvent,
    NetworkEvent,
    PhaseEvent,
    RoundEvent,
    SpaceEvent,
    TaskFunctions,
    Trial,
)

if TYPE_CHECKING:
    from tilewright.space.space import DesignSpace
    from tilewright.tuning.budget import RunningBudget
    from tilewright.tuning.report import TuneReport
    from tilewright.tuning.task_state import TaskState
    from tilewright.tuning.tuner import RoundResult

__all__ = ["LOG", "REPORT", "RunLog", "describe_config", "event_line", "write_run"]

#: The names of the log, and of the report of the run, in the directory of an executable.
LOG, REPORT = "run.jsonl", "tune.json"
#: The most bytes of a log. After these the candidates of rounds are left out: 60 bytes each, they are most of it.
_MOST_BYTES = 4 << 20
#: The most choices of a knob that the log names. Of a longer list it names the first and the last.
_MOST_CHOICES = 48
#: Seconds between two looks at the memory and at the disturbances, at least.
_LOOKING = 0.5


@dataclass
class RunLog:
    """Writes the events of a run. Without a file and without a listener it does nothing.

    A log that cannot be written ends there: it is worth no failed run.

    Attributes:
        budget: whose clock counts; None: the log is silent.
        path: the file; None: there is none.
        pool: whose disturbances and memory are noted; None: there is none yet.
    """

    budget: RunningBudget | None = None
    path: Path | None = None
    pool: Pool | None = None
    _file: TextIO | None = field(default=None, init=False, repr=False)
    _bytes: int = field(default=0, init=False, repr=False)
    _looked: float = field(default=-math.inf, init=False, repr=False)
    _best: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                # Closed by close(); events come one by one.
                self._file = self.path.open("w", encoding="utf-8")

    def close(self) -> None:
        """End the file. Later events are only heard."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def phase(self, name: str) -> None:
        """A phase begins. Whoever shows the progress is told, too."""
        if self.budget is not None:
            self.budget.enter(name)
        self._begin(name)

    def end(self) -> None:
        """The last phase ends."""
        self._begin(END)

    def latency(self, seconds: float) -> None:
        """The estimated latency of the network changed."""
        self._write(LatencyEvent(self._now, seconds))

    def network(self, tasks: tuple[TaskFunctions, ...]) -> None:
        """The network was cut into tasks."""
        self._write(NetworkEvent(self._now, tasks))

    def space(self, task: TaskState) -> None:
        """The design space of a task was made."""
        if self._silent or task.tuner is None:
            return
        space = task.tuner.space
        knobs = tuple(KnobText(knob.name, len(knob), _choices(knob.choices)) for knob in space.knobs)
        recorded = task.tuner.recorded
        self._write(SpaceEvent(self._now, task.key, space.template, knobs, recorded, task.possible, task.touched))

    def round(self, task: TaskState, result: RoundResult) -> None:
        """A round of a task ended."""
        if self._silent or task.tuner is None:
            return
        trials: tuple[Trial, ...] = ()
        if self._bytes < _MOST_BYTES:
            trials = tuple(
                Trial(m.config, round(m.seconds, 10) if m.ok else None, m.outcome.value) for m in result.measurements
            )
        self._note(task, result.seconds, len(result.measurements), trials)
        self._look()

    def best(self, task: TaskState) -> None:
        """The finalists of a task were measured once more."""
        if not self._silent and task.tuner is not None:
            self._note(task, 0.0, 0, ())

    def kernels(self, names: tuple[str, ...], seconds: tuple[float, ...]) -> None:
        """The kernels of the published executable were timed."""
        self._write(KernelsEvent(self._now, names, seconds))

    def _begin(self, phase: str) -> None:
        self._write(PhaseEvent(self._now, phase))
        self._look(at_once=True)

    def _note(self, task: TaskState, seconds: float, count: int, trials: tuple[Trial, ...]) -> None:
        assert task.tuner is not None
        best, found = task.tuner.best_config, {}
        row = () if best is None else tuple(int(index) for index in best)
        if self._best.get(task.key) != row:
            self._best[task.key] = row
            found = describe_config(task.tuner.space, row)
        latency = task.best if math.isfinite(task.best) else None
        self._write(RoundEvent(self._now, task.key, seconds, count, latency, found, trials))

    def _look(self, at_once: bool = False) -> None:
        """Note what the workers met, and the memory, if it is time."""
        now = self._now
        if self._silent or (now < self._looked + _LOOKING and not at_once):
            return
        self._looked = now
        statistics = None if self.pool is None else self.pool.statistics
        self._write(
            MachineEvent(
                now,
                disturbed=0 if statistics is None else statistics.disturbed,
                causes={} if statistics is None else dict(statistics.causes),
                replaced=0 if statistics is None else statistics.replaced,
                bytes=held(os.getpid())[0],
                worker_bytes=0 if statistics is None else statistics.peak_rss,
            )
        )

    @property
    def _silent(self) -> bool:
        return self.budget is None

    @property
    def _now(self) -> float:
        return 0.0 if self.budget is None else round(self.budget.elapsed, 3)

    def _write(self, event: Event) -> None:
        if self.budget is None:
            return
        if isinstance(self.budget.progress, HearsEvents):
            self.budget.progress.hear(event)
        if self._file is not None:
            line = event_line(event)
            try:
                self._file.write(line + "\n")
                self._file.flush()
                self._bytes += len(line)
            except OSError:  # the disk is full; the run goes on
                self.close()


def write_run(out: Path, report: TuneReport, log: RunLog, store: KeepsRuns) -> None:
    """Write the report and the log of a run into the directory of its executable, and a line of it into the store.

    They are no part of the executable, which lists neither. If the disk is full, it has no report.
    """
    log.close()
    store.add_run(_summarise(report))
    with contextlib.suppress(OSError):
        text = json.dumps(finite(to_json_object(report)), indent=1, allow_nan=False)
        (out / REPORT).write_text(text + "\n", encoding="utf-8")
        if log.path is not None:
            shutil.copyfile(log.path, out / LOG)


def _summarise(report: TuneReport) -> RunRecord:
    """What a store keeps of a run. Its latencies are those of the final race, or else estimates."""
    race, runtime = report.final_race, report.runtime_race
    before, after = report.before_seconds, report.after_seconds
    if race is not None:
        before, after = race.incumbent_ms / 1e3, min(race.incumbent_ms, race.tuned_ms) / 1e3
    if runtime is not None:
        after = min(runtime.executable_ms, runtime.onnxruntime_ms) / 1e3
    return RunRecord(
        network=report.model or "",
        target=report.target,
        machine=report.machine,
        method=report.method,
        time=time.time(),
        budget_seconds=report.budget_seconds,
        wall_seconds=report.wall_seconds,
        trials=report.trials,
        before_seconds=before,
        after_seconds=after,
        published=report.published,
        outcome="" if report.verdict is None else report.verdict.outcome.value,
        tasks=tuple((task.key, task.weight) for task in report.tasks),
    )


def event_line(event: Event) -> str:
    """An event as a line of the log."""
    content = {"event": event.event, **to_json_object(event)}
    return json.dumps(finite(content), separators=(",", ":"), allow_nan=False)


def describe_config(space: DesignSpace, config: tuple[int, ...]) -> dict[str, str]:
    """The choices of a config, by knob, for people; empty for an empty config."""
    if len(config) != len(space.knobs):
        return {}
    return {knob.name: _choice(knob.choices[index]) for knob, index in zip(space.knobs, config, strict=True)}


def _choices(choices: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    few = choices if len(choices) <= _MOST_CHOICES else (choices[0], choices[-1])
    return tuple(map(_choice, few))


def _choice(choice: tuple[int, ...]) -> str:
    return " ".join(map(str, choice))
