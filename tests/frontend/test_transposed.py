"""Transposed convolutions are convolutions, whose results are joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.models import agrees, normal, save


@pytest.mark.parametrize(
    ("weight", "attributes", "convolutions"),
    [
        ((32, 16, 2, 2), {"strides": [2, 2]}, 1),  # all phases read the same pixels
        ((32, 24, 4, 3), {"strides": [2, 3], "pads": [2, 0, 0, 3], "output_padding": [1, 0]}, 1),
        ((32, 1, 2, 2), {"strides": [2, 2]}, 1),
        ((32, 16, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, 4),
        ((32, 16, 3, 3), {"strides": [2, 1], "pads": [1, 1, 1, 1], "output_padding": [1, 0]}, 2),
        ((32, 8, 4, 4), {"strides": [2, 2], "dilations": [2, 2], "group": 2}, 1),  # three phases of four are zero
        ((32, 16, 3, 3), {"pads": [1, 1, 1, 1]}, 1),
        ((32, 16, 5), {"strides": [3], "output_padding": [1]}, 3),
    ],
)
def test_each_phase_is_a_convolution(
    tmp_path: Path, weight: tuple[int, ...], attributes: dict[str, Any], convolutions: int
) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    shape = [1, 32, 7, 9][: len(weight)]
    model = save(
        tmp_path / "model.onnx",
        [node],
        {"x": shape},
        [f"extent{place}" for place in range(len(shape))],
        w=normal(*weight),
    )
    uses = agrees(model, tmp_path / "built").uses
    assert sum(use.weight for use in uses if use.task.kind in ("contraction", "winograd")) == convolutions
