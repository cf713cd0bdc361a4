"""Winograd's minimal filtering for 3x3 convolutions with stride 1, in three functions or in one.

F(m x m, 3 x 3) computes tiles of ``m x m`` outputs from tiles of ``a x a`` inputs, ``a = m + 2``. Neighbouring tiles of
inputs overlap by two (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):

    Y = A^T [ (G g G^T) . (B^T d B) ] A

``P`` is the number of tiles of all images, in the order of the images. ``x`` is the number of channels in a block of
the output, and ``cb`` that of the input:

    data        (n, C/cb, h, w, cb)             --> V (a*a, C/cb, P, cb)    B^T d B
    products    V, U (a*a, O/x, C/cb, cb, x)    --> M (a*a, O/x, P, x)      a*a matrix products: a contraction
    inverse     M                               --> (n, O/x, rows, cols, x) A^T M A, cropped

In three functions, V and M are whole tensors, which one core writes and another reads. In one function (``fused``), a
core takes some rows of tiles from data to outputs, and its part of V and M stays in its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilewright.ops.contraction.form import BLOCK, mark_roles
from tilewright.ops.function import FUSABLE, KEPT, OPAQUE, make_function
from tilewright.ops.mark import Mark

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.te import Tensor
    from tvm.tirx import PrimFunc

__all__ = [
    "BACK",
    "DATA",
    "FAR",
    "INVERSE",
    "KIND",
    "NEAR",
    "PAD",
    "PRODUCTS",
    "ROWS",
    "Tiling",
    "choose",
    "data_transform",
    "fused",
    "inverse_tiles",
    "inverse_transform",
    "kernel_rows",
    "make_number",
    "products",
    "transform_tiles",
    "transform_weight",
    "weight_matrix",
]

#: The kind of the tasks.
KIND = "winograd"
#: The names of the stages, by which the templates find them. Data are padded (PAD), transformed by columns (ROWS: it
#: gives rows) and by rows (DATA). The fused function multiplies them (PRODUCTS). The inverse transform goes by columns
#: (ROWS, or BACK in the fused function) and by rows (INVERSE).
PAD, ROWS, DATA = "winograd_pad", "winograd_rows", "winograd_data"
PRODUCTS, BACK, INVERSE = "winograd_products", "winograd_back", "winograd_inverse"
_MARK = Mark(KIND).annotations

#: F(4x4, 3x3) interpolates at 0, +-near, +-far and infinity. With 1 and 2, which the paper has, results are off by 2.2
#: times as much (64 channels, normal data). oneDNN has the same points. All products of them are exact in float32.
NEAR, FAR = 5 / 8, 3 / 2


def kernel_rows() -> list[list[float]]:
    """The transform of kernels for m = 4: at each point, the powers of it, divided by its distances to the others."""
    rows = [[1 / (NEAR * FAR) ** 2, 0.0, 0.0]]
    for one, other in ((NEAR, FAR), (FAR, NEAR)):
        for point in (one, -one):
            distances = 2 * point**2 * (one**2 - other**2)
            rows.append([1 / distances, point / distances, point**2 / distances])
    return [*rows, [0.0, 0.0, 1.0]]


#: The transforms of kernels, by m.
_G: dict[int, list[list[float]]] = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: kernel_rows(),
}


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        m: rows and columns of outputs of a tile.
        batch: number of images.
        rows, cols: of the outputs.
        padding: top, left, bottom, right.
    """

    m: int
    batch: int
    rows: int
    cols: int
    padding: tuple[int, int, int, int]

    @classmethod
    def of(cls, m: int, batch: int, height: int, width: int, padding: tuple[int, int, int, int]) -> Tiling:
        """The tiling for images of ``height x width``."""
        top, left, bottom, right = padding
        return cls(m, batch, height + top + bottom - 2, width + left + right - 2, padding)

    @property
    def a(self) -> int:
        """Rows and columns of inputs of a tile."""
        return self.m + 2

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        return -(-self.rows // self.m), -(-self.cols // self.m)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.batch * self.grid[0] * self.grid[1]


def transform_weight(m: int, weight: NDArray[np.generic]) -> NDArray[np.float32]:
    """``G g G^T`` of each kernel, rounded once: ``(O, C, 3, 3)`` --> ``(O, C, a, a)``."""
    g = np.asarray(_G[m], dtype=np.float64)
    return np.asarray(g @ weight.astype(np.float64) @ g.T, dtype=np.float32)


def weight_matrix(m: int) -> NDArray[np.float32]:
    """``G g G^T`` as a product: ``(a*a, 9)``, to be multiplied by the nine numbers of each kernel."""
    g = np.asarray(_G[m], dtype=np.float64)
    return np.kron(g, g).astype(np.float32)


@lru_cache(KEPT)
def data_transform(tiling: Tiling, data: tuple[int, ...]) -> PrimFunc:
    """``B^T d B`` of all tiles d of NCHW[cb]c data. Gives a PrimFunc (data, V), which nothing is fused with."""
    from tvm import te

    x = te.placeholder(data, name="data")
    return make_function([x, transform_tiles(tiling, x, make_number(0.0))], OPAQUE)


def transform_tiles(tiling: Tiling, x: Tensor, around: Expr) -> Tensor:
    """``B^T d B`` of all tiles of the data, ``(a*a, C/cb, P, cb)``, in the type of ``around``, which pads the data."""
    from tvm import te

    rows = _input_rows(tiling, x, around)
    _, cc, _, _, cb = (int(extent) for extent in x.shape)
    m, a = tiling.m, tiling.a
    down, across = tiling.grid

    def both(xi: Expr, c: Expr, p: Expr, v: Expr) -> Expr:
        n, i, j = p // (down * across), p // across % down, p % across
        return choose(xi % a, _INPUT[m]([rows[n, c, i, j, xi // a, s, v] for s in range(a)]))

    return te.compute((a * a, cc, tiling.tiles, cb), both, name=DATA, attrs=_MARK)


def _input_rows(tiling: Tiling, x: Tensor, around: Expr) -> Tensor:
    """The transform of the columns of all input tiles, ``(n, C/cb, down, across, a, a, cb)``."""
    from tvm import te

    dtype = str(around.ty.dtype)

    batch, cc, height, width, cb = (int(extent) for extent in x.shape)
    m, a = tiling.m, tiling.a
    down, across = tiling.grid
    top, left = tiling.padding[:2]
    source, (tall, wide) = x, (down * m + 2, across * m + 2)
    if (tall, wide, top, left) != (height, width, 0, 0) or str(x.dtype) != dtype:
        source = te.compute(
            (batch, cc, tall, wide, cb),
            lambda n, c, i, j, v: te.if_then_else(
                te.all(i >= top, i < height + top, j >= left, j < width + left),
                x[n, c, i - top, j - left, v].astype(dtype),
                around,
            ),
            name=PAD,
        )
    return te.compute(
        (batch, cc, down, across, a, a, cb),
        lambda n, c, i, j, u, s, v: choose(u, _INPUT[m]([source[n, c, i * m + r, j * m + s, v] for r in range(a)])),
        name=ROWS,
    )


@lru_cache(KEPT)
def products(tiling: Tiling, weight: tuple[int, ...]) -> PrimFunc:
    """The ``a*a`` matrix products of V and U: a contraction. Gives a PrimFunc (V, U, M), which nothing is fused with.

    Args:
        tiling: the tiles.
        weight: shape of U, ``(a*a, O/x, C/cb, cb, x)``.
    """
    from tvm import te

    count, oo, cc, cb, x = weight
    data = te.placeholder((count, cc, tiling.tiles, cb), name="data")
    w = te.placeholder(weight, name="weight")
    rc, ri = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, cb), "ri")
    c = te.compute(
        (count, oo, tiling.tiles, x),
        lambda b, o, p, v: te.sum(data[b, rc, p, ri] * w[b, o, rc, ri, v], axis=[rc, ri]),
        name=BLOCK,
        attrs=mark_roles("bopl/rr"),
    )
    return make_function([data, w, c], OPAQUE)


@lru_cache(KEPT)
def inverse_transform(tiling: Tiling, oo: int, x: int) -> PrimFunc:
    """``A^T M A`` of all tiles, cropped. Gives a PrimFunc (M, output), which consumers are fused into."""
    from tvm import te

    source = te.placeholder((tiling.a**2, oo, tiling.tiles, x), name="data")
    return make_function([source, inverse_tiles(tiling, source)], FUSABLE)


def inverse_tiles(tiling: Tiling, source: Tensor, divisor: int = 1) -> Tensor:
    """``A^T M A`` of all tiles, cropped; of integers M, divided by 1 or by a power of two that divides them."""
    _, oo, _, x = (int(extent) for extent in source.shape)
    down, across = tiling.grid

    def element(xi: int, o: Expr, n: Expr, i: Expr, j: Expr, v: Expr) -> Expr:
        return source[xi, o, (n * down + i) * across + j, v]

    return _outputs(tiling, oo, x, ROWS, element, divisor.bit_length() - 1)


@lru_cache(KEPT)
def fused(tiling: Tiling, data: tuple[int, ...], weight: tuple[int, ...]) -> PrimFunc:
    """All three stages in one function. Gives a PrimFunc (data, U, output), which consumers are fused into.

    Tiles are indexed by image, row and column, so that a schedule can take some rows of tiles from data to outputs.

    Args:
        tiling: the tiles.
        data: shape of the NCHW[cb]c data.
        weight: shape of U, ``(a*a, O/x, C/cb, cb, x)``.
    """
    from tvm import te

    count, oo, cc, cb, x = weight
    m, a = tiling.m, tiling.a
    down, across = tiling.grid
    source, w = te.placeholder(data, name="data"), te.placeholder(weight, name="weight")
    rows = _input_rows(tiling, source, make_number(0.0))
    transformed = te.compute(
        (count, cc, tiling.batch, down, across, cb),
        lambda xi, c, n, i, j, v: choose(xi % a, _INPUT[m]([rows[n, c, i, j, xi // a, s, v] for s in range(a)])),
        name=DATA,
        attrs=_MARK,
    )
    rc, ri = te.reduce_axis((0, cc), "rc"), te.reduce_axis((0, cb), "ri")
    multiplied = te.compute(
        (count, oo, tiling.batch, down, across, x),
        lambda xi, o, n, i, j, v: te.sum(transformed[xi, rc, n, i, j, ri] * w[xi, o, rc, ri, v], axis=[rc, ri]),
        name=PRODUCTS,
    )
    result = _outputs(tiling, oo, x, BACK, lambda xi, o, n, i, j, v: multiplied[xi, o, n, i, j, v])
    return make_function([source, w, result], FUSABLE)


def _outputs(tiling: Tiling, oo: int, x: int, name: str, source: Callable[..., Expr], shift: int = 0) -> Tensor:
    """``A^T M A`` of all tiles, cropped, without its lowest ``shift`` bits.

    ``source`` gives an element of M by ``(xi, o, n, i, j, v)``.
    """
    from tvm import te

    m, a = tiling.m, tiling.a
    down, across = tiling.grid
    rows = te.compute(
        (tiling.batch, oo, down, across, m, a, x),
        lambda n, o, i, j, u, s, v: choose(u, _OUTPUT[m]([source(r * a + s, o, n, i, j, v) for r in range(a)])),
        name=name,
    )
    whole = te.compute(
        (tiling.batch, oo, down * m, across * m, x),
        lambda n, o, i, j, v: choose(j % m, _OUTPUT[m]([rows[n, o, i // m, j // m, i % m, s, v] for s in range(a)])),
        name=INVERSE,
        attrs=_MARK,
    )
    shape = (tiling.batch, oo, tiling.rows, tiling.cols, x)

    def crop(n: Expr, o: Expr, i: Expr, j: Expr, v: Expr) -> Expr:
        return whole[n, o, i, j, v] >> shift if shift else whole[n, o, i, j, v]

    return te.compute(shape, crop, name="winograd_crop")


def choose(index: Expr, values: Sequence[Expr]) -> Expr:
    """``values[index]``. Once ``index`` is unrolled, the other values vanish."""
    from tvm import tirx

    result = values[-1]
    for number in reversed(range(len(values) - 1)):
        result = tirx.Select(index == number, values[number], result)
    return result


# One-dimensional transforms. They write equal terms alike, so that the compiler computes these once.


def _input2(d: Sequence[Expr]) -> list[Expr]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output2(m: Sequence[Expr]) -> list[Expr]:
    return [m[0] + (m[1] + m[2]), (m[1] - m[2]) - m[3]]


def _input4(d: Sequence[Expr]) -> list[Expr]:
    near, far, near2, far2 = (make_number(v) for v in (NEAR, FAR, NEAR**2, FAR**2))
    both, product = make_number(NEAR**2 + FAR**2), make_number((NEAR * FAR) ** 2)
    even, odd = d[4] - far2 * d[2], near * (d[3] - far2 * d[1])
    far_even, far_odd = d[4] - near2 * d[2], far * (d[3] - near2 * d[1])
    ends = [(d[i + 4] - both * d[i + 2]) + product * d[i] for i in (0, 1)]
    return [ends[0], even + odd, even - odd, far_even + far_odd, far_even - far_odd, ends[1]]


def _output4(m: Sequence[Expr]) -> list[Expr]:
    near, near2, near3 = (make_number(NEAR**power) for power in (1, 2, 3))
    far, far2, far3 = (make_number(FAR**power) for power in (1, 2, 3))
    plus, minus, far_plus, far_minus = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        (m[0] + plus) + far_plus,
        near * minus + far * far_minus,
        near2 * plus + far2 * far_plus,
        (near3 * minus + far3 * far_minus) + m[5],
    ]


def make_number(value: float) -> Expr:
    """A constant in float32."""
    from tvm import tirx

    return tirx.const(value, "float32")


#: ``B^T d`` of a column d, and ``A^T m`` of a column m, by the m of the tiling.
_INPUT: dict[int, Callable[[Sequence[Expr]], list[Expr]]] = {2: _input2, 4: _input4}
_OUTPUT: dict[int, Callable[[Sequence[Expr]], list[Expr]]] = {2: _output2, 4: _output4}
