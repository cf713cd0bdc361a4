"""Draws inputs of a network: random numbers, smooth images, integers that the network accepts, and inputs nearby."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import MeasureError
from tilewright.frontend.network import Network
from tilewright.tensor import Array, TensorSpec, random_texts
from tilewright.verify.integers import Range, draw_integers

__all__ = ["blend_arrays", "draw_inputs"]

#: How far nearby inputs are on the way to other inputs.
_NEARBY = 0.1
#: The largest finite number of float16.
_LARGEST_HALF = float(np.finfo(np.float16).max)


def draw_inputs(
    network: Network, ranges: Sequence[Range | None], rng: np.random.Generator, kind: str, scale: float, narrow: bool
) -> list[Array]:
    """One array for each input of a network.

    Args:
        network: the network.
        ranges: the integers that each input accepts; None for floating-point inputs.
        rng: the source of chance.
        kind: ``normal`` (standard normal numbers) or ``image-like`` (smooth numbers from 0 to 1).
        scale: the factor of floating-point numbers.
        narrow: whether integers are 0 and 1 only, unless the graph fixes their range.
    """
    arrays: list[Array] = []
    for spec, bounds in zip(network.inputs, ranges, strict=True):
        if not spec.kind:
            raise MeasureError(f"no {spec.dtype} can be made up for the input {spec.name!r}")
        if spec.kind == "T":
            arrays.append(random_texts(spec.shape, rng))
        elif bounds is not None:
            arrays.append(draw_integers(spec, bounds, rng, narrow))
        else:
            values = scale * (rng.standard_normal(spec.shape) if kind == "normal" else _image(spec, rng))
            if spec.dtype == "float16":  # infinities would show nothing
                values = np.clip(values, -_LARGEST_HALF, _LARGEST_HALF)
            arrays.append(np.asarray(values).astype(spec.dtype))
    return arrays


def blend_arrays(array: Array, other: Array) -> Array:
    """An array nearby ``array``: a tenth of the way to ``other``, or with a tenth of the integers of ``other``."""
    if array.dtype.kind == "f":
        blended: Array = np.add(np.multiply(1 - _NEARBY, array), np.multiply(_NEARBY, other)).astype(array.dtype)
        return blended
    chosen = np.arange(array.size).reshape(array.shape) % round(1 / _NEARBY) == 0
    return np.where(chosen, other, array).astype(array.dtype)


def _image(spec: TensorSpec, rng: np.random.Generator) -> NDArray[np.float64]:
    """Numbers from 0 to 1, smooth along the last two axes if these have at least 8 elements."""
    if len(spec.shape) < 3 or min(spec.shape[-2:]) < 8:
        return rng.random(spec.shape)
    *lead, height, width = spec.shape
    result = 0.1 * rng.random(spec.shape)
    for cells in (2, 6):
        rows, columns = (_weights(extent, cells) for extent in (height, width))
        result += 0.45 * (rows @ rng.random((*lead, cells, cells)) @ columns.T)
    return result


def _weights(extent: int, cells: int) -> NDArray[np.float64]:
    """A matrix of shape (``extent``, ``cells``) that interpolates ``cells`` numbers linearly over ``extent`` places."""
    where = np.linspace(0, cells - 1, extent)[:, None]
    return np.maximum(0.0, 1.0 - np.abs(where - np.arange(cells)))
