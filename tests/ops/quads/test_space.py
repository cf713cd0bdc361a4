"""Packing an image's planes into quads of bytes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.models import TARGET, runs
from tilewright.graph.tasks import task_of
from tilewright.ops.quads import pack_quads
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample


@runs
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_program_packs_planes_and_fills_gaps_with_zeros(channels: int) -> None:
    from tvm import runtime

    space = make_space(task_of("pack", pack_quads((2, channels, 5, 7), 4), ()), TARGET)
    assert space.template == "quads/1"
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (2, channels, 5, 7)).astype(np.uint8)
    wanted = np.zeros((2, 1, 5, 7, 4), np.uint8)
    wanted[:, 0, :, :, :channels] = image.transpose(0, 2, 3, 1)
    for config in [space.default(), *sample(space, rng, 2)]:
        result = runtime.tensor(np.full(wanted.shape, 77, np.uint8))
        call_kernel(space.schedule(config).mod, TARGET, runtime.tensor(image), result)
        assert np.array_equal(result.numpy(), wanted)
