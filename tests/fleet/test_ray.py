"""A cluster of two nodes and a builder: a command tunes on all, and what is killed costs what was in flight."""

from __future__ import annotations

import contextlib
import json
import os
import platform
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
from tests.fleet.drive import gather_as_another_version
from tests.models import conv_model
from tests.targets import host_target, lack
from tilewright.errors import RecordsError
from tilewright.executable.executable import load_executable
from tilewright.executable.manifest import read_manifest
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.measure.outcome import Measurement
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


def test_a_command_tunes_on_two_nodes_and_survives_the_death_of_one(nodes: LocalCluster, tmp_path: Path) -> None:
    """One test, because to start a cluster takes most of its time, and several could go to several processes."""
    with IsolatedCall(gather_as_another_version, nodes.address, environment=nodes.environment) as call:
        said = str(call.result())
    assert "cannot take part: the head has Tilewright 99.0 on Python 3.9, but the node has " in said

    nodes.start(builder=True)
    command = [sys.executable, "-W", "error", "-m", "tilewright.cli", "tune", str(conv_model(tmp_path / "m.onnx"))]
    command += [f"--fleet={nodes.address}", "--trials=59", f"--out={tmp_path / 'out'}", f"--json={tmp_path / 'r.json'}"]
    environment = {**nodes.environment, "TILEWRIGHT_RECORDS": str(tmp_path / "records.db"), "HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            _kill_two(nodes, running, tmp_path / "records.db")
            code = running.wait(300)
        finally:
            running.kill()
    text = (tmp_path / "log").read_text()
    assert code == 0, text
    assert "is lost (its process died); " in text
    assert "ray" not in text.lower()
    report = json.loads((tmp_path / "r.json").read_text())
    assert 0 < report["trials"] <= 59  # with so few no finalists are measured again
    assert report["verdict"]["outcome"] == "right"
    assert {node["cores"] for node in report["nodes"]} == {1}
    assert "what it was to build, others build" in text
    stored = _stored(tmp_path / "records.db")
    assert len(stored) == sum(node["trials"] for node in report["nodes"])
    assert max(Counter((m.task, m.config) for m in stored if m.ok).values()) == 1
    assert not (tmp_path / ".ray").exists()
    if platform.machine() == "x86_64":
        _tune_for_another_kind(nodes, tmp_path)


def _tune_for_another_kind(nodes: LocalCluster, folder: Path) -> None:
    """A node that counts as an older CPU than the head's tunes for its kind. The head keeps the records."""
    nodes.start(counts_as="x86-64-v2")
    command = [sys.executable, "-W", "error", "-m", "tilewright.cli", "tune", str(folder / "m.onnx"), "--trials=12"]
    command += [
        f"--fleet={nodes.address}",
        "--kind=x86-64-v2",
        f"--out={folder / 'v2'}",
        f"--json={folder / 'v2.json'}",
    ]
    environment = {**nodes.environment, "TILEWRIGHT_RECORDS": str(folder / "v2.db"), "HOME": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "nodes of kind x86-64-v2-1x-" in done.stderr
    report = json.loads((folder / "v2.json").read_text())
    assert report["target"].startswith("x86-64-v2-1x-")
    (builder,) = (node for node in report["nodes"] if node["state"] == "building")  # of the head's kind
    assert 0 < builder["built"] <= 12
    assert builder["trials"] == 0
    assert report["verdict"]["outcome"] == "right"
    assert report["runtime_race"] is None  # ONNX Runtime would use more than x86-64-v2 has
    stored = _stored(folder / "v2.db")
    assert len(stored) == report["trials"] > 0
    assert {m.target for m in stored} == {report["target"]}
    manifest = read_manifest(folder / "v2")
    assert not {"avx", "avx2", "fma", "avx512f"} & set(manifest["target"]["features"])
    (x,) = (np.ones(spec.shape, spec.dtype) for spec in load_executable(folder / "v2").inputs)
    ours, native = (load_executable(folder / name)(x)[0] for name in ("v2", "out"))
    np.testing.assert_allclose(ours, native, rtol=1e-4, atol=1e-5)


def _kill_two(nodes: LocalCluster, running: subprocess.Popen[bytes], records: Path) -> None:
    """Kill the processes of a node that measures and of the builder, as soon as the first measurements are recorded."""
    until = time.monotonic() + 300.0
    while time.monotonic() < until and running.poll() is None:
        time.sleep(0.05)
        if records.exists() and _stored(records):
            desks = nodes.pids("ray::Desk")
            builders = [
                pid for pid in desks if b"TILEWRIGHT_NODE_BUILDER=1" in Path(f"/proc/{pid}/environ").read_bytes()
            ]
            measuring = [pid for pid in desks if pid not in builders]
            for pid in (builders[0], measuring[0]):
                os.kill(pid, signal.SIGKILL)
            return


def _stored(records: Path) -> list[Measurement]:
    with contextlib.suppress(RecordsError), open_store(records, writable=False) as store:  # it may be just being made
        return list(store.scan(Query()))
    return []
