"""Grouped and depthwise contractions: the closed form is that of the program, and programs differ."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.models import TARGET
from tilewright.cost.features import features
from tilewright.ops import contraction
from tilewright.ops.contraction.space import ContractionSpace
from tilewright.space.configs import neighbours, sample
from tilewright.space.loop_nest import Annotation
from tilewright.task import Task

_PLAIN = (1, 1), (0, 0, 0, 0), (1, 1)
_SAME = (1, 1), (1, 1, 1, 1), (1, 1)
CASES: dict[str, tuple[Any, ...]] = {
    # data, weights, (stride, padding, dilation), and of groups the step and the period
    "groups of blocks": ((1, 6, 9, 9, 8), (2, 2, 3, 3, 3, 8, 8), _SAME, 3, 6),
    "channels last": ((1, 1, 14, 14, 160), (4, 5, 1, 1, 1, 40, 8), _PLAIN, 40, 160),
    "shuffled channels": ((2, 1, 7, 7, 160), (4, 5, 4, 1, 1, 10, 8), _PLAIN, 8, 40),
    "depthwise": ((1, 4, 13, 13, 8), (4, 3, 3, 8), _SAME),
    "depthwise, channels last": ((2, 1, 14, 14, 48), (6, 3, 3, 8), ((2, 2), (1, 1, 1, 1), (1, 1))),
    "depthwise 5x5": ((1, 2, 11, 11, 8), (2, 5, 5, 8), ((1, 1), (2, 2, 2, 2), (1, 1))),
}


@cache
def space(name: str) -> ContractionSpace:
    import tvm

    data, weight, window, *lattice = CASES[name]
    make = contraction.grouped_conv2d if lattice else contraction.depthwise_conv2d
    function = make(data, weight, *window, *lattice).with_attr("global_symbol", "main")
    function = function.with_attr("tilewright.contraction", "bgoppl/rrrr" if lattice else "boppl/rr")
    module = tvm.ir.IRModule({"main": function})
    return ContractionSpace(Task("key", name, "contraction", 1e6, tvm.ir.save_json(module)), TARGET)


@pytest.mark.parametrize("name", CASES)
def test_loop_nest_is_that_of_the_program(name: str) -> None:
    here = space(name)
    configs = np.concatenate([here.default()[None], sample(here, np.random.default_rng(0), 10)])
    nest = here.loop_nest(configs)
    assert np.isfinite(features(nest)).all()
    for row, config in enumerate(configs):
        schedule = here.schedule(config)
        loops = [schedule.get(x) for x in schedule.get_loops(schedule.get_sblock("contraction_update"))]
        found = [(int(node.extent), int(node.kind)) for node in loops if int(node.extent) > 1]
        claimed: list[tuple[int, int]] = []
        for extent, kind in zip(nest.extents[row], nest.annotations[row], strict=True):
            if extent == 1:
                continue
            if kind == Annotation.PARALLEL and claimed and claimed[-1][1] == kind:
                claimed[-1] = (claimed[-1][0] * int(extent), int(kind))
            else:
                claimed.append((int(extent), int(kind)))
        assert claimed == found, config


@pytest.mark.parametrize("name", CASES)
def test_default_is_valid_and_programs_differ(name: str) -> None:
    here = space(name)
    assert here.valid(here.default()[None])[0]
    near = neighbours(here, here.default())
    near = near[here.valid(near)][:24]
    scripts = [here.schedule(c).mod.script() for c in [here.default(), *near]]
    assert len(set(scripts)) == len(scripts)


def test_whole_nest_touches_whole_buffers() -> None:
    nest = space("channels last").loop_nest(space("channels last").default()[None])
    assert nest.touched[0, :, 0].tolist() == [4 * 196 * 160, 4 * 4 * 5 * 40 * 8, 4 * 196 * 160]
    nest = space("depthwise").loop_nest(space("depthwise").default()[None])
    assert nest.touched[0, :, 0].tolist() == [4 * 4 * 225 * 8, 4 * 4 * 72, 4 * 4 * 169 * 8]


def test_the_kernel_of_a_depthwise_convolution_is_written_out() -> None:
    here = space("depthwise")
    nest = here.loop_nest(here.default()[None])
    kernel = [nest.axes.index("kh"), nest.axes.index("kw")]
    kinds = [nest.annotations[0, i] for i in range(nest.axis.shape[1]) if nest.axis[0, i] in kernel]
    assert kinds == [Annotation.UNROLLED] * 2
