"""A cluster of two nodes of one core each: one command tunes on both, and what is killed costs what was in flight."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench._ray_cluster import ROOT, LocalCluster, cluster, missing
from tests.models import conv_model
from tests.targets import host_target, lack
from tilewright.errors import FleetError
from tilewright.fleet.cluster import connected
from tilewright.fleet.fleet import Fleet
from tilewright.fleet.place import choose_kinds, workplace_of
from tilewright.fleet.runner import FleetRunner
from tilewright.graph.tasks import task_of
from tilewright.measure.outcome import Measurement
from tilewright.measure.runner import Job
from tilewright.ops.contraction import dense
from tilewright.ops.registry import make_space
from tilewright.records import open_store
from tilewright.records.store import Query

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    if reason := lack(host_target()):
        pytest.skip(reason)
    with cluster(1, 1) as made:
        yield made
    assert made.pids() == []


def test_a_fleet_tunes_and_survives_what_is_killed(
    nodes: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cluster serves all of it, because to start its processes takes most of the time."""
    for name, value in nodes.environment.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []
    measured: list[Measurement] = []
    with connected(nodes.address) as crew:
        fleet = Fleet(crew, told.append)
        fleet.gather()
        (kind,) = fleet.kinds
        with pytest.raises(FleetError, match=f"none of its nodes is of kind 'a64fx'; it has {kind}"):
            choose_kinds(fleet, ["a64fx"])
        target = workplace_of(fleet, kind, "warm").target
        assert target.cores == 1
        space = make_space(task_of("dense", dense(64, (4, 64, 16), 64)), target)
        configs = np.concatenate([space.default()[None], space.likely(15)]).astype(np.int32)
        runner = FleetRunner(target, fleet, measured.append)
        runner.submit(1, Job(space, configs, math.inf, time.monotonic() + 300.0))
        while not measured:
            runner.listen(1.0)
        os.kill(nodes.pids("ray::Desk")[0], signal.SIGKILL)
        done = dict(runner.finished())[1]
        assert len(done) == len(configs)
        assert max(Counter(m.config for m in measured).values()) == 1
        assert len(measured) == len(configs)
        until = time.monotonic() + 120.0
        while len(fleet.measuring()) < 2 and time.monotonic() < until:  # Ray starts it anew
            runner.listen(0.5)
        assert [node.state for node in runner.nodes] == ["measuring"] * 2
        assert any("is lost (its process died)" in line for line in told)
    _tune(nodes, tmp_path)


def _tune(nodes: LocalCluster, folder: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "tilewright.cli", "tune", str(conv_model(folder / "m.onnx"))]
    command += [f"--fleet={nodes.address}", "--trials=12", f"--out={folder / 'out'}", f"--json={folder / 'r.json'}"]
    environment = {**nodes.environment, "TILEWRIGHT_RECORDS": str(folder / "records.db"), "HOME": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "r.json").read_text())
    assert report["trials"] == 12
    assert report["verdict"]["outcome"] == "right"
    assert [(node["cores"], node["state"]) for node in report["nodes"]] == [(1, "measuring")] * 2
    assert "nodes 2 of kind" in done.stderr
    assert "ray" not in (done.stderr + done.stdout).lower().replace("array", "")
    with open_store(folder / "records.db") as store:
        stored = list(store.scan(Query()))
    assert len(stored) == sum(node["trials"] for node in report["nodes"])
    assert not (folder / ".ray").exists()
