"""The manifest of an executable, and the files that it lists. Each has a checksum; all lie in the directory.

Checksums show damage, and files that were changed after they were written. They are not a signature: whoever can write
the directory can write checksums, too. The library is native code, so load only executables that you trust.

Each file has a SHA-256. The weights also have an XXH3 (128 bits) for each block of 16 MiB, which shows damage as well
and is ten times as fast. Loading compares that one. Manifests of earlier versions lack it.

The formats of the directory:

- 1: executables without plans. They are refused: the network must be tuned again.
- 2: executables with one plan. Earlier manifests of this format may lack ``features`` in ``target``, ``vector`` in
  ``plan``, and checksums of the model and of the manifest itself. They are read.
  They may also lack ``written`` in ``plan`` and the file of objects; only `tilewright export` needs these.
- 3: executables with several plans (``buckets``), or with inputs of a fixed value (``fixed``).
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from tilewright.available_memory import available_memory
from tilewright.errors import OutputError
from tilewright.executable.checksums import read_blocks, sha256, sha256_of, xxh3
from tilewright.executable.manifest_check import check_entries
from tilewright.executable.plan import PlanJson
from tilewright.executable.segment import SegmentJson
from tilewright.fixed_input import FixedJson
from tilewright.jsonable import JsonObject
from tilewright.reading import open_regular, parse_json, read_file
from tilewright.scratch import explained

__all__ = [
    "FORMAT",
    "FORMAT_WITH_BUCKETS",
    "LIBRARY",
    "NAME",
    "OBJECTS",
    "WEIGHTS",
    "BucketJson",
    "Manifest",
    "PaddingJson",
    "TensorJson",
    "copy_listed",
    "find_listed",
    "read_listed",
    "read_manifest",
    "seal",
    "verify",
]

#: The versions of the directory's layout that this Tilewright reads and writes.
FORMAT, FORMAT_WITH_BUCKETS = 2, 3
NAME, LIBRARY, WEIGHTS = "manifest.json", "kernels.so", "weights.npz"
#: The archive of the object files that the library was linked from. Executables of earlier versions have none.
OBJECTS = "objects.zip"
#: The most bytes of a manifest that are read. With a line for each call and tensor it has a few hundred kilobytes.
_MOST_BYTES = 64 << 20


class TensorJson(TypedDict):
    """An input or output: a :class:`~tilewright.tensor.TensorSpec` as JSON-able data."""

    name: str
    shape: list[int]
    dtype: str


class TargetJson(TypedDict, total=False):
    """The machine that an executable was built for.

    Attributes:
        features: the extensions that its kernels may use.
        triple: LLVM's name of the platform, if it was built on another one.
    """

    mcpu: str
    cores: int
    machine: str
    key: str
    features: list[str]
    triple: str


class PaddingJson(TypedDict):
    """How a smaller call is padded to a bucket: the axes of padded inputs, and of outputs that are cut, by name."""

    inputs: dict[str, int]
    outputs: dict[str, int]


class BucketJson(TypedDict):
    """One of several plans of an executable.

    Attributes:
        inputs, outputs: what it takes and gives, with fixed shapes.
        plan: the calls of its kernels.
        segments: the numbers of its segments among those of the manifest, in their order.
        padding: how smaller calls may be padded to it.
    """

    inputs: list[TensorJson]
    outputs: list[TensorJson]
    plan: PlanJson
    segments: list[int]
    padding: list[PaddingJson]


class _Required(TypedDict):
    format: int
    inputs: list[TensorJson]
    outputs: list[TensorJson]
    plan: PlanJson | None
    sha256: dict[str, str]


class Manifest(_Required, total=False):
    """The manifest of an executable. Builders may add entries; those that others read are listed here.

    Attributes:
        format: the version of the directory's layout.
        inputs, outputs: what a call takes and gives, in order, without the inputs of ``fixed``. With ``buckets`` an
            extent is -1 if it is open.
        plan: the calls of the kernels; None: the executable has ``buckets``, or runs on the virtual machine of Relax.
        sha256: the checksums of the files, by name.
        name: the network's name, for people.
        target: the machine that it was built for.
        model: the name of the model's file; None if the executable keeps none.
        verdict: the verdict that it was published with.
        untuned: whether it is TVM's default build.
        segments: the parts that ONNX Runtime runs, in order; the executable needs ``onnxruntime`` if there are any.
        xxh3: of files whose whole content is loaded, the XXH3 of each block, by name.
        narrow: the weights that are kept in fewer bytes than kernels read, by the names of their arrays, each with the
            dtype that it is kept in (:mod:`tilewright.executable.narrow`).
        packed_at_run: of a network that MetaSchedule tuned: the weights that are packed in each run.
        buckets: the plans of an executable for several shapes.
        otherwise: what runs calls that belong to no bucket, for people; they are refused if this is missing.
        fixed: further inputs, whose values were fixed.
    """

    name: str
    target: TargetJson
    model: str | None
    verdict: JsonObject
    untuned: bool
    packed_at_run: list[str]
    segments: list[SegmentJson]
    buckets: list[BucketJson]
    otherwise: str
    fixed: list[FixedJson]
    narrow: dict[str, str]
    xxh3: dict[str, list[str]]


def seal(manifest: Mapping[str, object], folder: Path, files: list[str]) -> str:
    """The text of a manifest, with the checksums of ``files`` in ``folder`` and of the manifest itself."""
    sums = {name: sha256(folder / name) for name in files}
    blocks = {name: xxh3(folder / name) for name in files if name == WEIGHTS}
    made = json.loads(json.dumps({**manifest, "sha256": sums, **({"xxh3": blocks} if blocks else {})}))
    made["sha256"][NAME] = _own_sum(made)
    return json.dumps(made, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
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
            f"{getattr(exc, 'strerror', None) or exc}; name another directory, or tune again"
        ) from exc
    if version not in (FORMAT, FORMAT_WITH_BUCKETS):
        newer = type(version) is int and version > FORMAT_WITH_BUCKETS
        raise OutputError(
            f"this Tilewright reads executables of format {FORMAT} and {FORMAT_WITH_BUCKETS}, but {folder} has "
            f"{str(version)[:40]!r}; "
            f"{'install a newer Tilewright, or ' if newer else ''}tune again"
        )
    try:
        _check_sums(manifest)
        check_entries(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        reason = f"it has no {exc}" if isinstance(exc, KeyError) else str(exc)
        raise OutputError(f"{folder / NAME} is damaged, or was changed: {reason}; tune again") from exc
    return cast(Manifest, dict(manifest))


def find_listed(folder: Path, manifest: Manifest, name: str) -> Path:
    """The path of an executable's file ``name``, if it is the file that was written.

    Raises:
        OutputError: the file is missing, is outside of the directory, or has no checksum or another one.
    """
    path = _find_path(folder, manifest, name)
    try:
        with open_regular(path):
            right = sha256(path) == manifest["sha256"][name]
    except (OSError, ValueError) as exc:
        raise _missing(path, exc) from exc
    if not right:
        raise _changed(path)
    return path


def read_listed(folder: Path, manifest: Manifest, name: str) -> mmap.mmap:
    """The content of an executable's file ``name``, in memory of its own, if it is the file that was written.

    What was hashed is what is returned: a later change of the file changes nothing here. Mapping the file itself would
    take a third of the time. But then runs take 2 % longer, since the system maps files in small pages (ResNet-50).

    Raises as :func:`find_listed` does, and if memory is missing.
    """
    path = _find_path(folder, manifest, name)
    listed = manifest.get("xxh3", {}).get(name)
    try:
        with open_regular(path) as file:
            size, free = os.fstat(file.fileno()).st_size, available_memory()
            if size > free:
                raise OutputError(
                    f"{path} needs {size:,} bytes of memory, but {free:,} are free here; end other programs"
                )
            content = mmap.mmap(-1, max(1, size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # large pages, as NumPy's arrays have
                content.madvise(mmap.MADV_HUGEPAGE)
            found = read_blocks(file.fileno(), content, size)
    except (OSError, ValueError) as exc:
        raise _missing(path, exc) from exc
    if found != listed if listed is not None else sha256_of(content, size) != manifest["sha256"][name]:
        raise _changed(path)
    return content


def verify(folder: Path) -> None:
    """Refuse an executable that would not be loaded, without loading anything. Raises as :func:`find_listed` does."""
    manifest = read_manifest(folder)
    for name in (LIBRARY, WEIGHTS):
        find_listed(folder, manifest, name)


def copy_listed(folder: Path, manifest: Manifest, name: str, to: Path) -> None:
    """Copy a listed file, and check the copy. No other process can change the copy between the check and its use.

    Raises as :func:`find_listed` does, and ``ResourceError`` if the disk of the copy is full.
    """
    path = _find_path(folder, manifest, name)
    try:
        with open_regular(path) as source, to.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    except (OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT):  # the copy cannot be written
            raise explained(exc, f"{path} cannot be copied to be loaded", to.parent) from exc
        raise _missing(path, exc) from exc
    if sha256(to) != manifest["sha256"][name]:
        raise _changed(path)


def _find_path(folder: Path, manifest: Manifest, name: str) -> Path:
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
    """The path of a file in ``folder`` itself. Raises ``ValueError`` if the name or a link leads elsewhere."""
    if not name or name != Path(name).name or name in (".", "..") or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is not the name of a file in it")
    path = folder / name
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise ValueError(f"{path} is a link to {path.resolve()}")
    return path


def _check_sums(manifest: JsonObject) -> None:
    """Raise ``ValueError`` or ``KeyError`` if the checksums are none, or that of the manifest itself differs."""
    sums = manifest["sha256"]
    if not isinstance(sums, dict) or not all(isinstance(value, str) for value in sums.values()):
        raise ValueError("its checksums are not texts")
    if NAME in sums and sums[NAME] != _own_sum(manifest):  # earlier manifests have none
        raise ValueError("its own checksum differs")


def _own_sum(manifest: JsonObject) -> str:
    """The checksum of a manifest without this checksum."""
    listed = manifest["sha256"]
    sums = {name: value for name, value in listed.items() if name != NAME} if isinstance(listed, dict) else {}
    text = json.dumps({**manifest, "sha256": sums}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
