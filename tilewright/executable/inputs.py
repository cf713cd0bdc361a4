"""Converts what a caller passes to an executable into the array that the network reads, if no number changes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ShapeError
from tilewright.tensor import TEXTS, Array, Numbers, TensorSpec

if TYPE_CHECKING:
    import torch

__all__ = ["InputLike", "to_array"]

#: NumPy's arrays, PyTorch's tensors on the CPU, everything else that NumPy can read as an array, numbers, and (nested)
#: lists of numbers.
InputLike: TypeAlias = object


def to_array(value: InputLike, spec: TensorSpec) -> Array:
    """The array of ``spec``'s shape and dtype that ``value`` stands for.

    An array or tensor of another dtype is converted if no number changes. Python's floats are rounded to the nearest
    number of a floating-point dtype. Python's integers must not change. The array may share memory with ``value``, and
    need not be contiguous.

    Raises:
        ShapeError: the value has another shape, a number would change, or the value cannot be converted.
    """
    if not spec.is_numeric:
        return _to_value(value, spec)
    if type(value) is np.ndarray and value.dtype == spec.dtype and _fits(value.shape, spec.shape):
        return value
    array, may_round = _read(value, spec)
    if not _fits(array.shape, spec.shape):
        raise _refusal(spec, f"{array.dtype} {list(array.shape)} was given", _remedy(array, spec))
    if array.dtype == spec.dtype:
        return array
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise _refusal(spec, f"{array.dtype} {list(array.shape)} was given", f"convert it to {spec.dtype}")
    with np.errstate(all="ignore"):
        made = array.astype(spec.dtype)
        kept = _same(array, made)
        if may_round and array.dtype.kind == made.dtype.kind == "f":
            kept = np.isfinite(made) | kept
    if not kept.all():
        changed = array[~kept].flat[0]
        raise _refusal(
            spec,
            f"{array.dtype} {list(array.shape)} was given, with {changed!s}, which is no {spec.dtype}",
            f"convert it yourself if that is meant: numpy.asarray(x).astype({spec.dtype!r})",
        )
    return made


def _to_value(value: InputLike, spec: TensorSpec) -> Array:
    """The texts, the sequence or the optional value that ``value`` is; ONNX Runtime looks at what is in it."""
    if spec.dtype != TEXTS:
        return value  # type: ignore[return-value]
    array = np.asarray(value)
    if array.dtype.kind not in "OUST":
        raise _refusal(spec, f"{array.dtype} {list(array.shape)} was given", "give texts")
    if not _fits(array.shape, spec.shape):
        raise _refusal(spec, f"texts {list(array.shape)} were given", "reshape them")
    return array.astype(object)


def _read(value: InputLike, spec: TensorSpec) -> tuple[Numbers, bool]:
    """The value as an array of its own dtype, and whether it holds Python's numbers, which may be rounded."""
    if isinstance(value, np.ma.MaskedArray):
        raise _refusal(spec, "a masked array was given, but networks have no masks", "fill it, with .filled()")
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.name == "bfloat16":  # of ml_dtypes; float32 holds every bfloat16
            value = value.astype(np.float32)
        return np.asarray(value), type(value) is np.float64  # a subclass of Python's float
    if isinstance(value, str | bytes | bytearray | memoryview):
        raise _refusal(spec, f"{type(value).__name__} was given", "make an array of it first")
    device = getattr(getattr(value, "device", None), "type", "cpu")
    if isinstance(device, str) and device != "cpu":
        raise _refusal(spec, f"a tensor on {device!r} was given", "bring it to the CPU first, with .cpu()")
    try:
        array = np.asarray(_plain(value) if callable(getattr(value, "detach", None)) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as exc:
        said = next(iter(str(exc).splitlines()), "")[:200]
        raise _refusal(
            spec, f"{_kind(value)} was given that NumPy cannot read ({said})", "make an array of it"
        ) from exc
    if array.dtype == object:
        raise _refusal(spec, f"{_kind(value)} was given that NumPy has no numbers for", "make an array of it first")
    return array, isinstance(value, int | float | list | tuple)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of PyTorch as NumPy can read it: without gradients, views that negate, and bfloat16."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor  # float32 holds every bfloat16


def _same(array: Numbers, made: Numbers) -> NDArray[np.bool_]:
    """Where ``made``, the converted ``array``, has the same numbers."""
    same: NDArray[np.bool_] = (made.astype(array.dtype) == array) | ((array != array) & (made != made))
    # The conversion of a number beyond the range of integers is undefined, and may even convert back to that number.
    whole, fraction = (made, array) if made.dtype.kind in "iu" else (array, made)
    if whole.dtype.kind in "iu" and fraction.dtype.kind == "f":
        limits = np.iinfo(whole.dtype.name)
        same &= (fraction >= float(limits.min)) & (fraction < float(limits.max + 1))
    elif made.dtype.kind in "iu" and array.dtype.kind in "iu":
        same &= (made < 0) == (array < 0)
    return same


def _remedy(array: Array, spec: TensorSpec) -> str:
    """What to do about an array of another shape. It is reshaped only if it has as many elements."""
    if spec.is_fixed and array.size == math.prod(spec.shape):
        return "reshape it"
    return "give that shape, or tune again with a --shape for each that you need"


def _kind(value: object) -> str:
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" + (f" of {dtype}" if dtype is not None else "")


def _refusal(spec: TensorSpec, got: str, remedy: str) -> ShapeError:
    return ShapeError(f"input {spec.name!r} is {spec.dtype} {list(spec.shape)}, but {got}; {remedy}")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape is the wanted one, of which some extents may be open (-1)."""
    return len(shape) == len(wanted) and all(w in (-1, n) for w, n in zip(wanted, shape, strict=True))
