"""Operators with random attributes are compiled, and give what ONNX Runtime gives. A bench tries more of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench._drawn_operators import DRAWS
from bench._operators import Trial, find_differences
from bench.importer_windows import draw_trials

#: One model for each group.
GROUPS = {
    "windows": ("MaxPool", "AveragePool", "LpPool", "Conv", "ConvTranspose", "Col2Im"),
    "coordinates": ("Resize", "GridSample", "AffineGrid", "RoiAlign", "MaxRoiPool"),
    "indices": ("Pad", "CenterCropPad", "ScatterElements", "ScatterND", "GatherElements", "GatherND", "TopK"),
    "numbers": ("DFT", "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger"),
}


@pytest.mark.parametrize("group", GROUPS)
def test_they_are_compiled_and_right(group: str, tmp_path: Path) -> None:
    trials: dict[str, Trial] = {}
    for operator in GROUPS[group]:
        trials |= draw_trials(DRAWS[operator], 1, 20, 20)
    findings = find_differences(trials, tmp_path)
    assert [f for f in findings if f.outcome != "right"] == []
