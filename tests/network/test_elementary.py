"""Exponentials and error functions: as exact as float32 lets them be."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tests.network.models import TARGET
from tests.targets import require
from tilewright.network import blocked
from tilewright.network.elementary import ELEMENTARY


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


REFERENCE: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "erf": math.erf,
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "nn.gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "nn.gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "nn.silu": lambda x: x * _sigmoid(x),
}


def values(name: str, x: np.ndarray) -> np.ndarray:
    import tvm

    require(TARGET)
    function = blocked.elementwise(ELEMENTARY[name], x.shape, "y").with_attr("global_symbol", "main")
    out = tvm.runtime.tensor(np.zeros_like(x))
    tvm.compile(tvm.ir.IRModule({"main": function}), target=TARGET.tvm)["main"](tvm.runtime.tensor(x), out)
    return np.asarray(out.numpy())


@pytest.mark.parametrize("name", ELEMENTARY)
def test_errors_are_below_a_millionth(name: str) -> None:
    x = np.concatenate([np.linspace(-20, 20, 20_000), np.linspace(-0.01, 0.01, 2_000)]).astype(np.float32)
    want = np.array([REFERENCE[name](float(v)) for v in x])
    error = np.abs(values(name, x) - want)
    # What is a difference from 1 has the error of 1.
    scale = np.abs(want) if name in ("exp", "erf", "tanh", "sigmoid") else np.maximum(np.abs(want), np.abs(x))
    assert (error <= 1e-6 * scale + 1e-38).all()


def test_limits() -> None:
    x = np.array([-np.inf, -200.0, -88.0, 88.0], np.float32)
    got = values("exp", x)
    assert (got[:2] == 0).all()
    assert got[2] <= 1e-37
    assert got[3] == pytest.approx(math.exp(88), rel=1e-6)
    np.testing.assert_allclose(values("tanh", np.array([-1e30, 1e30], np.float32)), [-1, 1], rtol=1e-6)
    np.testing.assert_allclose(values("erf", np.array([-1e30, 1e30], np.float32)), [-1, 1], rtol=1e-6)
