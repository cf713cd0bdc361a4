"""Executables that share an arena compute what each computes alone, whichever runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import helper

from tests.models import built, normal, save
from tilewright.executable.executable import load_executable
from tilewright.executable.memory import Arena


def _build(folder: Path, pixels: int) -> Path:
    """A directory with an executable of two convolutions."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["t"], name="first"),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], name="second"),
    ]
    shape = [1, 16, pixels, pixels]
    weights = {name: normal(16, 16, 1, 1) for name in "vw"}
    built(save(folder.with_suffix(".onnx"), nodes, {"x": shape}, shape, **weights), folder)
    return folder


def test_executables_share_an_arena_that_grows(tmp_path: Path) -> None:
    folders = [_build(tmp_path / f"e{pixels}", pixels) for pixels in (4, 8)]
    arena = Arena()
    small = load_executable(folders[0], arena=arena)
    before = len(arena.memory)
    x = np.random.default_rng(0).standard_normal((1, 16, 4, 4), dtype=np.float32)
    first = small(x)[0]
    np.testing.assert_array_equal(first, load_executable(folders[0])(x)[0])
    large = load_executable(folders[1], arena=arena)
    assert len(arena.memory) > before
    large(*(np.zeros(spec.shape, dtype=spec.dtype) for spec in large.inputs))
    np.testing.assert_array_equal(small(x)[0], first)
