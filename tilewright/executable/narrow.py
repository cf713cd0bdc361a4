"""Keeps weights of float32 in half as many bytes, where float16 or bfloat16 has exactly these numbers.

A network of float16 computes in float32, but its weights stay as small on disk as they were. No number changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tilewright.tensor import Array

__all__ = ["NARROW", "narrow_array", "widen_array"]

#: The dtypes that weights are kept in. NumPy has no bfloat16, so its bits are kept, as uint16.
NARROW = {"float16": "float16", "bfloat16": "uint16"}
#: The least bytes of a weight that is kept in fewer.
_LEAST = 1024
#: How many numbers are looked at first; how many are looked at together.
_SAMPLE, _CHUNK = 4096, 1 << 20
#: The last bits of a float32 that are 0 if it is a bfloat16, or a float16.
_BELOW_BFLOAT16, _BELOW_FLOAT16 = np.uint32(0xFFFF), np.uint32(0x1FFF)


def narrow_array(array: Array) -> tuple[Array, str]:
    """A weight in half as many bytes.

    Args:
        array: of any shape and dtype.

    Returns:
        the array to keep, and the dtype that it is kept in; the array itself and an empty text, if it is not of
        float32, is small, or has numbers that neither dtype has.
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


def _all_zero(bits: NDArray[np.uint32], mask: np.uint32) -> bool:
    """Whether no number has a bit of ``mask``. Most arrays that have one show it in a sample."""
    if (bits[:: max(1, bits.size // _SAMPLE)] & mask).any():
        return False
    return not any((bits[begin : begin + _CHUNK] & mask).any() for begin in range(0, bits.size, _CHUNK))


def widen_array(array: Array, kind: str) -> Array:
    """A weight that was kept as ``kind``, as float32.

    Raises:
        ValueError: it was not kept so.
    """
    if NARROW.get(kind) != str(array.dtype):
        raise ValueError(f"a weight is kept as {kind!r:.40}, but it is {array.dtype}")
    if kind == "float16":
        return array.astype(np.float32)
    wide: Array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide
