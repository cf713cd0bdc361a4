"""A cluster of two nodes of one core each: one command tunes on both, and what is killed costs what was in flight."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench._ray_cluster import ROOT, LocalCluster, cluster, missing
from tests.fleet.drive import Seen, measure_while_one_is_killed
from tests.models import conv_model
from tests.targets import host_target, lack
from tilewright.measure.isolated_call import IsolatedCall
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


def test_a_fleet_tunes_and_survives_what_is_killed(nodes: LocalCluster, tmp_path: Path) -> None:
    """One test, because to start a cluster takes most of its time, and several could go to several processes."""
    with IsolatedCall(measure_while_one_is_killed, nodes.address, environment=nodes.environment) as call:
        seen = call.result()
    assert isinstance(seen, Seen)
    assert len(seen.returned) == len(seen.told) == seen.asked
    assert max(Counter(m.config for m in seen.told).values()) == 1
    assert seen.cores == 1
    assert seen.states == ["measuring"] * 2
    assert any("is lost (its process died); 1 node of its kind left" in line for line in seen.lines)
    assert "none of its nodes is of kind 'a64fx'; it has " in seen.refusals[0]
    assert "cannot take part: the head has Tilewright 99.0 on Python 3.9, but the node has " in seen.refusals[1]

    command = [sys.executable, "-W", "error", "-m", "tilewright.cli", "tune", str(conv_model(tmp_path / "m.onnx"))]
    command += [f"--fleet={nodes.address}", "--trials=12", f"--out={tmp_path / 'out'}", f"--json={tmp_path / 'r.json'}"]
    environment = {**nodes.environment, "TILEWRIGHT_RECORDS": str(tmp_path / "records.db"), "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["trials"] == 12
    assert report["verdict"]["outcome"] == "right"
    # On a busy machine the second node may come too late for so few trials.
    assert {(node["cores"], node["state"]) for node in report["nodes"]} == {(1, "measuring")}
    assert f"of kind {report['nodes'][0]['kind']}" in done.stderr
    assert "ray" not in (done.stderr + done.stdout).lower()
    with open_store(tmp_path / "records.db") as store:
        stored = list(store.scan(Query()))
    assert len(stored) == sum(node["trials"] for node in report["nodes"])
    assert not (tmp_path / ".ray").exists()
