"""The spaces of Winograd's transforms, and of all in one function: right programs, one for each config."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tests.targets import require
from tilewright.errors import SpaceError
from tilewright.graph.tasks import task_of
from tilewright.ops.registry import make_space
from tilewright.ops.winograd import (
    FusedWinogradSpace,
    Tiling,
    WinogradTransformSpace,
    data_transform,
    fused,
    inverse_transform,
    transform_weight,
)
from tilewright.space.configs import sample
from tilewright.space.module import task_module
from tilewright.target import Target
from tilewright.task import Task

LANES = 8
CASES = {
    # m, batch, (height, width), padding
    "F2": (2, 1, (14, 14), (1, 1, 1, 1)),
    "F4": (4, 1, (14, 14), (1, 1, 1, 1)),
    "F4 exact": (4, 2, (10, 18), (0, 0, 0, 0)),
    "F4 one tile": (4, 1, (5, 5), (0, 1, 0, 1)),
    "F2 batch": (2, 4, (7, 12), (1, 0, 0, 1)),
}
STAGES = ("data", "inverse")
#: Cases of which every config is scheduled: both algorithms, and a map that one tile covers. Of the others, some are.
WHOLE = ("F2", "F4", "F4 one tile")
#: F(4x4, 3x3) interpolates at 0, +-5/8, +-3/2 and infinity.
_B: dict[int, Any] = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [225 / 256, 0, -169 / 64, 0, 1, 0],
        [0, -45 / 32, -9 / 4, 5 / 8, 1, 0],
        [0, 45 / 32, -9 / 4, -5 / 8, 1, 0],
        [0, -75 / 128, -25 / 64, 3 / 2, 1, 0],
        [0, 75 / 128, -25 / 64, -3 / 2, 1, 0],
        [0, 225 / 256, 0, -169 / 64, 0, 1],
    ],
}
_A: dict[int, Any] = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [
        [1, 1, 1, 1, 1, 0],
        [0, 5 / 8, -5 / 8, 3 / 2, -3 / 2, 0],
        [0, 25 / 64, 25 / 64, 9 / 4, 9 / 4, 0],
        [0, 125 / 512, -125 / 512, 27 / 8, -27 / 8, 1],
    ],
}


@cache
def target() -> Target:
    return Target.parse("llvm:core-avx2")


@cache
def tiling(name: str) -> Tiling:
    m, batch, size, padding = CASES[name]
    return Tiling.of(m, batch, *size, padding)


@cache
def task(name: str, stage: str) -> Task:
    here = tiling(name)
    if stage == "inverse":
        return task_of(stage, inverse_transform(here, 3, LANES))
    return task_of(stage, data_transform(here, (here.batch, 3, *CASES[name][2], LANES)))


@cache
def space(name: str, stage: str) -> WinogradTransformSpace:
    made = make_space(task(name, stage), target())
    assert isinstance(made, WinogradTransformSpace)
    return made


def everything(here: WinogradTransformSpace) -> np.ndarray[Any, np.dtype[np.int32]]:
    configs = np.asarray(list(itertools.product(*(range(len(k)) for k in here.knobs))), dtype=np.int32)
    return configs[here.valid(configs)]


def given(name: str, stage: str) -> list[Any]:
    rng = np.random.default_rng(1)
    shapes = [tuple(int(e) for e in p.ty.shape) for p in task_module(task(name, stage))["main"].params]
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def expected(name: str, stage: str) -> np.ndarray[Any, Any]:
    here, source = tiling(name), given(name, stage)[0].astype("float64")
    m, a, (down, across) = here.m, here.a, here.grid
    if stage == "inverse":
        tiles = source.reshape(a, a, 3, here.batch, down, across, LANES)
        y = np.einsum("ir,js,rsonhwv->nohiwjv", _A[m], _A[m], tiles)
        y = y.reshape(here.batch, 3, down * m, across * m, LANES)
        return np.asarray(y[:, :, : here.rows, : here.cols])
    top, left, bottom, right = here.padding
    below, beside = down * m - here.rows, across * m - here.cols
    padded = np.pad(source, ((0, 0), (0, 0), (top, bottom + below), (left, right + beside), (0, 0)))
    patches = np.stack(
        [
            np.stack([padded[:, :, i * m : i * m + a, j * m : j * m + a] for j in range(across)], axis=2)
            for i in range(down)
        ],
        axis=2,
    )  # n, c, i, j, r, s, v
    v = np.einsum("ur,ws,ncijrsv->uwcnijv", _B[m], _B[m], patches)
    return np.asarray(v.reshape(a * a, 3, here.tiles, LANES))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CASES)
def test_programs_are_right(name: str, stage: str) -> None:
    import tvm

    require(target())
    here = space(name, stage)
    want = expected(name, stage)
    for config in [here.default(), *sample(here, np.random.default_rng(0), 3)]:
        tensors = [tvm.runtime.tensor(a) for a in given(name, stage)]
        call_kernel(here.schedule(config).mod, target(), *tensors)
        np.testing.assert_allclose(tensors[-1].numpy(), want, rtol=1e-4, atol=1e-4, err_msg=str(config))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CASES)
def test_every_valid_config_is_a_program_of_its_own(name: str, stage: str) -> None:
    here = space(name, stage)
    configs = everything(here) if name in WHOLE else sample(here, np.random.default_rng(0), 24)
    assert here.valid(here.default()[None])[0]
    scripts = {here.schedule(config).mod.script() for config in configs}
    assert len(scripts) == len(configs)


def test_what_is_no_transform_is_refused() -> None:
    from tvm import te

    x = te.placeholder((4, 4), name="x")
    function = te.create_prim_func([x, te.compute((4, 4), lambda i, j: x[i, j] + 1.0, name="y")])
    plain = task_of("plain", function)
    with pytest.raises(SpaceError, match="transform"):
        WinogradTransformSpace(plain, target())
    here = space("F4", "data")
    with pytest.raises(SpaceError, match="has indices 0 to"):
        here.schedule(np.full(4, 99, dtype=np.int32))
    with pytest.raises(SpaceError, match="closed form"):
        here.loop_nest(here.default()[None])


# All in one function ---------------------------------------------------------------------------------------------

INPUTS, OUTPUTS = 2, 4  # blocks


@cache
def whole(name: str) -> FusedWinogradSpace:
    here = tiling(name)
    weight = (here.a**2, OUTPUTS, INPUTS, LANES, LANES)
    made = make_space(task_of("whole", fused(here, (here.batch, INPUTS, *CASES[name][2], LANES), weight)), target())
    assert isinstance(made, FusedWinogradSpace)
    return made


def convolved(name: str, data: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``(n, C/cb, h, w, cb)`` and ``(O, C, 3, 3)``, directly."""
    here = tiling(name)
    top, left, bottom, right = here.padding
    n, _, h, w, _ = data.shape
    plain = data.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w).astype("float64")
    padded = np.pad(plain, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    result = np.einsum("nchwij,ocij->nohw", windows, weight)
    return np.asarray(result.reshape(n, OUTPUTS, LANES, here.rows, here.cols).transpose(0, 1, 3, 4, 2))


@pytest.mark.parametrize("name", CASES)
def test_programs_in_one_function_are_right(name: str) -> None:
    import tvm

    require(target())
    here, space = tiling(name), whole(name)
    rng = np.random.default_rng(1)
    data = rng.standard_normal((here.batch, INPUTS, *CASES[name][2], LANES)).astype("float32")
    kernels = rng.standard_normal((OUTPUTS * LANES, INPUTS * LANES, 3, 3)).astype("float32")
    shape = (OUTPUTS, LANES, INPUTS, LANES, here.a, here.a)
    packed = transform_weight(here.m, kernels).reshape(shape).transpose(4, 5, 0, 2, 3, 1)
    weight = np.ascontiguousarray(packed.reshape(here.a**2, OUTPUTS, INPUTS, LANES, LANES))
    want = convolved(name, data, kernels)
    for config in [*space.likely(2), *sample(space, np.random.default_rng(0), 2)]:
        tensors = [tvm.runtime.tensor(a) for a in (data, weight, np.zeros(want.shape, "float32"))]
        call_kernel(space.schedule(config).mod, target(), *tensors)
        np.testing.assert_allclose(tensors[-1].numpy(), want, rtol=1e-4, atol=1e-3, err_msg=str(config))


@pytest.mark.parametrize("name", CASES)
def test_configs_of_one_function_are_programs_of_their_own(name: str) -> None:
    space = whole(name)
    configs = sample(space, np.random.default_rng(0), 24)
    scripts = {space.schedule(config).mod.script() for config in configs}
    assert len(scripts) == len(configs)


@pytest.mark.parametrize("name", CASES)
def test_likely_configs_are_valid_and_differ_in_their_tiles(name: str) -> None:
    space = whole(name)
    likely = space.likely(4)
    assert space.valid(likely).all()
    np.testing.assert_array_equal(likely[0], space.default())
    tiles = [tuple(space.knobs[i].choices[row[i]] for i in range(3)) for row in likely]
    assert len(set(tiles)) == len(likely)


def test_a_transform_alone_is_no_whole_convolution() -> None:
    with pytest.raises(SpaceError, match="has the blocks"):
        FusedWinogradSpace(task("F4", "data"), target())
    with pytest.raises(SpaceError, match="closed form"):
        whole("F4").loop_nest(whole("F4").default()[None])
