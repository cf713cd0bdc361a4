"""MetaSchedule's generator is bounded: in what it is given, and in the time and memory that it takes."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest

from tests.kernels import call_kernel
from tilewright.measure.generating import generate_in_process
from tilewright.ops.elementwise.elementary import ELEMENTARY
from tilewright.ops.generic.generation import Generated, generate, known_generated, remember_generated
from tilewright.ops.generic.simple import simple_schedule
from tilewright.ops.generic.space import AutoSpace
from tilewright.ops.registry import make_space
from tilewright.space.module import task_module
from tilewright.target import Target
from tilewright.task import Task


def target() -> Target:
    return Target.parse("llvm:x86-64-v3")


def chain(steps: int, word: str, key: str = "k") -> Task:
    """Polynomials with transpositions in between, which no template serves."""
    import tvm
    from tvm import te, topi

    x = value = te.placeholder((8, 8), name="x", dtype="float32")

    def applied(value: Any, name: str) -> Any:
        return te.compute(value.shape, lambda *i: ELEMENTARY[word](value(*i)), name=name)

    for number in range(steps):
        value = topi.transpose(applied(value, f"y{number}"))
    module = tvm.ir.IRModule({"main": te.create_prim_func([x, value])})
    return Task(key, "chain", "auto", 1.0, tvm.ir.save_json(module))


def medium(key: str) -> Task:
    """A function that is large enough for a process of its own, and small enough for the generator."""
    import tvm
    from tvm import te, topi

    x = value = te.placeholder((8, 8), name="x", dtype="float32")
    for _ in range(15):
        value = topi.nn.relu(topi.transpose(value))
    module = tvm.ir.IRModule({"main": te.create_prim_func([x, value])})
    return Task(key, "medium", "auto", 1.0, tvm.ir.save_json(module))


def test_a_function_that_explodes_has_the_plain_space() -> None:
    space = make_space(chain(12, "tanh"), target())
    assert isinstance(space, AutoSpace)
    assert space.template == "plain/1"
    assert "inlined into each other" in space.generator_error
    assert len(space.knobs[0]) == 2
    assert space.default()[0] == 1


def test_its_programs_are_right() -> None:
    import tvm

    task = chain(6, "tanh")
    native = Target.parse("native")
    space = make_space(task, native)
    x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    wanted = x
    for _ in range(6):
        wanted = np.tanh(wanted).T
    for config in (space.default(), np.zeros(len(space.knobs), dtype=np.int32)):
        given = tvm.runtime.tensor(np.zeros((8, 8), dtype=np.float32))
        call_kernel(space.schedule(config).mod, native, tvm.runtime.tensor(x), given)
        np.testing.assert_allclose(given.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_inlining_stops_before_it_explodes() -> None:
    module = task_module(chain(12, "tanh"))
    inlined = simple_schedule(module, True, False, 8, 1, False)
    assert 2 < len(inlined.get_child_blocks(inlined.get_sblock("root"))) < 24


def test_what_a_process_of_its_own_makes_is_what_is_made_here() -> None:
    task = medium("medium-1")
    made = generate_in_process(task, target())
    assert not made.problem
    here = generate(task_module(task), target())
    assert [tuple(samples) for _, samples in here] == list(made.samples)
    remember_generated(task, target(), made)
    space = AutoSpace(task, target())
    assert space.template == "auto/1"
    assert not space.generator_error
    assert len(space.knobs[0]) == 2 + len(here)
    config = np.zeros(len(space.knobs), dtype=np.int32)
    config[0] = 2
    assert space.schedule(config).mod is not None


@pytest.mark.parametrize(
    ("limits", "reason"), [({"seconds": 0.0}, "longer than 0 s"), ({"memory": 1 << 20}, "of memory")]
)
def test_it_is_ended_at_its_limits(limits: dict[str, Any], reason: str) -> None:
    made = generate_in_process(medium("medium-2"), target(), **limits)
    assert reason in made.problem
    assert not made.traces


def test_the_outcome_that_others_had_decides() -> None:
    """A pool whose generator was ended tells its workers, which may have had more time."""
    task = medium("medium-3")
    assert known_generated(task, target()) is None
    remember_generated(task, target(), Generated(problem="it took longer than 30 s"))
    space = AutoSpace(task, target())
    assert space.template == "plain/1"
    assert space.generator_error == "it took longer than 30 s"


def test_an_interrupt_ends_it() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            generate_in_process(medium("medium-4"), target())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
