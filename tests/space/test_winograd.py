"""The space of Winograd's transforms: right programs, one for each config."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest

from tilewright.errors import SpaceError
from tilewright.network.tasks import task_of
from tilewright.network.winograd import Tiling, data_transform, inverse_transform
from tilewright.space.configs import sample
from tilewright.space.module import task_module
from tilewright.space.registry import make_space
from tilewright.space.winograd import WinogradTransformSpace
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
_B = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_A = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
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

    here = space(name, stage)
    want = expected(name, stage)
    for config in [here.default(), *sample(here, np.random.default_rng(0), 3)]:
        tensors = [tvm.runtime.tensor(a) for a in given(name, stage)]
        tvm.compile(here.schedule(config).mod, target=target().tvm)["main"](*tensors)
        np.testing.assert_allclose(tensors[-1].numpy(), want, rtol=1e-4, atol=1e-4, err_msg=str(config))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", CASES)
def test_every_valid_config_is_a_program_of_its_own(name: str, stage: str) -> None:
    here = space(name, stage)
    configs = everything(here)
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
