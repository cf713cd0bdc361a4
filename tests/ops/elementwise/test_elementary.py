"""Exponentials and activations: as exact as float32 lets them be, over all of its range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from tests.kernels import check_arguments, compile_module
from tests.models import TARGET
from tests.targets import LANES, lane_target, require
from tilewright.graph.tasks import task_of
from tilewright.ops import elementwise
from tilewright.ops.elementwise import elementary
from tilewright.ops.elementwise.elementary import ELEMENTARY
from tilewright.ops.elementwise.exponential import exp_below_zero
from tilewright.space.ast import program_graph
from tilewright.space.recorded import check_recorded
from tilewright.target import Target

Doubles = NDArray[np.float64]

FUNCTIONS: dict[str, Callable[[Any], Any]] = ELEMENTARY | {
    "expm1": elementary.expm1,
    "log1p": elementary.log1p,
    "erfc": elementary.erfc,
    "mish": elementary.mish,
    "twice_sigmoid": lambda x: elementary.twice_sigmoid(x, -1),
}
#: Their absolute errors are bounded.
ABSOLUTE: dict[str, Callable[[Any], Any]] = {
    "gelu_slope": elementary.gelu_slope,
    "gelu_in_training": elementary.gelu_in_training,
}
#: It takes no positive numbers.
BELOW: dict[str, Callable[[Any], Any]] = {"exp_below_zero": exp_below_zero}


def _sigmoid(x: Doubles) -> Doubles:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x > 0, 1 / (1 + e), e / (1 + e)))


def _softplus(x: Doubles) -> Doubles:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


def _erfc(x: Doubles) -> Doubles:
    return np.asarray(np.where(x > 0, special.erfcx(np.abs(x)) * np.exp(-x * x), special.erfc(x)))


def _selu(x: Doubles) -> Doubles:
    return np.asarray(1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)))


REFERENCE: dict[str, Callable[[Doubles], Doubles]] = {
    "exp": np.exp,
    "log": np.log,
    "erf": special.erf,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "expm1": np.expm1,
    "log1p": np.log1p,
    "erfc": _erfc,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "twice_sigmoid": lambda x: 2 * _sigmoid(-2 * x),
    "nn.gelu": lambda x: 0.5 * x * _erfc(-x / np.sqrt(2)),
    "nn.gelu_tanh": lambda x: x * _sigmoid(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)),
    "nn.silu": lambda x: x * _sigmoid(x),
    "nn.softplus": _softplus,
    "nn.selu": _selu,
}
#: Every 4096th of all float32 numbers, NaN and infinities among them, and where activations are curved.
POINTS = np.concatenate(
    [
        np.arange(0, 2**32, 1 << 12, dtype=np.uint32).view(np.float32),
        np.linspace(-100, 100, 300_000, dtype=np.float32),
        np.linspace(-1, 1, 20_000, dtype=np.float32),
        np.array([0.0, -0.0, -1.0, 1.0], np.float32),
    ]
)


def compiled(name: str, x: NDArray[np.float32], target: Target = TARGET) -> tuple[NDArray[np.float32], str]:
    """The function's values, and its assembly."""
    import tvm

    require(target)
    function = elementwise.apply_formula((FUNCTIONS | ABSOLUTE | BELOW)[name], x.shape, "y").with_attr(
        "global_symbol", "main"
    )
    schedule = tvm.s_tir.Schedule(tvm.ir.IRModule({"main": function}))
    _, vector = schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [None, target.lanes])
    schedule.vectorize(vector)
    built = compile_module(schedule.mod, target)
    arguments = (tvm.runtime.tensor(x), out := tvm.runtime.tensor(np.zeros_like(x)))
    check_arguments(schedule.mod, arguments)
    built["main"](*arguments)
    return np.asarray(out.numpy()), str(built.mod.inspect_source("asm"))


def largest_error(got: NDArray[np.float32], want: Doubles) -> float:
    """The largest relative error where the right result is a normal float32; inf where it is NaN there."""
    normal = (np.abs(want) >= 1.17550e-38) & (np.abs(want) <= 3.4028234e38)
    errors = np.abs(got[normal].astype(np.float64) / want[normal] - 1)
    return float(np.nan_to_num(errors, nan=np.inf).max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_relative_errors_are_below_a_millionth_wherever_the_result_is_normal(name: str) -> None:
    x = np.resize(POINTS, len(POINTS) // TARGET.lanes * TARGET.lanes)
    got, assembly = compiled(name, x)
    with np.errstate(all="ignore"):
        want = REFERENCE[name](x.astype(np.float64))
        assert largest_error(got, want) < (4e-6 if name == "nn.gelu_tanh" else 1e-6)
    # What is no normal number is next to nothing, infinite, or NaN, as it should be.
    tiny = np.abs(want) < 1.1754e-38
    assert (np.abs(got[tiny]) < 1.1756e-38).all()
    np.testing.assert_array_equal(np.isnan(got[np.isnan(x)]), True)
    above = (want > 3.41e38) & np.isfinite(x)
    np.testing.assert_array_equal(got[above], np.inf)
    for symbol in ("exp", "log", "erf", "tanh", "pow"):  # of the C library
        assert f"{symbol}f@" not in assembly
        assert f"{symbol}f\n" not in assembly


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", ["sigmoid", "nn.silu"])
def test_a_reciprocal_is_approximated_where_it_is_faster(name: str, lanes: int) -> None:
    """AVX-512 has an instruction for it. Whoever divides instead gets the same within three units in the last place."""
    special = [
        np.nan,
        np.inf,
        -np.inf,
        3.4e38,
        -3.4e38,
        1e30,
        -1e30,
        100,
        -100,
        60,
        -92.4,
        -87.3,
        1e-40,
        -1e-40,
        0,
        -0.0,
    ]
    x = np.concatenate([np.array(special, np.float32), np.random.default_rng(0).normal(0, 30, 32_000).astype("f4")])
    got, assembly = compiled(name, x, lane_target(lanes))
    assert ("vrcp14ps" in assembly) == (lanes == 16)
    assert ("divps" in assembly) == (lanes < 16)
    with np.errstate(all="ignore"):
        want = REFERENCE[name](x.astype(np.float64))
    assert largest_error(got, want) < 3e-7
    limits = {
        "sigmoid": [np.nan, 1, 0, 1, 0, 1, 0, 1, 0],
        "nn.silu": [np.nan, np.inf, np.nan, x[3], 0, x[5], 0, 100, 0],
    }
    np.testing.assert_array_equal(got[:9], limits[name])
    np.testing.assert_array_equal(np.isfinite(got[9:]), True)


def test_the_gelu_of_training() -> None:
    x = np.resize(POINTS, len(POINTS) // TARGET.lanes * TARGET.lanes)
    got, _ = compiled("gelu_in_training", x)
    with np.errstate(all="ignore"):
        wide = np.maximum(x.astype(np.float64), -40)
        want = 0.5 * wide * _erfc(-wide / np.sqrt(2))
    np.testing.assert_allclose(got, want, rtol=3e-7, atol=1e-6)


def test_the_slope_of_the_gelu() -> None:
    x = np.resize(POINTS, len(POINTS) // TARGET.lanes * TARGET.lanes)
    got, _ = compiled("gelu_slope", x)
    with np.errstate(invalid="ignore"):
        wide = np.clip(x.astype(np.float64), -40, 40)
    want = 0.5 * _erfc(-wide / np.sqrt(2)) + wide * np.exp(-wide * wide / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-7)


def test_the_exponential_of_what_is_not_positive() -> None:
    x = np.resize(
        np.concatenate([-np.abs(POINTS), np.array([-np.inf], np.float32)]), len(POINTS) // TARGET.lanes * TARGET.lanes
    )
    x[:2] = -np.inf, np.nan
    got, _ = compiled("exp_below_zero", x)
    with np.errstate(invalid="ignore"):
        want = np.exp(x.astype(np.float64))
    assert largest_error(got, want) < 1e-7
    np.testing.assert_array_equal(got[x < -87.7], 0.0)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))


def test_limits() -> None:
    x = np.resize(np.array([-np.inf, np.inf, 0.0, -1.0], np.float32), 4 * TARGET.lanes)
    np.testing.assert_array_equal(compiled("exp", x)[0][:3], [0, np.inf, 1])
    np.testing.assert_array_equal(compiled("log", x)[0][:4], [np.nan, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(compiled("log1p", x)[0][1:4], [np.inf, 0, -np.inf])
    np.testing.assert_allclose(compiled("tanh", x)[0][:3], [-1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(compiled("erf", x)[0][:3], [-1, 1, 0], rtol=1e-6)
    for name in ("nn.gelu", "nn.silu", "nn.softplus", "mish"):
        assert compiled(name, x)[0][1] == np.inf


@pytest.mark.parametrize("name", ["nn.gelu", "nn.gelu_tanh", "nn.softplus", "log"])
def test_operations_are_counted_once(name: str) -> None:
    """What a formula uses several times is computed once: a bound on the latency counts on it."""
    function = elementwise.apply_formula(FUNCTIONS[name], (1000,), "y")
    task = task_of("f", function)
    assert 20_000 < task.flop < 100_000
    assert len(task.ir) < 60_000
    check_recorded(task)  # and records may hold it
    graph = program_graph(function)
    assert 20 < len(graph.kinds) < 150
