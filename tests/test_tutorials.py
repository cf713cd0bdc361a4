"""Tutorials run as notebooks, from their first cell to their last, with smaller budgets."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from docs.notebooks import TUTORIALS
from tests.models import runs
from tests.notebooks import run_tutorial
from tests.pages import DOCS

pytestmark = runs


def test_each_page_with_programs_is_a_notebook() -> None:
    with_programs = {
        page.stem for page in (DOCS / "tutorial").glob("*.md") if "```" in page.read_text(encoding="utf-8")
    }
    assert with_programs == set(TUTORIALS)


def test_the_first_network(tmp_path: Path) -> None:
    less = {"--budget 1m": "--budget 3s", "--against untuned": "--blocks 2 --block-seconds 0.1"}
    _, tuned, raced, compared = run_tutorial("first-network", tmp_path, less)
    assert "executable: tuned" in tuned
    assert "onnxruntime" in raced
    assert float(compared.split()[-1]) < 1e-4


def test_a_network_in_a_c_program(tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("there is no pkg-config")
    # Without records, the default kernels are built.
    *_, ours, theirs = run_tutorial("deploy-in-c", tmp_path, {"tilewright tune small.onnx --out tuned --budget 1m": ""})
    assert ours == theirs
    assert len(ours.splitlines()) == 10


def test_digits_are_read_on_integers(tmp_path: Path) -> None:
    # Default kernels, and no trials: the tutorial's minute would be most of a minute of waiting.
    less = {"tune digits": "build digits", " --reference digits.onnx": "", " --budget 1m": ""}
    _, said, _, read = run_tutorial("a-quantised-model", tmp_path, less)
    assert "2 Conv" in said
    assert float(re.findall(r"^scores +([\d.]+)", said, re.MULTILINE)[0]) > 0.999
    real, levels = (float(found) for found in re.findall(r"([\d.]+)%", read))
    assert real > 90
    assert abs(real - levels) < 1


def test_the_digits_are_learned_alike(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    last = """
import math
first = zip(eager_losses[:5], losses[:5], strict=True)
assert all(math.isclose(a, b, rel_tol=1e-4) for a, b in first)
"""
    *_, learned, report, _ = run_tutorial("train-a-network", tmp_path, {'"budget": "1m"': '"budget": "1s"'}, last)
    eager, ours = (float(found) for found in re.findall(r"[\d.]+", learned.splitlines()[-1]))
    assert eager > 0.9
    assert abs(eager - ours) < 0.03
    assert "forward" in report
