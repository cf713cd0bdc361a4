"""Stores weights of float32 in half as many bytes, if float16 or bfloat16 represents all their numbers exactly.

A network in float16 computes in float32, but its weights stay as small on disk as they were. No number changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.tensor import Array

__all__ = ["NARROW", "is_bfloat16", "narrow_array", "widen_array"]

#: The types that weights are stored in, and NumPy's dtypes for them. NumPy has no bfloat16, so uint16 holds its bits.
NARROW = {"float16": "float16", "bfloat16": "uint16"}
#: The least bytes of a weight that is stored in half as many: a choice.
_LEAST = 1024
#: The number of elements in the sample that is tested first, and in each block that is tested afterwards.
_SAMPLE, _CHUNK = 4096, 1 << 20
#: The bits of a float32 that are all 0 if a bfloat16, or a float16, represents it exactly.
_BELOW_BFLOAT16, _BELOW_FLOAT16 = np.uint32(0xFFFF), np.uint32(0x1FFF)


def narrow_array(array: Array) -> tuple[Array, str]:
    """A weight in half as many bytes.

    Args:
        array: of any shape and dtype.

    Returns:
        the array to store, and its type, a key of ``NARROW``. If the array is not of float32, is small, or has numbers
        that neither type represents: the array itself and an empty text.
    """
    if array.dtype != np.float32 or array.nbytes < _LEAST:
        return array, ""
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    if _all_zero(bits, _BELOW_BFLOAT16):
        return (bits >> np.uint32(16)).astype(np.uint16).reshape(array.shape), "bfloat16"
    if not _all_zero(bits, _BELOW_FLOAT16):
        return array, ""
    made = np.empty(bits.size, dtype=np.float16)
    for begin in range(0, bits.size, _CHUNK):
        part = bits[begin : begin + _CHUNK]
        with np.errstate(all="ignore"):
            made[begin : begin + _CHUNK] = part.view(np.float32).astype(np.float16)
        if not np.array_equal(made[begin : begin + _CHUNK].astype(np.float32).view(np.uint32), part):
            return array, ""
    return made.reshape(array.shape), "float16"


def is_bfloat16(array: Array) -> bool:
    """Whether an array of float32 has only numbers that bfloat16 represents exactly."""
    bits = np.ascontiguousarray(array).reshape(-1)
    return array.dtype == np.float32 and _all_zero(bits.view(np.uint32), _BELOW_BFLOAT16)


def _all_zero(bits: NDArray[np.uint32], mask: np.uint32) -> bool:
    """Whether the bits of ``mask`` are 0 in all numbers. A sample is tested first, since it decides most cases."""
    if (bits[:: max(1, bits.size // _SAMPLE)] & mask).any():
        return False
    return not any((bits[begin : begin + _CHUNK] & mask).any() for begin in range(0, bits.size, _CHUNK))


def widen_array(array: Array, kind: str) -> Array:
    """A weight that was stored as ``kind``, in float32.

    Raises:
        ValueError: the array has another dtype than such a weight.
    """
    if NARROW.get(kind) != str(array.dtype):
        raise ValueError(f"a weight is kept as {kind!r:.40}, but it is {array.dtype}")
    if kind == "float16":
        return array.astype(np.float32)
    wide: Array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide
