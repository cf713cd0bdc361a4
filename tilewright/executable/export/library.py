"""Exports an executable as a library for C.

The library is linked once more from the objects of the executable's kernels, with the sources of the runtime. The plan
becomes an *image* (:mod:`tilewright.executable.image`): constant data that the runtime reads. The Python loader makes
the same image in memory, so both run the same code. The library's only exported functions begin with its name. So
libraries of several networks can be loaded into one process.

The models of segments, the parts that ONNX Runtime runs, are constant data, too. The library is linked with ONNX
Runtime (:mod:`tilewright.executable.export.onnxruntime`), which loads them when an instance is made.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilewright.errors import OutputError
from tilewright.executable.export.objects import extract_objects
from tilewright.executable.export.onnxruntime import OnnxRuntime
from tilewright.executable.export.segments import Segments, check_segments, number_calls, read_segments
from tilewright.executable.export.texts import (
    FUNCTIONS,
    check_name,
    describe_onnxruntime,
    fill_template,
    write_header,
    write_source,
)
from tilewright.executable.image import Image, make_image
from tilewright.executable.loading import read_plans
from tilewright.executable.manifest import OBJECTS, WEIGHTS, Manifest, copy_listed, read_listed, read_manifest
from tilewright.executable.memory import layout_weights
from tilewright.executable.runtime.library import find_compiler_of, link_library
from tilewright.scratch import explained
from tilewright.tensor import Array

__all__ = ["Exported", "export_library"]

#: The most bytes of weights inside of a library. Code reaches its data by offsets of 31 bits.
_MOST_INSIDE = 1 << 30
#: ``WeightsHeader`` of ``image.h``.
_WEIGHTS_HEADER = struct.Struct("=8sQ16s32x")


@dataclass(frozen=True)
class Exported:
    """An exported library.

    Attributes:
        library: the shared library.
        header: its header.
        files: all files, in order of their names.
    """

    library: Path
    header: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Network:
    """What is exported.

    Attributes:
        manifest: of the executable.
        image: its plans.
        weights: the file of its packed weights, without a header.
        identity: of the weights.
        objects: the object files of its kernels.
        segments: the parts that ONNX Runtime runs.
        runtime: ONNX Runtime for C; None: there are no segments.
    """

    manifest: Manifest
    image: Image
    weights: Path
    identity: bytes
    objects: Sequence[Path]
    segments: Segments
    runtime: OnnxRuntime | None


def export_library(
    executable: Path,
    out: Path,
    name: str,
    *,
    weights_file: bool = False,
    onnxruntime: Path | None = None,
    flags: Sequence[str] = (),
) -> Exported:
    """Write an executable as a library for C. Other files in ``out`` stay as they are.

    ``out`` gets the folders ``lib``, ``include`` and ``share`` of an installed library: ``libNAME.so``, ``NAME.h``, a
    package for CMake and one for pkg-config, and an example.

    Args:
        executable: the executable's directory.
        out: the directory, which is made if needed.
        name: of the library, its header and its functions.
        weights_file: whether the weights go to a file beside the library, which it maps into memory.
        onnxruntime: the directory of ONNX Runtime for C, if ONNX Runtime runs parts of the network; None: what the
            environment or pkg-config names.
        flags: further flags of the C compiler.

    Raises:
        TilewrightError: ``name`` cannot be the name of a library and of functions in C.
        OutputError: the executable cannot be read, or cannot be a library for C; a file cannot be written; or ONNX
            Runtime is needed, but missing or too old.
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
    """
    check_name(name)
    manifest = read_manifest(executable)
    _check_exportable(executable, manifest)
    runtime = check_segments(executable, manifest, onnxruntime)
    find_compiler_of(manifest.get("target", {}).get("triple", ""))  # before work is done
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        work = Path(folder, "work")
        made = Path(folder, "made")
        try:
            work.mkdir()
            network = _read(executable, manifest, work, runtime)
            _write(network, work, made, name, weights_file, flags)
            return _install(made, out, name)
        except OSError as exc:
            raise explained(
                exc,
                f"the library cannot be written to {out}",
                out,
                option="--c",
                remedy="name another directory with --c, or correct this one",
            ) from exc


def _check_exportable(executable: Path, manifest: Manifest) -> None:
    """Raise ``OutputError`` if the executable has kernels that do not run without Python."""
    if not manifest["plan"] and not manifest.get("buckets"):
        raise OutputError(
            f"a library for C runs a plan of kernels, but {executable} runs on TVM's virtual machine, since its "
            "network calls functions of a library, such as TopK; run the executable from Python"
        )
    if OBJECTS not in manifest["sha256"]:
        raise OutputError(
            f"a library for C is linked from the objects of an executable's kernels, but {executable} has none, since "
            "an earlier version of Tilewright wrote it; tune again (with the same records this takes little time)"
        )


def _read(executable: Path, manifest: Manifest, work: Path, runtime: OnnxRuntime | None) -> _Network:
    """Read the parts of an executable, and write those that are linked to ``work``."""
    weights = read_listed(executable, manifest, WEIGHTS)
    copy_listed(executable, manifest, OBJECTS, work / OBJECTS)
    try:
        arrays, planned = read_plans(manifest, weights)
        starts = layout_weights(arrays)
        identity = _write_weights(arrays, starts, work / "weights.bin")
        ends = [*manifest["inputs"], *manifest["outputs"]]
        features = manifest.get("target", {}).get("features", [])
        image = make_image(
            [number_calls(p) for p in planned], [end["name"] for end in ends], starts, features, identity
        )
        objects = extract_objects(work / OBJECTS, work)
        segments = read_segments(executable, manifest, planned, work)
    except (ValueError, TypeError, LookupError, OverflowError, zipfile.BadZipFile) as exc:
        raise OutputError(f"the executable in {executable} cannot be read: {exc}; tune again") from exc
    (work / "image.bin").write_bytes(image.content)
    return _Network(manifest, image, work / "weights.bin", identity, objects, segments, runtime)


def _write_weights(arrays: Sequence[Array], starts: Sequence[int], out: Path) -> bytes:
    """Write packed weights, each at its place. Returns the first 16 bytes of their SHA-256."""
    digest = hashlib.sha256()
    with out.open("wb") as file:
        for array, begin, end in zip(arrays, starts, starts[1:], strict=False):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            for part in (data, np.zeros(end - begin - data.size, np.uint8)):
                digest.update(part.data)
                file.write(part.data)
    return digest.digest()[:16]


def _write(network: _Network, work: Path, made: Path, name: str, weights_file: bool, flags: Sequence[str]) -> None:
    """Write the files of the library to ``made``, in the places that they have below the directory of the export."""
    size = network.weights.stat().st_size
    _check_size(0 if weights_file else size, network.segments.bytes)
    package = made / "lib" / "cmake" / name
    for folder in (made / "include", package, made / "lib" / "pkgconfig", made / "share" / "doc" / name):
        folder.mkdir(parents=True)
    header = made / "include" / f"{name}.h"
    header.write_text(write_header(network.manifest, name, weights_file, network.segments), encoding="utf-8")
    shutil.copyfile(header, work / header.name)
    source, exports = work / f"{name}.c", work / "exports.map"
    written = write_source(network.image.kernels, network.manifest, name, weights_file, network.segments)
    source.write_text(written, encoding="utf-8")
    listed = "".join(f" {name}_{function};" for function in FUNCTIONS)
    exports.write_text(f"{name.upper()}_1 {{ global:{listed} local: *; }};\n", encoding="utf-8")
    triple = network.manifest.get("target", {}).get("triple", "")
    linked = (*flags, *(network.runtime.flags if network.runtime is not None else ()))
    link_library(source, network.objects, made / "lib" / f"lib{name}.so", exports, linked, triple)
    if weights_file:
        with (made / "lib" / f"{name}.weights").open("wb") as file, network.weights.open("rb") as content:
            file.write(_WEIGHTS_HEADER.pack(b"TWWEIGHT", size, network.identity))
            shutil.copyfileobj(content, file, 1 << 20)
    for template, place in (
        ("example.c.in", made / "share" / "doc" / name / "example.c"),
        ("config.cmake.in", package / f"{name}-config.cmake"),
        ("config-version.cmake.in", package / f"{name}-config-version.cmake"),
        ("package.pc.in", made / "lib" / "pkgconfig" / f"{name}.pc"),
    ):
        needed = describe_onnxruntime(network.segments)
        place.write_text(fill_template(template, name, {"onnxruntime": needed}), encoding="utf-8")


def _check_size(weights: int, segments: int) -> None:
    """Raise ``OutputError`` if so many bytes of weights and of segments are too many for a library."""
    if weights + segments <= _MOST_INSIDE:
        return
    remedy = "run the executable from Python" if segments > _MOST_INSIDE else "write them to a file with --weights file"
    raise OutputError(
        f"a library holds at most {_MOST_INSIDE:,} bytes of weights, but this network has {weights + segments:,}"
        f"{f', {segments:,} of them in parts that ONNX Runtime runs' if segments else ''}; {remedy}"
    )


def _install(made: Path, out: Path, name: str) -> Exported:
    """Move files to their directory: all of them, or none if one cannot be written. The library comes last."""
    files = sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: (path.suffix == ".so", path))
    places = [out / file.relative_to(made) for file in files]
    with contextlib.ExitStack() as undo:
        parts = [_copy_beside(file, place, undo) for file, place in zip(files, places, strict=True)]
        for part, place in zip(parts, places, strict=True):
            os.replace(part, place)
        undo.pop_all()
    return Exported(out / "lib" / f"lib{name}.so", out / "include" / f"{name}.h", tuple(sorted(places)))


def _copy_beside(file: Path, place: Path, undo: contextlib.ExitStack) -> Path:
    """Copy a file beside the place that it will take. ``undo`` gets what removes the copy and the new directories."""
    for folder in reversed([place.parent, *place.parent.parents]):
        if not folder.exists():
            undo.callback(_remove_empty, folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{place} is a directory")
    handle, name = tempfile.mkstemp(prefix=".tilewright-", dir=place.parent)
    os.close(handle)
    part = Path(name)
    undo.callback(part.unlink, missing_ok=True)
    shutil.copyfile(file, part)
    part.chmod(0o755 if place.suffix == ".so" else 0o644)
    return part


def _remove_empty(folder: Path) -> None:
    """Remove a directory, unless somebody has put something into it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
