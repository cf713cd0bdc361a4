"""How far correct programs in float32 may differ: in the order of sums, in algorithms, in approximated functions.

Two correct programs differ by rounding. The effect on a network's outputs is measured. The network is evaluated in its
own precision, and its intermediate results are disturbed by about as much as correct programs differ.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["FUNCTION", "HALF", "SUM", "WINOGRAD", "Freedom", "disturb_values"]

#: The dtype of an array, which stays the same.
_Dtype = TypeVar("_Dtype", bound=np.generic)

#: Error of a sum of products in float32 that the order of its terms explains, relative to the root mean square of such
#: sums.
SUM = 2.0**-21
#: The same error if Winograd's algorithm F(4x4, 3x3) may be used: 2e-6 to 4e-6 were measured for 64 to 512 channels.
WINOGRAD = 4e-6
#: Error of an approximated function, relative to its value.
FUNCTION = 2.0**-21
#: The largest error of rounding a number to bfloat16, relative to the number. The root mean square is 0.42 of that.
HALF = 2.0**-9
#: ONNX operators that programs approximate.
_FUNCTIONS = (
    "Exp Log Sigmoid Tanh Erf Softplus Mish Gelu Softmax LogSoftmax Pow Sqrt Reciprocal Div Elu Selu Celu "
    "HardSwish Swish Sin Cos Tan Sinh Cosh Asin Acos Atan LayerNormalization InstanceNormalization "
    "GroupNormalization LRN BatchNormalization ReduceMean ReduceSum GlobalAveragePool AveragePool "
    "LpNormalization ReduceL2 RMSNormalization"
)
#: How many random numbers are drawn. All disturbances are cut from them. The number is prime, so that no extent of a
#: tensor is a period of it.
_DRAWN = 1_000_003
#: How many elements of a result tell its root mean square, or up to twice as many.
_SAMPLE = 1 << 16


class Freedom:
    """Disturbs the results of one evaluation.

    Attributes:
        amplitude: the size of the disturbances, in units of what correct programs may differ by; 0: no disturbances.
        bf16: whether programs may round the operands of convolutions and products of matrices to bfloat16.
    """

    def __init__(self, bf16: bool = False) -> None:
        self.amplitude, self.multiplies_bf16 = 0.0, bf16
        self._generator = np.random.default_rng(0)
        self._drawn: NDArray[np.float32] | None = None

    def choose(self, seed: int, amplitude: float) -> None:
        """Disturb by ``amplitude`` from now on. The same ``seed`` gives the same disturbances."""
        self.amplitude = amplitude
        self._generator = np.random.default_rng(seed)

    def disturb(self, sums: NDArray[_Dtype], size: float) -> NDArray[_Dtype]:
        """Change each of ``sums`` by about ``size`` times the root mean square of all; integers stay as they are."""
        if not self.amplitude or sums.dtype.kind != "f" or not sums.size:
            return sums
        flat = sums.reshape(-1)
        sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
        sample = sample[np.isfinite(sample)]
        scale = self.amplitude * size * float(np.sqrt(np.mean(sample * sample))) if sample.size else 0.0
        return np.add(sums, self._draw(sums.shape, scale, sums.dtype)) if scale else sums

    def vary(self, values: NDArray[_Dtype], size: float) -> NDArray[_Dtype]:
        """Change each of ``values`` by about ``size`` times itself; integers stay as they are."""
        if not self.amplitude or values.dtype.kind != "f":
            return values
        factors = np.add(1, self._draw(values.shape, self.amplitude * size, values.dtype))
        varied: NDArray[_Dtype] = np.multiply(values, factors)
        return varied

    def round_operand(self, operand: NDArray[_Dtype]) -> NDArray[_Dtype]:
        """Change each number of a contraction's operand by what rounding it to bfloat16 may change, if programs may."""
        return self.vary(operand, HALF) if self.multiplies_bf16 else operand

    def _draw(self, shape: tuple[int, ...], scale: float, dtype: np.dtype[_Dtype]) -> NDArray[_Dtype]:
        """Normal numbers with the standard deviation ``scale``."""
        if self._drawn is None:
            self._drawn = np.random.default_rng(0).standard_normal(_DRAWN, dtype=np.float32)
        size = int(np.prod(shape))
        start = int(self._generator.integers(_DRAWN))
        begin = self._drawn[start : start + size]
        rest = size - begin.size
        values = np.concatenate([begin, np.resize(self._drawn, rest)]) if rest > 0 else begin
        return (values * np.float32(scale)).astype(dtype).reshape(shape)


def disturb_values(freedom: Freedom, operator: str, outputs: tuple[object, ...]) -> tuple[object, ...]:
    """The outputs of an ONNX operator, disturbed if programs approximate this operator."""
    if not freedom.amplitude or operator not in _FUNCTIONS.split():
        return outputs
    return tuple(freedom.vary(o, FUNCTION) if isinstance(o, np.ndarray) else o for o in outputs)
