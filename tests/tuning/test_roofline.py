"""The roofline: limits that hold for spaces, and a measurement that gives numbers at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.network.models import TARGET, conv_model
from tests.toys import ToySpace, plain
from tests.tuning.replay import task
from tilewright.network.load import load
from tilewright.network.tasks import extract
from tilewright.space.registry import make_space
from tilewright.tuning.roofline import Roofline, measure_roofline


def test_arithmetic_or_bytes_whichever_takes_longer(tmp_path: Path) -> None:
    uses = extract(load(conv_model(tmp_path / "m.onnx")), TARGET).uses
    space = next(make_space(use.task, TARGET) for use in uses if use.task.kind == "contraction")
    assert Roofline(1e9, 1e15).possible(space) == space.task.flop / 1e9
    least = 4 * (8 * 10 * 10 + 16 * 8 * 3 * 3 + 16 + 16 * 10 * 10)
    assert least / 1e9 < Roofline(1e15, 1e9).possible(space) < 2 * least / 1e9


def test_a_space_without_closed_form_has_its_arithmetic() -> None:
    space = ToySpace(plain(3), task=replace(task("toy"), flop=5e6))
    assert Roofline(1e9, 1e9).possible(space) >= 5e-3


def test_this_machine_has_limits() -> None:
    found = measure_roofline(1)
    assert np.isfinite([found.flops, found.bandwidth]).all()
    assert min(found.flops, found.bandwidth) > 1e7
