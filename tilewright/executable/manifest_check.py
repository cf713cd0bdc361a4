"""Refuses manifests of executables that lack an entry or have one of another type."""

from __future__ import annotations

import math
import re

import numpy as np

from tilewright.executable.narrow import NARROW
from tilewright.jsonable import Json, JsonObject
from tilewright.tensor import OPTIONAL, SEQUENCE, TEXTS

__all__ = ["check_entries"]

#: The most elements of an input or output: kernels have indices of 32 bits.
_MOST_ELEMENTS = 2**31 - 1
#: LLVM's names of platforms.
_TRIPLE = re.compile(r"[a-z0-9_]+(-[a-z0-9_.]+){1,4}")
#: LLVM's names for the extensions of a processor.
_FEATURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
#: NumPy's kinds of the dtypes that kernels compute with.
_KINDS = "iufb"


def check_entries(manifest: JsonObject) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` if an entry is missing or of another type.

    The checksums of files are not looked at.
    """
    _check_ends(manifest)
    if not isinstance(manifest.get("model"), str | None) or not isinstance(manifest["plan"], dict | None):
        raise ValueError("its model is not the name of a file, or its plan is not a plan")
    _check_target(manifest.get("target", {}))
    segments = manifest.get("segments", [])
    _check_segments(segments)
    _check_buckets(manifest.get("buckets", []), len(segments) if isinstance(segments, list) else 0)
    blocks = manifest.get("xxh3", {})
    if not isinstance(blocks, dict) or not all(isinstance(block, list) for block in blocks.values()):
        raise ValueError("its checksums of blocks are not lists")
    narrow = manifest.get("narrow", {})
    if not isinstance(narrow, dict) or not all(kind in NARROW for kind in narrow.values()):
        raise ValueError(f"its narrow weights are not kept as {' or '.join(NARROW)}, but {narrow!r:.80}")


def _check_ends(entry: JsonObject) -> None:
    """Raise if the inputs or outputs of a manifest or a bucket are not descriptions of tensors."""
    for key in ("inputs", "outputs"):
        entries = entry[key]
        if not isinstance(entries, list):
            raise ValueError(f"its {key} are not a list")
        for tensor in entries:
            if not isinstance(tensor, dict):
                raise TypeError(f"one of its {key} is not an object, but {tensor!r:.80}")
            _check_end(tensor["shape"], tensor["dtype"])
            if not isinstance(tensor["name"], str):
                raise ValueError("the name of a tensor is not a text")


def _check_buckets(buckets: Json, segments: int) -> None:
    if not isinstance(buckets, list):
        raise ValueError("its buckets are not a list")
    for bucket in buckets:
        if not isinstance(bucket, dict) or not isinstance(bucket["plan"], dict):
            raise ValueError("one of its buckets has no plan")
        _check_ends(bucket)
        numbers, padding = bucket["segments"], bucket["padding"]
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < segments for n in numbers):
            raise ValueError("the segments of a bucket are not numbers of its segments")
        for entry in padding if isinstance(padding, list) else [None]:
            for key in ("inputs", "outputs"):
                axes = entry[key] if isinstance(entry, dict) else None
                if not isinstance(axes, dict) or not all(type(a) is int and 0 <= a < 32 for a in axes.values()):
                    raise ValueError(f"the {key} of a padding are not axes by name")


def _check_target(target: Json) -> None:
    if not isinstance(target, dict):
        raise ValueError("its target is not an object")
    features = target.get("features", [])  # earlier manifests have no list of them
    if not isinstance(features, list) or not all(isinstance(f, str) and _FEATURE.fullmatch(f) for f in features):
        raise ValueError(f"the features of its target are not a list of names, but {features!r:.80}")
    triple = target.get("triple")
    if triple is not None and (not isinstance(triple, str) or not _TRIPLE.fullmatch(triple)):
        raise ValueError(f"the triple of its target names no platform, but is {triple!r:.80}")


def _check_segments(segments: Json) -> None:
    if not isinstance(segments, list):
        raise ValueError("its segments are not a list")
    for entry in segments:
        if not isinstance(entry, dict):
            raise TypeError(f"one of its segments is not an object, but {entry!r:.80}")
        for key in ("inputs", "outputs", "given", "returned", "reasons", "operators"):
            names = entry.get(key, []) if key == "operators" else entry[key]  # earlier manifests have no operators
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"the {key} of a segment are not a list of texts")
        opset = entry.get("opset", 0)  # earlier manifests have none
        if type(opset) is not int or not 0 <= opset < 2**31:
            raise ValueError(f"the opset of a segment is not a version, but {opset!r:.80}")


def _check_end(shape: Json, dtype: Json) -> None:
    """Raise ``ValueError`` or ``TypeError`` if no input or output has that shape and dtype."""
    if dtype in (TEXTS, SEQUENCE, OPTIONAL):
        dtype = "uint8"
    if isinstance(shape, list):
        shape = [1 if extent == -1 else extent for extent in shape]
    _check_tensor(shape, dtype)


def _check_tensor(shape: Json, dtype: Json) -> None:
    """Raise ``ValueError`` or ``TypeError`` if no tensor has that shape and dtype."""
    extents = [d for d in shape if type(d) is int and d >= 0] if isinstance(shape, list) else []
    if not isinstance(shape, list) or len(shape) > 32 or len(extents) < len(shape):
        raise ValueError(f"a shape is a list of at most 32 integers that are not negative, but this is {shape!r:.80}")
    if math.prod(extent for extent in extents if extent) > _MOST_ELEMENTS:  # even if another extent is 0
        raise ValueError(f"a tensor has at most {_MOST_ELEMENTS:,} elements, but this has the shape {shape!r:.80}")
    if not isinstance(dtype, str) or not dtype.isidentifier() or np.dtype(dtype).kind not in _KINDS:
        raise ValueError(f"a dtype is one of NumPy's numbers, but this is {dtype!r:.80}")
