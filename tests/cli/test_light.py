"""``--help`` imports nothing heavy, and lists the commands."""

from __future__ import annotations

import subprocess
import sys

from tests.cli.test_bad_input import ROOT, call, tilewright

HEAVY = ("tvm", "numpy", "onnx", "onnxruntime", "xgboost", "sqlalchemy", "sklearn", "pyarrow", "torch", "rich.live")


def test_help_lists_the_commands() -> None:
    done = tilewright("--help")
    assert done.returncode == 0
    for command in ("tune", "bench", "run", "export", "tasks", "records", "cost"):
        assert f"  {command} " in done.stdout
    for command in ("ls", "export", "import-metaschedule"):
        assert f"  {command} " in call("records", "--help").stdout
    for command in ("train", "eval"):
        assert f"  {command} " in call("cost", "--help").stdout


def test_each_command_is_summed_up_in_a_whole_line() -> None:
    for group in ((), ("records",), ("cost",)):
        assert "..." not in call(*group, "--help").stdout.partition("Commands:")[2]


def test_the_command_line_imports_nothing_heavy() -> None:
    program = f"import sys, tilewright.cli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
