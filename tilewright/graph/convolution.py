"""A convolution as its algorithms see it, and the algorithms that can compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tilewright.ops.winograd import Tiling

__all__ = ["ALGORITHMS", "Algorithm", "Convolution", "is_fused", "winograd_tile"]

#: How a convolution is computed: directly, or by Winograd's F(2x2, 3x3) or F(4x4, 3x3). Winograd's algorithm is made of
#: three functions, or fused into one.
Algorithm: TypeAlias = Literal["direct", "winograd2", "winograd4", "fused_winograd2", "fused_winograd4"]
ALGORITHMS: tuple[Algorithm, ...] = ("direct", "winograd2", "winograd4", "fused_winograd2", "fused_winograd4")

_TILES: dict[Algorithm, int] = {"winograd2": 2, "winograd4": 4, "fused_winograd2": 2, "fused_winograd4": 4}

#: Operations that a machine does in the time in which it moves a byte from or to the memory, where nothing is measured.
#: On Zen 4 with two cores: 200 GFLOP/s, 30 GB/s. (A choice; others have more operations for each byte.)
_OPERATIONS_PER_BYTE = 7.0
#: What the estimate of another algorithm must gain, since it knows neither caches nor edges.
_ASSUMED_GAIN = 1.15


def winograd_tile(algorithm: Algorithm) -> int | None:
    """The ``m`` of Winograd's F(m x m, 3 x 3); None for the direct algorithm."""
    return _TILES.get(algorithm)


def is_fused(algorithm: Algorithm) -> bool:
    """Whether one function computes the whole of Winograd's algorithm."""
    return algorithm.startswith("fused")


@dataclass(frozen=True)
class Convolution:
    """A convolution of blocked data without groups or dilation. Equal convolutions share one algorithm.

    Attributes:
        data: the shape ``(n, C, h, w)``.
        weight: the shape ``(O, C, kh, kw)``.
        stride: of rows and of columns.
        padding: top, left, bottom, right.
        blocks: the channels in a block of the data, and in a block of the output.
    """

    data: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    blocks: tuple[int, int]

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """The algorithms that can compute it."""
        return ALGORITHMS if self.weight[2:] == (3, 3) and self.stride == (1, 1) else ALGORITHMS[:1]

    @property
    def packed_data(self) -> tuple[int, ...]:
        """The shape of the blocked data, ``(n, C/cb, h, w, cb)``."""
        n, c, h, w = self.data
        return n, c // self.blocks[0], h, w, self.blocks[0]

    @property
    def packed_weight(self) -> tuple[int, ...]:
        """The shape of the packed weights, ``(O/x, C/cb, kh, kw, cb, x)``."""
        out, c, kh, kw = self.weight
        cb, x = self.blocks
        return out // x, c // cb, kh, kw, cb, x

    @property
    def result(self) -> tuple[int, int, int, int]:
        """The shape of the result, ``(n, O, rows, cols)``."""
        top, left, bottom, right = self.padding
        rows = (self.data[2] + top + bottom - self.weight[2]) // self.stride[0] + 1
        cols = (self.data[3] + left + right - self.weight[3]) // self.stride[1] + 1
        return self.data[0], self.weight[0], rows, cols

    @property
    def flop(self) -> float:
        """The floating-point operations of the direct algorithm."""
        return 2.0 * math.prod(self.result) * math.prod(self.weight[1:])

    @property
    def winograd_pays(self) -> bool:
        """Whether F(4x4, 3x3) in stages is estimated to be faster: for the result, or for the weights' gradient."""
        return len(self.algorithms) > 1 and self.winograd_share * _ASSUMED_GAIN < 1

    @property
    def winograd_share(self) -> float:
        """The time of F(4x4, 3x3) in stages, as an estimated share of that of the direct algorithm.

        The direct algorithm does all its operations, and is taken to wait for no memory. The stages of the other do a
        quarter of these. They write and read transformed data, results and weights, which neither a large batch nor
        the other weights of a network leave in a cache.
        """
        tiles, channels, outputs = self.tiling(4).tiles, self.data[1], self.weight[0]
        operations = 2.0 * 36 * tiles * channels * outputs
        transformed = 36 * (tiles * (channels + outputs) + channels * outputs)
        traffic = 4.0 * (2 * transformed + math.prod(self.data) + math.prod(self.result))
        return (operations + _OPERATIONS_PER_BYTE * traffic) / self.flop

    def tiling(self, m: int) -> Tiling:
        """The tiles into which F(m x m, 3 x 3) cuts the data."""
        n, _, h, w = self.data
        return Tiling.of(m, n, h, w, self.padding)

    def transformed_weight(self, m: int) -> tuple[int, ...]:
        """The shape of Winograd's transformed weights, ``(a*a, O/x, C/cb, cb, x)`` with ``a = m + 2``."""
        oo, cc, _, _, cb, x = self.packed_weight
        return (m + 2) ** 2, oo, cc, cb, x

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, shape)) for shape in (self.data, self.weight))
        return f"{shapes} stride {self.stride[0]},{self.stride[1]} padding {','.join(map(str, self.padding))}"
