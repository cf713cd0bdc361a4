"""A process that prepares parts starts without most of PyTorch's compilers, and traces as with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

PROGRAM = """
import sys
from tilewright.training.light_torch import leave_out_dynamo

leave_out_dynamo()
import torch
from torch.fx.experimental.proxy_tensor import make_fx

module = make_fx(lambda x: torch.relu(x @ x))(torch.eye(3))
assert torch.equal(module(torch.eye(3)), torch.eye(3))
print("torch._dynamo.symbolic_convert" in sys.modules, "torch._inductor.standalone_compile" in sys.modules)
"""


def test_tracing_needs_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"], done.stderr
