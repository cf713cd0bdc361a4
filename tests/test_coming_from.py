"""The programs for people who come from another tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import conv_model, runs
from tests.pages import names, programs

pytestmark = runs
PAGE = "explanation/coming-from.md"


def test_from_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conv_model(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    theirs, ours, _ = programs(PAGE)
    defined = names(theirs, ours.replace('"5m"', '"2s"'))
    assert np.allclose(defined["y"], defined["expected"], atol=1e-5)
    (again,) = defined["network"](**{defined["session"].get_inputs()[0].name: defined["x"]})
    assert np.array_equal(again, defined["y"])


def test_from_torch_compile() -> None:
    pytest.importorskip("torch")
    *_, program = programs(PAGE)
    defined = names(program.replace('"budget": "1m"', '"mode": "cached"'))  # nothing is compiled
    assert all(parameter.grad is not None for parameter in defined["model"].parameters())
