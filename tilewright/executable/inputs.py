"""What a caller hands to an executable, as the array that the network reads: converted only where nothing is lost."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ShapeError
from tilewright.tensor import TensorSpec

__all__ = ["InputLike", "to_array"]

#: NumPy arrays, tensors of PyTorch on the CPU and all else that NumPy can read as an array, numbers, and (nested) lists
#: of them.
InputLike: TypeAlias = Any


def to_array(value: InputLike, spec: TensorSpec) -> NDArray[Any]:
    """The array of ``spec``'s shape and dtype that ``value`` stands for.

    An array or tensor of another dtype is converted if all its numbers stay what they are. Python's floats are rounded
    to the nearest number of a floating-point dtype, its integers must stay what they are. The array may share memory
    with ``value``, and need not be contiguous.

    Raises:
        ShapeError: the shape is another one, a number would change, or it is nothing that can be converted.
    """
    if type(value) is np.ndarray and value.dtype == spec.dtype and value.shape == spec.shape:
        return value
    array, rounds = _read(value, spec)
    if array.shape != spec.shape:
        raise _refusal(spec, f"{array.dtype} {list(array.shape)} was given", "reshape it")
    if array.dtype == spec.dtype:
        return array
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise _refusal(spec, f"{array.dtype} {list(array.shape)} was given", f"convert it to {spec.dtype}")
    with np.errstate(all="ignore"):
        made = array.astype(spec.dtype)
        kept = _same(array, made)
        if rounds and array.dtype.kind == made.dtype.kind == "f":
            kept = np.isfinite(made) | kept
    if not kept.all():
        changed = array[~kept].flat[0]
        raise _refusal(
            spec,
            f"{array.dtype} {list(array.shape)} was given, with {changed!s}, which is no {spec.dtype}",
            f"convert it yourself if that is meant: numpy.asarray(x).astype({spec.dtype!r})",
        )
    return made


def _read(value: InputLike, spec: TensorSpec) -> tuple[NDArray[Any], bool]:
    """An array of any dtype, and whether it consists of Python's numbers, which may be rounded."""
    if isinstance(value, np.ma.MaskedArray):
        raise _refusal(spec, "a masked array was given, but networks have no masks", "fill it, with .filled()")
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value), type(value) is np.float64  # which is Python's float, too
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


def _plain(tensor: Any) -> Any:
    """A tensor of PyTorch as one that NumPy can read: without gradients, views that negate, and bfloat16."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor  # which is exact


def _same(array: NDArray[Any], made: NDArray[Any]) -> NDArray[np.bool_]:
    """Where ``made``, which is ``array`` converted, has the same numbers."""
    same: NDArray[np.bool_] = (made.astype(array.dtype) == array) | ((array != array) & (made != made))
    # Beyond the range of integers a conversion may give anything, also what comes back to the number that it was.
    whole, fraction = (made, array) if made.dtype.kind in "iu" else (array, made)
    if whole.dtype.kind in "iu" and fraction.dtype.kind == "f":
        limits = np.iinfo(whole.dtype)
        same &= (fraction >= float(limits.min)) & (fraction < float(limits.max + 1))
    elif made.dtype.kind in "iu" and array.dtype.kind in "iu":
        same &= (made < 0) == (array < 0)
    return same


def _kind(value: object) -> str:
    dtype = getattr(value, "dtype", None)
    return f"a {type(value).__name__}" + (f" of {dtype}" if dtype is not None else "")


def _refusal(spec: TensorSpec, got: str, remedy: str) -> ShapeError:
    return ShapeError(f"input {spec.name!r} is {spec.dtype} {list(spec.shape)}, but {got}; {remedy}")
