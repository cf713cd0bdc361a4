"""A small executable for tests, copies of it to damage, and manifests with right checksums.

``conftest.py`` of a folder whose tests need the fixtures imports them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tilewright.executable.manifest import NAME, seal
from tilewright.executable.runtime.library import find_compiler

__all__ = ["compile_earlier", "out", "read", "reseal", "shared"]

#: A runtime of an earlier version, without kernels: it neither shares its threads nor times calls one by one.
_EARLIER = """
int tilewright_threads(int threads) { return threads; }
int tilewright_nothing(void *self, const void *arguments, int count, void *result) { return 0; }
const char *tilewright_last_error(void) { return ""; }
int tilewright_run(const void *calls, int count) { return -1; }
int tilewright_time(const void *calls, int count, int runs, double *seconds) { return -1; }
void tilewright_initialize(void) {}
"""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executable of ``conv_model``, which no test changes."""
    from tests.models import built, conv_model  # not at the top: fast tests need no TVM

    folder = tmp_path_factory.mktemp("shared")
    built(conv_model(folder / "m.onnx"), folder / "out", lean=False)
    return folder / "out"


@pytest.fixture
def out(shared: Path, tmp_path: Path) -> Path:
    """An executable to damage."""
    return Path(shutil.copytree(shared, tmp_path / "out"))


def compile_earlier(folder: Path) -> Path:
    """A library with a runtime of an earlier version: the file ``earlier.so``."""
    source, library = folder / "earlier.c", folder / "earlier.so"
    source.write_text(_EARLIER)
    subprocess.run([*find_compiler(), "-fPIC", "-shared", str(source), "-o", str(library)], check=True)
    return library


def read(out: Path) -> dict[str, Any]:
    """The manifest as it is in the file."""
    found: dict[str, Any] = json.loads((out / NAME).read_text())
    return found


def reseal(out: Path, manifest: dict[str, Any]) -> None:
    """Write another manifest, with right checksums of the same files."""
    files = sorted(manifest["sha256"].keys() - {NAME})
    (out / NAME).write_text(seal({k: v for k, v in manifest.items() if k != "sha256"}, out, files))
