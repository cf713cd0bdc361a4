"""The command on networks of many small operators: it ends, with an executable, in bounded time and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.bounded import KINDS, measure, write_model

#: Seconds after which a command that takes 5 on a quiet machine has not ended: it did not within 25 and 139 before.
LIMIT = 150.0


def test_tasks_of_nested_polynomials(tmp_path: Path) -> None:
    model = write_model("tanh", 12, tmp_path / "m.onnx")
    command = [sys.executable, "-m", "tilewright.cli", "tasks", str(model), "--records", str(tmp_path / "r.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert "elementwise/1" in done.stdout
    assert "1 task" in done.stdout


@pytest.mark.parametrize(("kind", "count"), [("mix", 1000), ("cut", 300)])
def test_tune_ends_with_an_executable(tmp_path: Path, kind: str, count: int) -> None:
    model = write_model(kind, count, tmp_path / "m.onnx")
    found = measure(model, 2.0, tmp_path, LIMIT)
    assert found["exit_code"] == 0, found["message"]
    assert found["executable"]
    assert found["peak_bytes"] < 3 << 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_every_kind_is_extracted(tmp_path: Path, kind: str) -> None:
    from tests.models import read
    from tilewright.graph.tasks import extract
    from tilewright.target import Target

    extraction = extract(read(write_model(kind, 40, tmp_path / "m.onnx")), Target.parse("llvm:x86-64-v3"))
    # However often a function occurs, it is one task.
    assert 1 <= len(extraction.uses) <= 4
