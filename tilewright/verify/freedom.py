"""The freedom of float32: sums in another order, other algorithms, approximated functions.

Two correct programs differ by rounding. The effect on a network's outputs is measured: the network is evaluated in its
own precision, with results disturbed by about as much as a correct program may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Freedom", "disturb_values"]

#: Error of a sum of products in float32, relative to the root mean square of such sums: the order of the terms.
SUM = 2.0**-21
#: Likewise where Winograd's F(4x4, 3x3) may be used: measured, 2e-6 to 4e-6 for 64 to 512 channels.
WINOGRAD = 4e-6
#: Error of an approximated function, relative to its value.
FUNCTION = 2.0**-21
#: Operators that are approximated.
_FUNCTIONS = (
    "Exp Log Sigmoid Tanh Erf Softplus Mish Gelu Softmax LogSoftmax Pow Sqrt Reciprocal Div Elu Selu Celu HardSwish "
    "Swish Sin Cos Tan Sinh Cosh Asin Acos Atan LayerNormalization InstanceNormalization GroupNormalization LRN "
    "BatchNormalization ReduceMean ReduceSum GlobalAveragePool AveragePool LpNormalization "
    "ReduceL2 RMSNormalization"
)
#: Random numbers that all disturbances are cut from; a prime, so that no extent is a period of it.
_DRAWN = 1_000_003


class Freedom:
    """How much an evaluation is disturbed.

    Attributes:
        amplitude: in units of what a correct program may differ by; 0: not at all.
    """

    def __init__(self) -> None:
        self.amplitude = 0.0
        self._generator = np.random.default_rng(0)
        self._drawn: NDArray[np.float32] | None = None

    def choose(self, seed: int, amplitude: float) -> None:
        """Disturb by ``amplitude`` from now on, the same for the same ``seed``."""
        self.amplitude = amplitude
        self._generator = np.random.default_rng(seed)

    def disturb(self, sums: NDArray[Any], size: float) -> NDArray[Any]:
        """``sums``, each changed by about ``size`` times the root mean square of all."""
        if not self.amplitude or sums.dtype.kind != "f" or not sums.size:
            return sums
        flat = sums.reshape(-1)
        sample = flat[:: max(1, flat.size // 65536)].astype(np.float64)
        sample = sample[np.isfinite(sample)]
        scale = self.amplitude * size * float(np.sqrt(np.mean(sample * sample))) if sample.size else 0.0
        return np.asarray(sums + self._normal(sums.shape, scale, sums.dtype)) if scale else sums

    def vary(self, values: NDArray[Any], size: float) -> NDArray[Any]:
        """``values``, each changed by about ``size`` times itself."""
        if not self.amplitude or values.dtype.kind != "f":
            return values
        return np.asarray(values * (1 + self._normal(values.shape, self.amplitude * size, values.dtype)))

    def _normal(self, shape: tuple[int, ...], scale: float, dtype: Any) -> NDArray[Any]:
        if self._drawn is None:
            self._drawn = np.random.default_rng(0).standard_normal(_DRAWN, dtype=np.float32)
        size = int(np.prod(shape))
        start = int(self._generator.integers(_DRAWN))
        begin = self._drawn[start : start + size]
        rest = size - begin.size
        values = np.concatenate([begin, np.resize(self._drawn, rest)]) if rest > 0 else begin
        return (values * np.float32(scale)).astype(dtype).reshape(shape)


def disturb_values(freedom: Freedom, operator: str, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The outputs of an operator, disturbed where it is one that programs approximate."""
    if not freedom.amplitude or operator not in _FUNCTIONS.split():
        return outputs
    return tuple(freedom.vary(o, FUNCTION) if isinstance(o, np.ndarray) else o for o in outputs)
