"""Work-arounds that are seen in a process of their own only."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import TARGET, conv_model

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


#: What a process may do first that has not asked for a target itself.
FIRST = {
    "a target that another process sent": "import pickle; pickle.loads(bytes.fromhex(sys.argv[1])).tvm",
    "a model": "from pathlib import Path; from tilewright.frontend.load import load; load(Path(sys.argv[2]))",
}


@pytest.mark.parametrize("first", FIRST)
def test_tvm_is_imported_lightly_whatever_needs_it_first(first: str, tmp_path: Path) -> None:
    assert TARGET.tvm is not None  # made before the target is sent
    program = f"import sys; {FIRST[first]}; print('tvm' in sys.modules, 'torch' in sys.modules)"
    command = [sys.executable, "-c", program, pickle.dumps(TARGET).hex(), str(conv_model(tmp_path / "m.onnx"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
