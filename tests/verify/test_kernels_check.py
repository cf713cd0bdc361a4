"""Best programs that are wrong on some data are found. Those that only round otherwise are accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm

from tests.models import TARGET, conv_model, defaults, read, runs
from tilewright.graph.tasks import Extraction, TaskList, TaskUse, extract
from tilewright.ops.contraction import dense
from tilewright.ops.contraction.bf16 import bf16_dense
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample
from tilewright.task import Task
from tilewright.verify.kernels_check import DISTRIBUTIONS, Distribution, KernelSide, check_kernels, find_difference

pytestmark = runs


def function(change: Callable[[Any, Any], Any] | None = None, sigmoid: bool = False) -> Any:
    """``relu(x w + b)``, or the sigmoid instead of ReLU. ``change`` computes another result from it and ``x``."""
    from tvm import te, topi

    x, w, b = (te.placeholder(shape, name=name) for shape, name in (((8, 32), "x"), ((16, 32), "w"), ((16,), "b")))
    k = te.reduce_axis((0, 32), name="k")
    product = te.compute((8, 16), lambda i, j: te.sum(x[i, k] * w[j, k], axis=k), name="product")
    result = (topi.sigmoid if sigmoid else topi.nn.relu)(topi.add(product, b))
    if change is not None:
        result = te.compute(result.shape, lambda i, j: change(result[i, j], x[i, j]), name="changed")
    return te.create_prim_func([x, w, b, result])


@pytest.fixture(scope="module")
def extraction(tmp_path_factory: pytest.TempPathFactory) -> Extraction:
    whole = extract(read(conv_model(tmp_path_factory.mktemp("model") / "m.onnx")), TARGET)
    return replace(whole, uses=TaskList([TaskUse(Task("k", "dense", "auto", 1.0, ""), 1, ())]))


@pytest.fixture(scope="module")
def side() -> KernelSide:
    """The object that compares kernels, without the process of :func:`check_kernels`, which takes seconds to start."""
    return KernelSide(TARGET)


def verdict(side: KernelSide, winner: Any, default: Any) -> str:
    side.expect(tvm.ir.save_json(default))
    return side.problem(tvm.ir.save_json(winner))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ordinary numbers", lambda t, y, x: t.Select(t.all(x > 1, x < 9), y + 1, y)),
        ("zeros", lambda t, y, x: t.Select(x == 0, y + 1, y)),
        ("negative numbers", lambda t, y, x: t.Select(y > 28, y * 2, y)),  # sums of mixed signs stay below it
        ("large numbers", lambda t, y, x: t.Select(y > 1e12, y * 2, y)),
        ("large numbers", lambda t, y, x: t.Select(y > 1e12, y * y * y, y)),  # infinity
        ("denormal numbers", lambda t, y, x: t.Select(t.all(x > 0, x < 1e-38), y * 2, y)),
    ],
)
def test_wrong_on_some_data_only(side: KernelSide, name: str, wrong: Callable[..., Any]) -> None:
    from tvm import tirx

    problem = verdict(side, function(lambda y, x: wrong(tirx, y, x)), function(lambda y, x: y))
    assert problem.startswith(f"on {name}: "), problem


@pytest.mark.parametrize("number", [0, 1])
def test_weights_of_bfloat16_are_numbers_of_usual_size(side: KernelSide, number: int) -> None:
    """Small integers would be the bits of denormal numbers, and every product of them would be as good as zero."""
    from tvm import tirx
    from tvm_ffi import structural_map

    product = (dense(4, (1, 8, 8), 8, True), bf16_dense(4, (1, 4, 8, 2), 8))[number]
    (*_, result) = product.params

    def program(factor: float) -> Any:
        def change(node: Any) -> Any:
            if not node.buffer.same_as(result):
                return node
            return tirx.BufferStore(node.buffer, node.value * tirx.const(factor, "float32"), node.indices)

        return product.with_body(structural_map(product.body, (tirx.BufferStore, change)))

    assert verdict(side, program(1.0), program(1.0)) == ""
    assert verdict(side, program(1.5), program(1.0)).startswith("on ordinary numbers: ")


@pytest.mark.parametrize("sigmoid", [False, True])
def test_sums_in_another_order(side: KernelSide, sigmoid: bool) -> None:
    """They agree, even if rounding decides which side of a step they are on."""
    from tvm.s_tir import Schedule

    default = function(sigmoid=sigmoid)
    schedule = Schedule(tvm.ir.IRModule({"main": default}))
    *_, k = schedule.get_loops(schedule.get_sblock("product"))
    _, inner = schedule.split(k, [None, 4])
    schedule.rfactor(inner, 0)
    assert verdict(side, schedule.mod["main"], default) == ""


def test_programs_of_the_spaces_agree_with_the_default(tmp_path: Path) -> None:
    whole = extract(read(conv_model(tmp_path / "m.onnx")), TARGET)
    winners = {}
    for use in whole.uses:
        space = make_space(use.task, TARGET)
        winners[use.task.key] = space.schedule(sample(space, np.random.default_rng(5), 1)[0]).mod["main"]
    found = check_kernels(whole, winners, defaults(whole), 100.0)
    assert (found.wrong, found.unchecked) == ({}, ())


def test_other_arguments(side: KernelSide) -> None:
    from tvm import te, topi

    x = te.placeholder((8, 32), name="x")
    assert "arguments" in verdict(side, te.create_prim_func([x, topi.nn.relu(x)]), function())


def test_time(extraction: Extraction) -> None:
    wrong = function(lambda y, x: y + 1)
    found = check_kernels(extraction, {"k": wrong}, {"k": function()}, 0.0)
    assert (found.wrong, found.unchecked) == ({}, ("k",))
    same = check_kernels(extraction, {"k": function()}, {"k": function()}, 0.0)
    assert (same.wrong, same.unchecked) == ({}, ())  # nothing to compare
    assert check_kernels(extraction, {}, {"k": function()}, 9.0).wrong == {}


@pytest.mark.parametrize(
    ("found", "wanted", "agrees"),
    [
        ([1.0, 2.0], [1.0, 2.001], True),
        ([1.0, 2.0], [1.0, 2.01], False),
        ([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], True),
        ([np.nan, 1.0], [1.0, np.nan], False),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([1.0], [np.inf], False),
        ([np.inf], [1.0], False),
        ([0.0, 1e-7], [0.0, 0.0], True),
        ([0.0, 1e-5], [0.0, 0.0], False),
        ([], [], True),
    ],
)
def test_difference(found: list[float], wanted: list[float], agrees: bool) -> None:
    assert (find_difference(np.asarray(found), np.asarray(wanted), DISTRIBUTIONS[0]) == "") is agrees


def test_strays() -> None:
    wanted, found = np.zeros(1000), np.zeros(1000)
    found[0] = 1
    stray = Distribution("", lambda x: x, strays=1e-3)
    assert find_difference(found, wanted, stray) == ""
    found[1] = 1
    assert find_difference(found, wanted, stray)


def test_the_kinds_of_data_are_what_they_are_called() -> None:
    drawn = np.random.default_rng(0).standard_normal(1000, dtype=np.float32)
    made = {d.name: d.make(drawn) for d in DISTRIBUTIONS}
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in made.values())
    assert not made["zeros"].any()
    assert (made["negative numbers"] <= 0).all()
    assert np.abs(made["large numbers"]).max() > 1e8
    tiny = made["denormal numbers"]
    assert (np.abs(tiny) < np.finfo(np.float32).tiny).all()
    assert np.count_nonzero(tiny) == 1000


def lookup(rows: int, shift: int = 0) -> Any:
    """Rows of a table at ids, which are converted to another type first."""
    from tvm import te

    table, ids = te.placeholder((rows, 4), name="table"), te.placeholder((6,), "int64", name="ids")
    narrow = te.compute((6,), lambda i: ids[i].astype("int32"), name="narrow")
    found = te.compute((6, 4), lambda i, j: table[narrow[i], j] + shift, name="found")
    return te.create_prim_func([table, ids, found])


def quotient(other: bool = False) -> Any:
    """The quotients of integers."""
    from tvm import te, tirx

    a, b = te.placeholder((64,), "int32", name="a"), te.placeholder((64,), "int32", name="b")
    divide = tirx.floordiv if other else tirx.truncdiv
    return te.create_prim_func([a, b, te.compute((64,), lambda i: divide(a[i], b[i]), name="q")])


def test_integers_are_plausible(side: KernelSide) -> None:
    from tilewright.verify.integer_arguments import find_integer_ranges

    assert find_integer_ranges(lookup(3)) == {1: (0, 2)}
    assert find_integer_ranges(lookup(1)) == {1: (0, 0)}
    found = find_integer_ranges(quotient())
    assert found[0][0] < 0 < found[0][1]
    assert found[1][0] == 1 < found[1][1]
    assert verdict(side, lookup(3, 1), lookup(3)).startswith("on ordinary numbers")
    # They differ for negative numbers only.
    assert verdict(side, quotient(other=True), quotient()).startswith("on ordinary numbers")


def test_a_winner_that_dies_is_wrong_and_takes_nobody_along(extraction: Extraction) -> None:
    from tvm import te, tirx

    x = te.placeholder((64,), "int32", name="x")
    right = te.create_prim_func([x, te.compute((64,), lambda i: x[i] + 1, name="y")])
    deadly = te.create_prim_func([x, te.compute((64,), lambda i: tirx.truncdiv(1000, x[i]), name="y")])
    found = check_kernels(extraction, {"k": deadly}, {"k": right}, 100.0)
    assert "its process ended (SIGFPE)" in found.wrong["k"]
    assert found.unchecked == ()
    deadly = te.create_prim_func([x, te.compute((64,), lambda i: tirx.truncdiv(1000, x[i] - 1), name="y")])
    found = check_kernels(extraction, {"k": right}, {"k": deadly}, 100.0)
    assert (found.wrong, found.unchecked) == ({}, ("k",))  # it is not known
