"""Each activation's formula computes what NumPy does in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.models import TARGET, runs
from tilewright.ops.recurrent.activations import FORMULAS

Array = NDArray[np.float64]
_ALPHA, _BETA = 0.3, 0.6
WANTED: dict[str, Callable[[Array], Array]] = {
    "affine": lambda x: _ALPHA * x + _BETA,
    "elu": lambda x: np.where(x < 0, _ALPHA * np.expm1(np.minimum(x, 0)), x),
    "hardsigmoid": lambda x: np.clip(_ALPHA * x + _BETA, 0, 1),
    "leakyrelu": lambda x: np.where(x < 0, _ALPHA * x, x),
    "relu": lambda x: np.maximum(x, 0),
    "scaledtanh": lambda x: _ALPHA * np.tanh(_BETA * x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
    "thresholdedrelu": lambda x: np.where(x > _ALPHA, x, 0),
}


@runs
def test_formulas() -> None:
    import tvm
    from tvm import te

    x = np.linspace(-30, 30, 101).astype(np.float32)
    data = te.placeholder(x.shape, name="data")

    def made(name: str) -> Any:
        return te.compute(x.shape, lambda i: FORMULAS[name](data[i], _ALPHA, _BETA), name=name)

    function = te.create_prim_func([data, *map(made, FORMULAS)])
    results = [tvm.runtime.tensor(np.empty_like(x)) for _ in FORMULAS]
    call_kernel(tvm.ir.IRModule({"main": function}), TARGET, tvm.runtime.tensor(x), *results)
    assert FORMULAS.keys() == WANTED.keys()
    for name, result in zip(FORMULAS, results, strict=True):
        np.testing.assert_allclose(result.numpy(), WANTED[name](x.astype(np.float64)), rtol=2e-6, err_msg=name)
