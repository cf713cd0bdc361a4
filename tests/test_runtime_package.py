"""The package ``tilewright-runtime``: what it holds, and that an executable runs with it alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grimp")

from release.build_runtime import PACKAGE, assemble
from tests.executables import shared
from tests.models import runs
from tilewright import load_executable

__all__ = ["shared"]

#: Runs an executable in a process that can import neither Tilewright nor what it needs, and has no compiler.
PROGRAM = """
import os, sys
os.environ.update(PATH="", CC="")
for name in ("tilewright", "tvm", "tvm_ffi", "onnx", "onnxruntime", "scipy", "sklearn", "typer", "rich", "sqlalchemy"):
    sys.modules[name] = None
import numpy as np
from tilewright_runtime import Executable, OutputError, load_executable
network = load_executable(sys.argv[1])
assert isinstance(network, Executable)
np.save(sys.argv[2], network(*[np.ones(spec.shape, spec.dtype) for spec in network.inputs])[0])
try:
    load_executable(sys.argv[1] + "/none")
except OutputError:
    print("refused")
"""


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtime")
    assemble(folder)
    return folder


def test_it_is_small_and_imports_nothing_of_tilewright(assembled: Path) -> None:
    sources = list((assembled / PACKAGE).rglob("*.py"))
    held = {source.relative_to(assembled / PACKAGE).parts[0] for source in sources}
    assert held.isdisjoint(
        {"tuning", "ops", "space", "search", "cost", "cli", "graph", "frontend", "records", "verify"}
    )
    assert "from tilewright." not in "".join(source.read_text(encoding="utf-8") for source in sources)
    assert {"py.typed", "executable", "errors.py"} <= {path.name for path in (assembled / PACKAGE).iterdir()}


@runs
def test_an_executable_runs_without_tilewright_and_without_a_compiler(
    assembled: Path, shared: Path, tmp_path: Path
) -> None:
    file = tmp_path / "y.npy"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, shared, file], cwd=assembled, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "refused\n"
    network = load_executable(shared)
    (right,) = network(*[np.ones(spec.shape, spec.dtype) for spec in network.inputs])
    assert np.array_equal(np.load(file), right)
