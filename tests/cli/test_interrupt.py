"""Ctrl-C during ``tune``: what was measured is kept, the executable is written, and the exit code says so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.test_bad_input import ROOT
from tests.models import conv_model
from tests.processes import started
from tilewright.executable.executable import load_executable
from tilewright.records import open_store


def test_an_interrupt_ends_the_tuning_and_still_writes_the_executable(tmp_path: Path) -> None:
    model, report = conv_model(tmp_path / "m.onnx"), tmp_path / "tune.json"
    broken = tmp_path / "model.npz"
    broken.write_bytes(b"PK nothing")  # a cost model that cannot be read costs a message, not the run
    arguments = ["--out", tmp_path / "out", "--budget", "10m", "--records", tmp_path / "r.db", "--json", report]
    arguments += ["--cost-model", broken]
    command = [sys.executable, "-m", "tilewright.cli", "tune", *map(str, [model, *arguments])]
    with started(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if "trials " in line and "trials 0" not in line:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, [*seen, errors]
    assert "Traceback" not in errors
    assert "the same command goes on" in output
    assert "tuning goes on without a cost model" in seen[0]
    result = json.loads(report.read_text())
    assert result["method"] == "bayesian"
    assert result["interrupted"]
    with open_store(tmp_path / "r.db") as store:
        assert sum(entry.count for entry in store.summary()) >= result["trials"] > 0
    assert load_executable(tmp_path / "out").inputs[0].shape == (1, 8, 10, 10)


def test_an_interrupt_at_any_moment_leaves_an_executable(tmp_path: Path) -> None:
    model = conv_model(tmp_path / "m.onnx")
    command = [sys.executable, "-m", "tests.cli.interrupting", str(model), str(tmp_path), "16", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    turns = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(turns) == 19
    assert sum(turn["pressed"] for turn in turns) >= 16  # a command may be faster than all before it twice
    for turn in turns:
        assert turn["executable"], turn
        assert turn["leftovers"] == [], turn
        assert turn["interrupted"] or not turn["pressed"] or turn["published"], turn
        if turn["published"] in (None, "earlier"):  # nothing was written: that is only where one was there before
            assert turn["untouched"], turn
