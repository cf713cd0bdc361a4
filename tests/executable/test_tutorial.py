"""The tutorial of C: its commands and programs work, and the C program prints what Python does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import runs
from tests.pages import ROOT, programs

pytestmark = [runs, pytest.mark.skipif(shutil.which("pkg-config") is None, reason="there is no pkg-config")]
PAGE = "tutorial/deploy-in-c.md"


def test_a_network_in_a_c_program(tmp_path: Path) -> None:
    model, python = programs(PAGE, "python")
    make, call = programs(PAGE, "bash")
    (main,) = programs(PAGE, "c")
    (tmp_path / "main.c").write_text(main)

    def run(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-c", model)
    tune, made = make.split("\n", 1)  # without records, the default kernels are built
    assert tune.endswith("--budget 1m")
    run("bash", "-ec", f'tilewright() {{ "{sys.executable}" -m tilewright.cli "$@"; }}\n{made}')
    ours, theirs = run("bash", "-ec", call), run(sys.executable, "-c", python)
    assert ours == theirs
    assert len(ours.splitlines()) == 10
