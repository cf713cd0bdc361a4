"""What suites of strategies share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.once import make_once

ROOT = Path(__file__).parents[2]
#: Suites with a function ``digests``: hashes of what their strategies do with fixed seeds, each under a name.
SUITES = ("test_cost_models", "test_lanes", "test_samplers", "test_searchers")
PROGRAM = """
import importlib, json, sys
suites = {name: importlib.import_module(f"tests.conformance.{name}") for name in sys.argv[1:]}
print(json.dumps({name: suite.digests() for name, suite in suites.items()}))
"""


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The digests of every suite, from another process: one for all of them, because its imports take seconds."""

    def ask(folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
        command = [sys.executable, "-c", PROGRAM, *SUITES]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
        (folder / "digests.json").write_text(done.stdout, encoding="utf-8")

    path = make_once(tmp_path_factory, "digests-elsewhere", ask) / "digests.json"
    found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return found
