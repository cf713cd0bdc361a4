"""Programs of products with weights of 4 bits: right for any config, and one form in closed form and in TIR."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops.contraction.nibbles import NibbleForm, nibble_dense, nibble_panels
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.space.loop_nest import Annotation
from tilewright.space.space import DesignSpace
from tilewright.target import Target

FORMS = {
    "one row": (1, NibbleForm(128, 64, 32)),
    "rows, zeros": (5, NibbleForm(96, 40, 16, "uint8")),
    "sticks out": (3, NibbleForm(100, 37, 64, "float32")),
    "panels": (20, NibbleForm(100, 37, 32, "uint8")),
}


@cache
def space(name: str, lanes: int) -> DesignSpace:
    rows, form = FORMS[name]
    function = (nibble_panels if name == "panels" else nibble_dense)(rows, form, lanes)
    return make_space(task_of("nibbles", function, (1, 2, 3) if form.zeros else (1, 2)), lane_target(lanes))


def some(name: str, lanes: int, count: int) -> NDArray[np.int32]:
    here = space(name, lanes)
    return np.concatenate([here.default()[None], sample(here, np.random.default_rng(0), count)])


def draw(name: str, lanes: int) -> tuple[list[NDArray[Any]], NDArray[np.float64]]:
    """The arguments of a kernel, and the exact product."""
    rows, form = FORMS[name]
    rng, count = np.random.default_rng(1), -(-form.outputs // lanes)
    data = rng.standard_normal((rows, form.depth)).astype(np.float32)
    words = rng.integers(0, 1 << 32, (count, form.words, lanes), dtype=np.uint32)
    scales = rng.uniform(-1, 1, (count, form.blocks, lanes)).astype(np.float32)
    zeros = rng.integers(0, 16, scales.shape).astype(form.zeros or np.uint8)
    levels = (words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)[:, None] & 15).reshape(count, -1, lanes)
    middle = zeros.astype(np.float64) if form.zeros else np.full(zeros.shape, 8.0)
    wide = (np.repeat(array, form.block, 1) for array in (middle, scales.astype(np.float64)))
    moved, steps = wide
    weight = ((levels - moved) * steps)[:, : form.depth].transpose(1, 0, 2).reshape(form.depth, -1)[:, : form.outputs]
    result = np.zeros((rows, form.outputs) if name != "panels" else (1, rows, form.outputs), np.float32)
    given = [data, words, scales, *([zeros] if form.zeros else []), result]
    return given, np.asarray(data.astype(np.float64) @ weight).reshape(result.shape)


@pytest.mark.parametrize("lanes", [4, 8, 16], ids=lambda lanes: f"{lanes} lanes")
@pytest.mark.parametrize("name", FORMS)
def test_programs_are_right(name: str, lanes: int) -> None:
    from tvm import runtime

    require(lane_target(lanes))
    given, wanted = draw(name, lanes)
    for config in some(name, lanes, 2):
        tensors = [runtime.tensor(array) for array in given]
        call_kernel(space(name, lanes).schedule(config).mod, lane_target(lanes), *tensors)
        np.testing.assert_allclose(tensors[-1].numpy(), wanted, atol=3e-6 * np.abs(wanted).max(), err_msg=str(config))


def test_the_closed_form_has_the_loops_of_the_program() -> None:
    here, configs = space("rows, zeros", 8), some("rows, zeros", 8, 8)
    nest = here.loop_nest(configs)
    for row, config in enumerate(configs):
        schedule = here.schedule(config)
        loops = [schedule.get(loop) for loop in schedule.get_loops(schedule.get_sblock("contraction_update"))]
        found = [int(loop.extent) for loop in loops if int(loop.extent) > 1 and int(loop.kind) != Annotation.PARALLEL]
        serial = (nest.extents[row] > 1) & (nest.annotations[row] != Annotation.PARALLEL)
        assert nest.extents[row][serial].tolist() == found


def test_weights_are_read_as_half_a_byte_each() -> None:
    nest = space("one row", 16).loop_nest(some("one row", 16, 4))
    assert (nest.touched[:, 1, 0] == 128 * 64 / 2).all()


def test_the_default_loads_a_word_once() -> None:
    for name in ("one row", "rows, zeros"):
        here = space(name, 16)
        (unroll,) = (
            knob.choices[place] for knob, place in zip(here.knobs, here.default(), strict=True) if knob.name == "unroll"
        )
        assert unroll == (8,)


def test_a_processor_of_another_kind_schedules_it() -> None:
    arm = Target.parse("llvm:cortex-a76:aarch64-linux-gnu")
    here = make_space(task_of("nibbles", nibble_dense(2, NibbleForm(64, 16, 32, "uint8"), 4), (1, 2, 3)), arm)
    assert here.valid(here.default()[None])[0]
    here.schedule(here.default())


def test_making_numbers_of_bits_counts_no_operations() -> None:
    for zeros in ("", "uint8", "float32"):
        form = NibbleForm(96, 64, 32, zeros)
        for function in (nibble_dense, nibble_panels):
            assert task_of("nibbles", function(3, form, 16), (1, 2)).flop == 2 * 3 * 96 * 64
