"""The manifest of an executable, and the files it lists: each with its checksum, none outside the directory.

Checksums tell damage, and files that were changed after they were written. They are no signature: whoever can write the
directory can write checksums, too, and its library is native code. Load executables that you trust.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.errors import OutputError
from tilewright.reading import open_regular, parse_json, read_file
from tilewright.scratch import explained

__all__ = ["FORMAT", "LIBRARY", "NAME", "WEIGHTS", "listed", "read_manifest", "sealed", "take", "verify"]

#: Version of the directory's layout.
FORMAT = 2
NAME, LIBRARY, WEIGHTS = "manifest.json", "kernels.so", "weights.npz"
#: A manifest is a few hundred kilobytes: a line for each call and tensor.
_MOST_BYTES = 64 << 20
#: Elements of an input or output; more cannot be addressed by the kernels' 32-bit indices.
_MOST_ELEMENTS = 2**31 - 1
#: How LLVM calls an extension of a processor.
_FEATURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
#: NumPy's kinds of what kernels compute with.
_KINDS = "iufb"


def sealed(manifest: Mapping[str, Any], folder: Path, files: list[str]) -> str:
    """The text of a manifest, with the checksums of ``files`` in ``folder`` and of itself."""
    sums = {name: _sha256(folder / name) for name in files}
    made = json.loads(json.dumps({**manifest, "sha256": sums}))
    made["sha256"][NAME] = _own_sum(made)
    return json.dumps(made, indent=1) + "\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the executable in ``folder``, complete and of the right types.

    Raises:
        OutputError: there is none, or it is damaged, changed, or of another format.
    """
    try:
        manifest = parse_json(read_file(_inside(folder, NAME), _MOST_BYTES))
        version = manifest["format"]
    except MemoryError as exc:
        raise OutputError(f"memory is missing to read {folder / NAME}; end other programs") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise OutputError(
            f"an executable is a directory with a manifest.json that `tilewright tune` wrote, but {folder} is none: "
            f"{getattr(exc, 'strerror', None) or exc}"
        ) from exc
    if version != FORMAT:
        raise OutputError(
            f"this Tilewright reads executables of format {FORMAT}, but {folder} has {str(version)[:40]!r}; tune again"
        )
    try:
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        reason = f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
        raise OutputError(f"{folder / NAME} is damaged, or was changed: {reason}; tune again") from exc
    return dict(manifest)


def listed(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    """The file called ``name`` of an executable, if it is the one that was written.

    Raises:
        OutputError: it is missing, outside of the directory, not listed with a checksum, or has another one.
    """
    path = _listed(folder, manifest, name)
    try:
        with open_regular(path):
            right = _sha256(path) == manifest["sha256"][name]
    except (OSError, ValueError) as exc:
        raise _missing(path, exc) from exc
    if not right:
        raise _changed(path)
    return path


def verify(folder: Path) -> None:
    """Refuse an executable that would not be loaded, without loading anything. Raises as :func:`listed` does."""
    manifest = read_manifest(folder)
    for name in (LIBRARY, WEIGHTS):
        listed(folder, manifest, name)


def take(folder: Path, manifest: Mapping[str, Any], name: str, to: Path) -> None:
    """Copy a listed file, and check the copy: nobody can change that one between the check and its use.

    Raises as :func:`listed` does, and ``ResourceError`` where the disk of the copy is full.
    """
    path = _listed(folder, manifest, name)
    try:
        with open_regular(path) as source, to.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except (OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):  # the copy's trouble
            raise explained(exc, f"{path} cannot be copied to be loaded", to.parent) from exc
        raise _missing(path, exc) from exc
    if _sha256(to) != manifest["sha256"][name]:
        raise _changed(path)


def _listed(folder: Path, manifest: Mapping[str, Any], name: str) -> Path:
    try:
        path = _inside(folder, name)
    except ValueError as exc:
        raise OutputError(f"an executable's files lie in its own directory, but {exc}; tune again") from exc
    if name not in manifest["sha256"]:
        raise OutputError(f"{folder / NAME} lists no checksum of {name}, so it cannot be trusted; tune again")
    return path


def _missing(path: Path, exc: Exception) -> OutputError:
    return OutputError(f"{path} is missing or cannot be read: {getattr(exc, 'strerror', None) or exc}; tune again")


def _changed(path: Path) -> OutputError:
    return OutputError(f"{path} is not the file that was written: its checksum differs from the manifest's; tune again")


def _inside(folder: Path, name: str) -> Path:
    """The path of a file in ``folder`` itself. Raises ``ValueError`` where the name or a link leads elsewhere."""
    if not name or name != Path(name).name or name in (".", "..") or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is no name of a file in it")
    path = folder / name
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise ValueError(f"{path} is a link to {path.resolve()}")
    return path


def _check(manifest: Any) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` where a field that is used has not its type."""
    sums = manifest["sha256"]
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise ValueError("its checksums are no texts")
    if NAME in sums and sums[NAME] != _own_sum(manifest):  # directories written before it was summed have none
        raise ValueError("its own checksum differs")
    for key in ("inputs", "outputs"):
        if not isinstance(manifest[key], list):
            raise ValueError(f"its {key} are no list")
        for entry in manifest[key]:
            check_tensor(entry["shape"], entry["dtype"])
            if not isinstance(entry["name"], str):
                raise ValueError("the name of a tensor is no text")
    if not isinstance(manifest.get("model"), str | None) or not isinstance(manifest["plan"], dict | None):
        raise ValueError("its model is no name of a file, or its plan no plan")
    _check_target(manifest.get("target", {}))


def _check_target(target: Any) -> None:
    if not isinstance(target, dict):
        raise ValueError("its target is no object")
    features = target.get("features", [])  # earlier manifests do not list them
    if not isinstance(features, list) or not all(isinstance(f, str) and _FEATURE.fullmatch(f) for f in features):
        raise ValueError(f"the features of its target are no list of names, but {features!r:.80}")


def check_tensor(shape: Any, dtype: Any) -> int:
    """The bytes of a tensor of that shape and dtype. Raises ``ValueError`` or ``TypeError`` where there is none."""
    if not isinstance(shape, list) or len(shape) > 32 or any(type(d) is not int or d < 0 for d in shape):
        raise ValueError(f"a shape is a list of at most 32 integers that are not negative, but this is {shape!r:.80}")
    if math.prod(extent for extent in shape if extent) > _MOST_ELEMENTS:  # also where one of them is 0
        raise ValueError(f"a tensor has at most {_MOST_ELEMENTS:,} elements, but this has the shape {shape!r:.80}")
    if not isinstance(dtype, str) or not dtype.isidentifier() or np.dtype(dtype).kind not in _KINDS:
        raise ValueError(f"a dtype is one of NumPy's numbers, but this is {dtype!r:.80}")
    return math.prod(shape) * np.dtype(dtype).itemsize


def _own_sum(manifest: Mapping[str, Any]) -> str:
    sums = {name: value for name, value in manifest["sha256"].items() if name != NAME}
    text = json.dumps({**manifest, "sha256": sums}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
