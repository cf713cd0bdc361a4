"""Defaults of convolutions of bytes: what cores share, and where the image is padded."""

from __future__ import annotations

import dataclasses

import pytest

from tilewright.graph.tasks import task_of
from tilewright.ops.contraction.program import PAD_INSIDE
from tilewright.ops.contraction.quantised import byte_conv2d
from tilewright.ops.registry import make_space
from tilewright.space.configs import choices_of
from tilewright.target import Target

TWO_CORES = dataclasses.replace(Target.parse("llvm:cascadelake:x86_64-linux-gnu"), cores=2)


def default_of(inputs: int, outputs: int, size: int, kernel: int) -> dict[str, tuple[int, ...]]:
    """What the default decides, by knob."""
    weight = (outputs // 16, inputs // 16, kernel, kernel, 4, 16, 4)
    function = byte_conv2d((1, inputs // 16, size, size, 16), weight, (1, 1), (kernel // 2,) * 4, (1, 1), 0)
    space = make_space(task_of("conv", function, (1,)), TWO_CORES)
    names = [knob.name for knob in space.knobs]
    return dict(zip(names, choices_of(space, space.default()), strict=True))


@pytest.mark.parametrize(("inputs", "outputs", "size", "pixels"), [(256, 64, 56, True), (512, 2048, 7, False)])
def test_cores_share_the_larger_of_image_and_weights(inputs: int, outputs: int, size: int, pixels: bool) -> None:
    found = default_of(inputs, outputs, size, 1)
    rows_first = (found["order"][0] == 1) and found["tile_w"][0] > 1
    assert rows_first is pixels
    assert found["parallel"][0] > 1


def test_each_core_pads_what_it_reads() -> None:
    assert default_of(64, 64, 56, 3)["pad"] == (PAD_INSIDE,)
