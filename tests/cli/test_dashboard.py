"""``tilewright dashboard``: it serves a store, and writes nothing into it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.cli.test_bad_input import ROOT
from tilewright.records import open_store
from tilewright.records.runs import RunRecord

pytest.importorskip("starlette", reason="pages are served by Starlette, which is not installed")
pytest.importorskip("uvicorn", reason="pages are served by Uvicorn, which is not installed")


def test_it_serves_a_store_and_does_not_touch_it(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add_run(RunRecord("a network", "fast-2x-1", "Fast", "default", 1.7e9, after_seconds=1e-3))
    before = path.read_bytes(), path.stat().st_mtime_ns
    command = [sys.executable, "-m", "tilewright.cli", "dashboard", "--records", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http\S+", server.stdout.readline())
            assert address is not None
            for where in (address[0], address[0].replace("/?", "/runs.csv?")):
                with urllib.request.urlopen(where, timeout=20) as answer:
                    assert "a network" in answer.read().decode()
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 130
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
