"""What a test does with a cluster in a process of its own: Ray reads the environment once, when it is imported."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tilewright.errors import FleetError
from tilewright.fleet.cluster import connected
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.place import choose_kinds, workplace_of
from tilewright.fleet.runner import FleetRunner
from tilewright.fleet.wire import Versions
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Job
from tilewright.ops.contraction import dense
from tilewright.ops.registry import make_space
from tilewright.space.configs import distinct, sample

__all__ = ["Seen", "measure_while_one_is_killed"]


@dataclass(frozen=True)
class Seen:
    """What became of a batch.

    Attributes:
        asked: how many candidates it had.
        returned: what the runner returned.
        told: what it told as it was measured.
        states: of the nodes in the end.
        lines: what people were told.
        refusals: of a kind that no node is of, and of nodes with another version than the head.
        cores: of the target.
    """

    asked: int
    returned: list[Measurement]
    told: list[Measurement]
    states: list[str]
    lines: list[str]
    refusals: list[str]
    cores: int


def measure_while_one_is_killed(address: str) -> Seen:
    """Measure on all nodes, kill the process of one once it has reported something, and wait until it is back."""
    lines: list[str] = []
    told: list[Measurement] = []
    refusals: list[str] = []
    with connected(address) as crew:
        fleet = Fleet(crew, lines.append)
        fleet.gather()
        (kind,) = fleet.kinds
        try:
            choose_kinds(fleet, ["a64fx"])
        except FleetError as error:
            refusals.append(str(error))
        target = workplace_of(fleet, kind, "warm").target
        space = make_space(task_of("dense", dense(64, (4, 64, 16), 64)), target)
        rng = np.random.default_rng(0)
        configs = distinct(np.concatenate([space.default()[None], sample(space, rng, 24)]))
        runner = FleetRunner(target, fleet, told.append)
        runner.submit(1, Job(space, configs, math.inf, time.monotonic() + 300.0))
        while not told:
            runner.listen(1.0)
        os.kill(_desk(), signal.SIGKILL)
        returned = dict(runner.finished())[1]
        until = time.monotonic() + 120.0
        while len(fleet.measuring()) < 2 and time.monotonic() < until:  # Ray starts it anew
            runner.listen(0.5)
        states = [node.state for node in runner.nodes]
    with connected(address) as crew, patch.object(Versions, "here", lambda: Versions("99.0", "3.9")):
        try:
            Fleet(crew).gather()
        except FleetError as error:
            refusals.append(str(error))
    return Seen(len(configs), returned, told, states, lines, refusals, target.cores)


def _desk() -> int:
    """The process that measures on one of the nodes of the cluster, which has the token of this process."""
    path = os.environ["RAY_AUTH_TOKEN_PATH"].encode()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            desk = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Desk")
            if desk and path in Path(f"/proc/{pid}/environ").read_bytes():
                return pid
    raise AssertionError("no node measures")
