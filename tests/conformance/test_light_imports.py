"""What sees only arrays does not load a compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tilewright

ROOT = Path(tilewright.__file__).parent


@pytest.mark.parametrize("package", ["search", "sample", "cost", "share"])
def test_package_loads_neither_tvm_nor_xgboost(package: str) -> None:
    names = [f"tilewright.{package}.{path.stem}" for path in (ROOT / package).glob("[!_]*.py")]
    assert names
    program = (
        f"import importlib, sys\nfor name in {['tilewright.space.configs', *names]}: importlib.import_module(name)\n"
        "print([name for name in ('tvm', 'xgboost', 'torch', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"
