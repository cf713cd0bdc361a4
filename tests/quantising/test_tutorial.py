"""The tutorial of quantising: its commands and programs work, and integers read as many digits right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.models import runs
from tests.pages import ROOT, programs

pytestmark = runs
PAGE = "tutorial/a-quantised-model.md"


def test_digits_are_read_on_integers(tmp_path: Path) -> None:
    model, count = programs(PAGE, "python")
    quantise, tune = programs(PAGE, "bash")

    def run(*command: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(program: str) -> str:
        return run("bash", "-ec", f'tilewright() {{ "{sys.executable}" -m tilewright.cli "$@"; }}\n{program}')

    run(sys.executable, "-c", model)
    said = shell(quantise)
    assert "2 Conv" in said
    assert float(re.findall(r"^scores +([\d.]+)", said, re.MULTILINE)[0]) > 0.999
    # Default kernels, and no trials: the tutorial's minute would be most of a minute of waiting.
    plain = tune.replace("tune digits", "build digits").replace(" --reference digits.onnx", "")
    shell(plain.replace(" --budget 1m", ""))
    real, levels = (float(found) for found in re.findall(r"([\d.]+)%", run(sys.executable, "-c", count)))
    assert real > 90
    assert abs(real - levels) < 1
