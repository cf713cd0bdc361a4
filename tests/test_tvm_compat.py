"""Work-arounds that are seen in a process of their own only."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import gc, os, sys
from tilewright.target import Target
before = dict(os.environ)
Target.parse()
assert "tvm" in sys.modules and "torch" not in sys.modules
import tvm
assert tvm.get_global_func("tvm.contrib.sort.topk") and tvm.runtime.disco is None
assert gc.isenabled() and set(os.environ) - set(before) <= {"TVM_NUM_THREADS"}
import torch
assert torch.ones(2).sum() == 2
"""


def test_tvm_is_imported_lightly_and_pytorch_can_be_imported_later() -> None:
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
