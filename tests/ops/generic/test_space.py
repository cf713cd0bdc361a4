"""The auto space: programs of every sketch are right, configs have one form, and nothing depends on the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import host_target, require
from tilewright.errors import SpaceError
from tilewright.ops.generic.space import FIRST_SKETCH, AutoSpace
from tilewright.ops.generic.trace import Generator, factorisations
from tilewright.ops.registry import make_space
from tilewright.space.configs import mutate, neighbours, sample
from tilewright.space.knob import SplitKnob
from tilewright.space.module import task_module
from tilewright.space.space import Configs
from tilewright.target import Target
from tilewright.task import Task

UNTUNED, SIMPLE = 0, 1


def softmax() -> list[Any]:
    from tvm import te, topi

    x = te.placeholder((4, 64), name="x")
    return [x, topi.nn.softmax(x)]


def max_pool() -> list[Any]:
    from tvm import te, topi

    x = te.placeholder((1, 8, 15, 15), name="x")
    return [x, topi.nn.pool2d(x, [3, 3], [2, 2], [1, 1], [1, 1, 1, 1], "max", layout="NCHW")]


def depthwise() -> list[Any]:
    """Padding, convolution, bias and relu: blocks before and after the one that reduces."""
    from tvm import te, topi

    x, w, b = (te.placeholder(s, name=n) for s, n in (((1, 8, 14, 14), "x"), ((8, 1, 3, 3), "w"), ((1, 8, 1, 1), "b")))
    y = topi.nn.depthwise_conv2d_nchw(x, w, 1, 1, 1)
    return [x, w, b, topi.nn.relu(topi.add(y, b))]


def chain() -> list[Any]:
    from tvm import te, topi

    x, y = te.placeholder((3, 40), name="x"), te.placeholder((3, 40), name="y")
    return [x, y, topi.nn.relu(topi.multiply(topi.add(x, y), topi.exp(x)))]


def concatenation() -> list[Any]:
    from tvm import te, topi

    x, y = te.placeholder((1, 3, 6, 8), name="x"), te.placeholder((1, 5, 6, 8), name="y")
    return [x, y, topi.concatenate((x, y), axis=1)]


def total() -> list[Any]:
    """A result without dimensions: no spatial loop at all."""
    from tvm import te, topi

    x = te.placeholder((6, 10), name="x")
    return [x, topi.sum(x)]


def transposition() -> list[Any]:
    from tvm import te, topi

    x = te.placeholder((2, 12, 5), name="x")
    return [x, topi.transpose(x, (0, 2, 1))]


FUNCTIONS: list[Callable[[], list[Any]]] = [
    softmax,
    max_pool,
    depthwise,
    chain,
    concatenation,
    total,
    transposition,
]


@cache
def target() -> Target:
    return host_target()


@cache
def task(function: Callable[[], list[Any]]) -> Task:
    target()  # sets the threads before TVM is imported
    import tvm

    module = tvm.ir.IRModule({"main": tvm.te.create_prim_func(function())})
    return Task(function.__name__, function.__name__, "auto", 1.0, tvm.ir.save_json(module))


@cache
def space(function: Callable[[], list[Any]]) -> AutoSpace:
    return AutoSpace(task(function), target())


def draw(space: AutoSpace, count: int, seed: int = 0) -> Configs:
    rng = np.random.default_rng(seed)
    return rng.integers(0, [len(k) for k in space.knobs], size=(count, len(space.knobs)), dtype=np.int32)


def outputs(module: Any, seed: int = 0) -> list[NDArray[np.float32]]:
    """Every argument after a call on random data: inputs and results alike."""
    import tvm

    require(target())
    rng = np.random.default_rng(seed)
    shapes = [[int(n) for n in param.ty.shape] for param in module["main"].params]
    arguments = [tvm.runtime.tensor(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
    call_kernel(module, target(), *arguments)
    return [argument.numpy() for argument in arguments]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_programs_agree_with_the_untuned_one(function: Callable[[], list[Any]]) -> None:
    auto = space(function)
    expected = outputs(task_module(auto.task))
    configs = auto.canonical(draw(auto, 6))
    for config in [auto.default(), *configs]:
        for given, wanted in zip(outputs(auto.schedule(config).mod), expected, strict=True):
            np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5, err_msg=str(config))


@pytest.mark.parametrize("function", [softmax, depthwise, max_pool], ids=lambda f: f.__name__)
def test_every_sketch_has_programs(function: Callable[[], list[Any]]) -> None:
    auto = space(function)
    assert len(auto.knobs[0]) > 2, auto.generator_error
    for sketch in range(len(auto.knobs[0])):
        config = np.zeros(len(auto.knobs), dtype=np.int32)
        config[0] = sketch
        assert "main" in auto.schedule(config).mod.get_global_vars()[0].name_hint


def test_default_is_parallel_only_where_it_pays() -> None:
    parallel = set()
    for function in FUNCTIONS:
        default = space(function).default()
        assert default[0] == SIMPLE, function.__name__
        if "T.parallel" in space(function).schedule(default).mod.script():
            parallel.add(function)
    assert depthwise in parallel
    assert not {softmax, chain} & parallel


def test_what_moves_elements_has_metaschedules_program_by_default() -> None:
    from tvm import te, topi

    def transpose() -> list[Any]:
        x = te.placeholder((8, 64, 16), name="x")
        return [x, topi.transpose(x, (0, 2, 1))]

    def narrow() -> list[Any]:
        x = te.placeholder((3, 4096), name="x")
        return [x, topi.transpose(x)]

    def rectified() -> list[Any]:
        x = te.placeholder((64, 128), name="x")
        return [x, topi.nn.relu(x)]

    assert space(transpose).default().tolist() == [FIRST_SKETCH, 0, 0, 0, 0, 0]
    assert "T.parallel" in space(transpose).schedule(space(transpose).default()).mod.script()
    assert space(narrow).default()[0] == SIMPLE
    assert space(rectified).default()[0] == SIMPLE


def test_simple_sketch_spreads_and_vectorises() -> None:
    auto = space(depthwise)
    config = auto.default()
    names = [k.name for k in auto.knobs]
    config[names.index("parallel")] = 1
    vector = names.index("vector")
    config[vector] = len(auto.knobs[vector]) - 1  # the longest: 4 lanes do not divide the rows of 14
    script = auto.schedule(config).mod.script()
    assert script.count("T.parallel") == 2  # padding, and convolution with what follows
    assert "T.vectorized" in script
    assert "T.unroll" in script


@pytest.mark.parametrize("name", ["inline", "parallel", "vector", "unroll", "join"])
def test_each_knob_of_the_simple_sketch_changes_something(name: str) -> None:
    import tvm_ffi

    changed = False
    for auto in (space(depthwise), space(chain)):
        config = auto.default()
        column = [k.name for k in auto.knobs].index(name)
        other = config.copy()
        other[column] = (config[column] + 1) % 2
        if not auto.valid(other[None])[0]:
            continue  # one that this function does not use
        changed |= not tvm_ffi.structural_equal(auto.schedule(config).mod, auto.schedule(other).mod)
    assert changed


def test_knobs_that_change_nothing_are_idle() -> None:
    simple = [space(function) for function in (concatenation, chain, depthwise)]
    used = [{auto.knobs[c].name for c in np.flatnonzero(auto._active[SIMPLE])} for auto in simple]
    one, several = {"sketch", "parallel", "vector"}, {"sketch", "inline", "parallel", "vector"}
    assert used == [one, several, {*several, "unroll", "join"}]


def test_untuned_program_is_in_the_space() -> None:
    import tvm_ffi

    auto = space(depthwise)
    untuned = auto.schedule(np.zeros(len(auto.knobs), dtype=np.int32))
    assert tvm_ffi.structural_equal(untuned.mod, task_module(auto.task))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_idle_knobs_are_zero(function: Callable[[], list[Any]]) -> None:
    auto = space(function)
    configs = draw(auto, 2000)
    canonical = auto.canonical(configs)
    assert canonical.dtype == np.int32
    np.testing.assert_array_equal(canonical[:, 0], configs[:, 0])
    np.testing.assert_array_equal(auto.canonical(canonical), canonical)
    assert auto.valid(canonical).all()
    np.testing.assert_array_equal(auto.valid(configs), (configs == canonical).all(axis=1))
    assert not canonical[canonical[:, 0] == UNTUNED].any()


def test_configs_are_drawn_in_their_one_form() -> None:
    auto = space(depthwise)
    rng = np.random.default_rng(0)
    drawn = sample(auto, rng, 500)
    assert len(drawn) == 500
    assert auto.valid(drawn).all()
    assert set(drawn[:, 0]) == set(range(len(auto.knobs[0])))
    assert auto.valid(mutate(auto, rng, drawn)).all()
    near = neighbours(auto, auto.default())
    assert auto.valid(near).all()
    assert set(near[:, 0]) == set(range(len(auto.knobs[0])))
    # A space without tiles is small enough to be listed: the untuned program, 8 simple ones, MetaSchedule's one.
    assert len(sample(space(concatenation), rng, 1000)) == 1 + 2 * 4 + 1


def test_knobs_are_what_metaschedule_samples() -> None:
    auto = space(depthwise)
    assert all(len(knob) > 1 for knob in auto.knobs)
    assert len({knob.name for knob in auto.knobs}) == len(auto.knobs)
    tiles = [knob for knob in auto.knobs if isinstance(knob, SplitKnob)]
    assert {knob.extent for knob in tiles} == {8, 14, 3}
    assert all((knob.table.prod(axis=1) == knob.extent).all() for knob in tiles)
    assert (0, 16, 64, 512) in [tuple(knob.table[:, 0]) for knob in auto.knobs]


def test_decisions_are_taken() -> None:
    auto = space(depthwise)
    column = next(i for i, k in enumerate(auto.knobs) if isinstance(k, SplitKnob) and k.extent == 14)
    config = np.zeros(len(auto.knobs), dtype=np.int32)
    config[0] = 2
    for index in range(0, len(auto.knobs[column]), 7):
        config[column] = index
        trace = auto.schedule(config).trace
        taken = [[int(f) for f in d] for i, d in trace.decisions.items() if i.kind.name == "SamplePerfectTile"]
        assert list(auto.knobs[column].choices[index]) in taken


def test_trace_can_be_stored_and_replayed(tmp_path: Path) -> None:
    """As MetaSchedule's databases do it, which users may load our results into."""
    import tvm_ffi
    from tvm.s_tir import Schedule
    from tvm.s_tir.meta_schedule.database import JSONDatabase, TuningRecord

    auto = space(depthwise)
    for number, config in enumerate([auto.default(), *auto.canonical(draw(auto, 5, seed=2))]):
        schedule = auto.schedule(config)
        files = [str(tmp_path / f"{kind}{number}.json") for kind in ("workload", "record")]
        written = JSONDatabase(*files)
        workload = written.commit_workload(task_module(auto.task))
        written.commit_tuning_record(TuningRecord(schedule.trace, workload, [1.0], target().tvm))
        (record,) = JSONDatabase(*files, allow_missing=False).get_all_tuning_records()
        again = Schedule(task_module(auto.task))
        record.trace.apply_to_schedule(again, remove_postproc=False)
        assert tvm_ffi.structural_equal(again.mod, schedule.mod)


def describe(auto: AutoSpace) -> str:
    scripts = [auto.schedule(c).mod.script() for c in auto.canonical(draw(auto, 4, seed=1))]
    return json.dumps([[(k.name, k.choices) for k in auto.knobs], auto.default().tolist(), scripts])


def test_same_space_in_another_process() -> None:
    code = (
        "import sys; from tests.ops.generic.test_space import *\n"
        "auto = AutoSpace(Task('k', 'softmax', 'auto', 1.0, sys.stdin.read()), target())\n"
        "print(describe(auto))"
    )
    root = str(Path(__file__).parents[3])
    given = subprocess.run(
        [sys.executable, "-c", code],
        input=task(softmax).ir,
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert given.stdout.strip() == describe(space(softmax))


def test_a_failing_generator_leaves_two_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Generator) -> list[Any]:
        raise RuntimeError("Check failed: no rule applies")

    monkeypatch.setattr(Generator, "traces", refuse)
    auto = AutoSpace(task(depthwise), target())
    assert len(auto.knobs[0]) == 2
    assert "no rule applies" in auto.generator_error
    assert auto.default()[0] == SIMPLE
    for config in auto.canonical(draw(auto, 6)):
        auto.schedule(config)


def test_default_falls_back_to_the_untuned_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise ValueError("not this one")

    monkeypatch.setattr("tilewright.ops.generic.space.simple_schedule", refuse)
    auto = AutoSpace(task(chain), target())
    assert not auto.default().any()


def test_refuses_what_is_not_of_the_space() -> None:
    auto = space(softmax)
    idle = np.zeros(len(auto.knobs), dtype=np.int32)
    idle[-1] = 1
    assert not auto.valid(idle[None])[0]
    with pytest.raises(SpaceError, match="canonical"):
        auto.schedule(idle)
    with pytest.raises(SpaceError, match="each below"):
        auto.schedule(np.full(len(auto.knobs), 999, dtype=np.int32))
    with pytest.raises(SpaceError, match="each below"):
        auto.schedule(np.zeros(1, dtype=np.int32))
    with pytest.raises(SpaceError, match="closed form"):
        auto.loop_nest(idle[None])
    assert not auto.has_loop_nest


def test_tvm_failures_become_space_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = AutoSpace(task(softmax), target())
    config = np.zeros(len(auto.knobs), dtype=np.int32)
    config[0] = 2
    monkeypatch.setattr(Generator, "finish", lambda self, schedule: "DisallowDynamicLoop")
    with pytest.raises(SpaceError, match="DisallowDynamicLoop"):
        auto.schedule(config)


def test_factorisations() -> None:
    assert factorisations(4, 2, 64) == ((1, 4), (2, 2), (4, 1))
    assert factorisations(128, 2, 64)[0] == (2, 64)
    assert factorisations(7, 1, 4) == ()
    assert len(factorisations(512, 4, 512)) == 220


def test_what_only_moves_elements_is_served() -> None:
    assert make_space(task(transposition), target()).template == "auto/1"
    assert make_space(task(chain), target()).template == "elementwise/1"
