"""Work-arounds that are seen in a process of their own only."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from tilewright.target import Target
Target.parse()
assert "tvm" in sys.modules and "torch" not in sys.modules
import torch
assert torch.ones(2).sum() == 2
"""


def test_tvm_is_imported_without_pytorch_which_can_be_imported_later() -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
