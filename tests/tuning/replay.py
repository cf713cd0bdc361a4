"""A runner that replays known latencies instead of building and timing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.toys import TableSpace, ToySpace, plain
from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records.store import Store
from tilewright.space.configs import ConfigSet, check
from tilewright.space.space import Configs, DesignSpace
from tilewright.target import Target
from tilewright.task import Task

TARGET = Target("znver3", 2, "a toy", ("avx2",), 8, 16, 1 << 15, 1 << 19, 1 << 23, "0.27")

Latency = Callable[[Configs], NDArray[np.float64]]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Use:
    task: Task
    weight: int = 1


@dataclass
class Replay:
    """Latencies by task key; nan is a crash. Each trial takes a second of the clock, and is stored at once."""

    store: Store
    latencies: dict[str, Latency]
    clock: Clock = field(default_factory=Clock)
    interrupt_after: int | None = None
    log: list[tuple[str, tuple[int, ...], float]] = field(default_factory=list)

    def measure(self, space: DesignSpace, configs: Configs, best: float, deadline: float) -> list[Measurement]:
        assert space.valid(check(space, configs)).all()
        seen = ConfigSet()
        done = []
        for row, seconds in zip(configs, self.latencies[space.task.key](configs).tolist(), strict=True):
            assert not seen.has(row[None]).any()
            if self.clock() >= deadline:
                break
            if self.interrupt_after is not None and len(self.log) >= self.interrupt_after:
                raise KeyboardInterrupt
            ok = bool(np.isfinite(seconds))
            m = Measurement(
                space.task.key,
                TARGET.key,
                space.template,
                tuple(row.tolist()),
                Outcome.OK if ok else Outcome.RUN_CRASHED,
                (seconds,) * 3 if ok else (),
            )
            self.clock.now += 1.0
            self.log.append((m.task, m.config, best))
            self.store.add([m])
            done.append(m)
        return done


def task(key: str, flop: float = 1e6) -> Task:
    return Task(key, f"the task {key}", "auto", flop, "")


def bowl(configs: Configs) -> NDArray[np.float64]:
    """1 ms where every knob is at 4, up from there."""
    return np.asarray(1e-3 * (1.0 + np.abs(configs - 4).sum(axis=1)))


def flat(configs: Configs) -> NDArray[np.float64]:
    return np.full(len(configs), 1e-3)


def failing(configs: Configs) -> NDArray[np.float64]:
    return np.full(len(configs), np.nan)


def wide(key: str, flop: float = 1e6) -> ToySpace:
    """Ten million configs."""
    return ToySpace(plain(*[10] * 7), task=task(key, flop))


TABLE = TableSpace()
