"""The space of element-wise functions: every program is right and vectorised, and making one takes bounded time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import assembly, call_kernel
from tilewright.errors import SpaceError
from tilewright.ops.elementwise.elementary import ELEMENTARY
from tilewright.ops.elementwise.space import ElementwiseSpace
from tilewright.ops.registry import make_space
from tilewright.space.module import task_module
from tilewright.target import Target
from tilewright.task import Task

#: x86-64-v2, -v3 and -v4 have 4, 8 and 16 lanes.
LANES = {"llvm:x86-64-v2": 4, "llvm:x86-64-v3": 8, "llvm:x86-64-v4": 16}


def placeholder(*shape: int, name: str = "x", dtype: str = "float32") -> Any:
    from tvm import te

    return te.placeholder(shape, name=name, dtype=dtype)


def applied(word: str, x: Any, name: str = "y") -> Any:
    from tvm import te

    return te.compute(x.shape, lambda *i: ELEMENTARY[word](x(*i)), name=name)


def relu() -> list[Any]:
    from tvm import topi

    x = placeholder(3, 5, 7)
    return [x, topi.nn.relu(x)]


def bias_of_channels() -> list[Any]:
    """The bias is one number for each row, and rows of 49 are no multiple of any vector."""
    from tvm import topi

    x, b = placeholder(2, 6, 7, 7), placeholder(6, 1, 1, name="b")
    return [x, b, applied("sigmoid", topi.add(x, b))]


def bias_of_columns() -> list[Any]:
    from tvm import topi

    x, b, y = placeholder(9, 37), placeholder(37, name="b"), placeholder(9, 37, name="y")
    return [x, b, y, topi.add(topi.multiply(x, b), y)]


def outer_product() -> list[Any]:
    from tvm import topi

    x, y = placeholder(6, 1), placeholder(1, 50, name="y")
    return [x, y, topi.multiply(x, y)]


def scalar_operand() -> list[Any]:
    from tvm import topi

    x, b = placeholder(5, 11), placeholder(name="b")
    return [x, b, topi.multiply(x, b)]


def silu() -> list[Any]:
    """Its input is read twice: once through a polynomial."""
    from tvm import topi

    x = placeholder(64, 300)
    return [x, topi.multiply(x, applied("sigmoid", x))]


def computed_bias() -> list[Any]:
    """A step that is smaller than the result."""
    from tvm import topi

    x, b = placeholder(6, 40), placeholder(40, name="b")
    return [x, b, topi.multiply(x, applied("exp", b))]


def two_results() -> list[Any]:
    """The first one is read by the second one."""
    from tvm import topi

    x = placeholder(6, 50)
    y = applied("exp", x)
    return [x, y, topi.add(y, x)]


def index_of_element() -> list[Any]:
    """What is computed depends on where the element is."""
    from tvm import te, tirx

    x = placeholder(5, 11)
    zero = tirx.const(0.0, "float32")
    return [x, te.compute((5, 11), lambda i, j: tirx.Select(i <= j, x(i, j), zero), name="triangle")]


def comparison() -> list[Any]:
    from tvm import topi

    x, y = placeholder(6, 50), placeholder(6, 50, name="y")
    return [x, y, topi.greater(x, y)]


def integers() -> list[Any]:
    from tvm import topi

    x, y = placeholder(7, 9, dtype="int64"), placeholder(7, 9, name="y", dtype="int64")
    return [x, y, topi.add(topi.multiply(x, y), x)]


def doubles() -> list[Any]:
    from tvm import topi

    x = placeholder(7, 9, dtype="float64")
    return [x, topi.multiply(x, x)]


def one_element() -> list[Any]:
    from tvm import topi

    x = placeholder(1, 1)
    return [x, topi.nn.relu(x)]


FUNCTIONS: list[Callable[[], list[Any]]] = [
    relu,
    bias_of_channels,
    bias_of_columns,
    outer_product,
    scalar_operand,
    silu,
    computed_bias,
    two_results,
    index_of_element,
    comparison,
    integers,
    doubles,
    one_element,
]


def task_of(tensors: list[Any]) -> Task:
    import tvm

    module = tvm.ir.IRModule({"main": tvm.te.create_prim_func(tensors, index_dtype_override="int64")})
    return Task("k", "some function", "auto", 1.0, tvm.ir.save_json(module))


@cache
def task(function: Callable[[], list[Any]]) -> Task:
    return task_of(function())


def outputs(module: Any, target: Target) -> list[NDArray[Any]]:
    """Every argument after a call on random data: inputs and results alike."""
    import tvm

    rng = np.random.default_rng(0)
    arguments = [
        tvm.runtime.tensor(rng.integers(-9, 9, [int(n) for n in p.ty.shape]).astype(str(p.ty.dtype)))
        for p in module["main"].params
    ]
    call_kernel(module, target, *arguments)
    return [argument.numpy() for argument in arguments]


@cache
def expected(function: Callable[[], list[Any]]) -> list[NDArray[Any]]:
    return outputs(task_module(task(function)), Target.parse("native"))


@pytest.mark.parametrize("name", LANES)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_programs_are_right(function: Callable[[], list[Any]], name: str) -> None:
    target = Target.parse(name)
    space = make_space(task(function), target)
    assert space.template == "elementwise/1"
    if not set(target.features) <= set(Target.parse("native").features):
        space.schedule(space.default())
        pytest.skip("this processor does not run code for the target")
    last = np.asarray([len(knob) - 1 for knob in space.knobs], dtype=np.int32)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, last + 1).astype(np.int32)
    for config in (space.default(), last, drawn):
        for given, wanted in zip(outputs(space.schedule(config).mod, target), expected(function), strict=True):
            np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6, err_msg=str(config))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 65, 127])
def test_every_length_of_a_row(size: int) -> None:
    from tvm import topi

    target = Target.parse("native")
    x, y = placeholder(size), placeholder(size, name="y")
    made = task_of([x, y, topi.add(topi.multiply(x, x), y)])
    space = ElementwiseSpace(made, target)
    wanted = outputs(task_module(made), target)
    for unroll in range(len(space.knobs[2])):
        config = np.asarray([len(space.knobs[0]) - 1, 0, unroll], dtype=np.int32)
        np.testing.assert_array_equal(outputs(space.schedule(config).mod, target)[-1], wanted[-1], str(config))


@pytest.mark.parametrize(("name", "register"), [("llvm:x86-64-v3", "ymm"), ("llvm:x86-64-v4", "zmm")])
def test_a_tail_is_a_whole_vector(name: str, register: str) -> None:
    """137 elements are no multiple of a vector, but no element is computed alone."""
    target = Target.parse(name)
    made = task_of([x := placeholder(137), applied("tanh", x)])
    space = ElementwiseSpace(made, target)
    code = assembly(space.schedule(space.default()).mod, target)
    lines = [line for line in code.splitlines() if "vdiv" in line or "vrcp14" in line]
    assert lines
    assert all(register in line for line in lines)


def test_a_long_chain_of_polynomials_is_compiled_as_vectors() -> None:
    """Inlined into each other, 64 of them would read their input 19**64 times."""
    target = Target.parse("llvm:x86-64-v3")
    x = value = placeholder(8, 16)
    for number in range(64):
        value = applied(("tanh", "nn.gelu")[number % 2], value, f"y{number}")
    space = make_space(task_of([x, value]), target)
    assert space.template == "elementwise/1"
    text = assembly(space.schedule(space.default()).mod, target)
    assert text.count("vdivps") >= 64
    assert "vdivss" not in text
    assert "tanhf" not in text


def transposition() -> list[Any]:
    from tvm import topi

    x = placeholder(6, 7)
    return [x, topi.transpose(x)]


def part() -> list[Any]:
    from tvm import topi

    x = placeholder(6, 7)
    return [x, topi.strided_slice(x, [0, 1], [6, 7], [1, 1])]


def part_from_the_start() -> list[Any]:
    from tvm import topi

    x = placeholder(6, 7)
    return [x, topi.strided_slice(x, [0, 0], [6, 5], [1, 1])]


def total() -> list[Any]:
    from tvm import topi

    x = placeholder(6, 7)
    return [x, topi.sum(x, axis=1)]


def joined() -> list[Any]:
    from tvm import topi

    x, y = placeholder(6, 7), placeholder(6, 7, name="y")
    return [x, y, topi.concatenate((x, y), axis=1)]


def read_in_two_ways() -> list[Any]:
    from tvm import te

    x = placeholder(7, 7)
    return [x, te.compute((7, 7), lambda i, j: x(i, j) + x(j, i), name="both")]


def rows_of_three() -> list[Any]:
    from tvm import topi

    x, b = placeholder(50, 3), placeholder(3, name="b")
    return [x, b, topi.add(x, b)]


@pytest.mark.parametrize(
    "function",
    [transposition, part, part_from_the_start, total, joined, read_in_two_ways, rows_of_three],
    ids=lambda f: f.__name__,
)
def test_other_functions_are_refused(function: Callable[[], list[Any]]) -> None:
    with pytest.raises(SpaceError):
        ElementwiseSpace(task(function), Target.parse("native"))


def test_default_is_parallel_only_where_it_pays() -> None:
    target = Target.parse("llvm:x86-64-v3")
    from tvm import topi

    small, large = (ElementwiseSpace(task_of([x := placeholder(n), topi.nn.relu(x)]), target) for n in (1000, 100_000))
    assert small.default()[0] == 0
    assert large.default()[0] == (1 if target.cores > 1 else 0)


def test_a_config_of_another_space_is_refused() -> None:
    space = ElementwiseSpace(task(relu), Target.parse("native"))
    with pytest.raises(SpaceError):
        space.schedule(np.zeros(7, dtype=np.int32))
