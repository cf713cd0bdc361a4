"""Exports an executable as a library for C.

The library is linked once more from the objects of the executable's kernels, with the sources of the runtime. The plan
becomes an *image* (:mod:`tilewright.executable.image`): constant data that the runtime reads. The Python loader makes
the same image in memory, so both run the same code. The library's only exported functions begin with its name. So
libraries of several networks can be loaded into one process.
"""

from __future__ import annotations

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
from tilewright.executable.export.texts import FUNCTIONS, check_name, fill_template, write_header, write_source
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
    """

    manifest: Manifest
    image: Image
    weights: Path
    identity: bytes
    objects: Sequence[Path]


def export_library(
    executable: Path, out: Path, name: str, *, weights_file: bool = False, flags: Sequence[str] = ()
) -> Exported:
    """Write an executable as a library for C. Other files in ``out`` stay as they are.

    ``out`` gets the folders ``lib``, ``include`` and ``share`` of an installed library: ``libNAME.so``, ``NAME.h``, a
    package for CMake and one for pkg-config, and an example.

    Args:
        executable: the executable's directory.
        out: the directory, which is made if needed.
        name: of the library, its header and its functions.
        weights_file: whether the weights go to a file beside the library, which it maps into memory.
        flags: further flags of the C compiler.

    Raises:
        TilewrightError: ``name`` cannot be the name of a library and of functions in C.
        OutputError: the executable cannot be read, or cannot be a library for C; or a file cannot be written.
        CompilerError: there is no compiler, or it fails.
        ResourceError: a disk is full.
    """
    check_name(name)
    manifest = read_manifest(executable)
    _check_exportable(executable, manifest)
    find_compiler_of(manifest.get("target", {}).get("triple", ""))  # before work is done
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        work = Path(folder, "work")
        made = Path(folder, "made")
        try:
            work.mkdir()
            network = _read(executable, manifest, work)
            _write(network, work, made, name, weights_file, flags)
            return _install(made, out, name)
        except OSError as exc:
            raise explained(exc, f"the library cannot be written to {out}", out, option="--c") from exc


def _check_exportable(executable: Path, manifest: Manifest) -> None:
    """Raise ``OutputError`` if the executable has parts that do not run without Python."""
    segments = manifest.get("segments", [])
    if segments:
        parts = "; ".join(
            f"segment {number} ({', '.join(entry.get('operators', [])) or 'operators'}: {entry['reasons'][0]:.120})"
            if entry["reasons"]
            else f"segment {number}"
            for number, entry in enumerate(segments)
        )
        raise OutputError(
            f"a library for C holds compiled kernels only, but parts of {executable} run in ONNX Runtime: {parts}; "
            "export a model without these operators, or what 'tilewright build' makes if ONNX Runtime was only faster"
        )
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


def _read(executable: Path, manifest: Manifest, work: Path) -> _Network:
    """Read the parts of an executable, and write those that are linked to ``work``."""
    weights = read_listed(executable, manifest, WEIGHTS)
    copy_listed(executable, manifest, OBJECTS, work / OBJECTS)
    try:
        arrays, planned = read_plans(manifest, weights)
        starts = layout_weights(arrays)
        identity = _write_weights(arrays, starts, work / "weights.bin")
        ends = [*manifest["inputs"], *manifest["outputs"]]
        features = manifest.get("target", {}).get("features", [])
        image = make_image([p.plan for p in planned], [end["name"] for end in ends], starts, features, identity)
        objects = extract_objects(work / OBJECTS, work)
    except (ValueError, TypeError, LookupError, OverflowError, zipfile.BadZipFile) as exc:
        raise OutputError(f"the executable in {executable} cannot be read: {exc}; tune again") from exc
    (work / "image.bin").write_bytes(image.content)
    return _Network(manifest, image, work / "weights.bin", identity, objects)


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
    if size > _MOST_INSIDE and not weights_file:
        raise OutputError(
            f"a library holds at most {_MOST_INSIDE:,} bytes of weights, but this network has {size:,}; write them to "
            "a file with --weights file"
        )
    package = made / "lib" / "cmake" / name
    for folder in (made / "include", package, made / "lib" / "pkgconfig", made / "share" / "doc" / name):
        folder.mkdir(parents=True)
    header = made / "include" / f"{name}.h"
    header.write_text(write_header(network.manifest, name, weights_file), encoding="utf-8")
    shutil.copyfile(header, work / header.name)
    source, exports = work / f"{name}.c", work / "exports.map"
    source.write_text(write_source(network.image.kernels, network.manifest, name, weights_file), encoding="utf-8")
    listed = "".join(f" {name}_{function};" for function in FUNCTIONS)
    exports.write_text(f"{name.upper()}_1 {{ global:{listed} local: *; }};\n", encoding="utf-8")
    triple = network.manifest.get("target", {}).get("triple", "")
    link_library(source, network.objects, made / "lib" / f"lib{name}.so", exports, flags, triple)
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
        place.write_text(fill_template(template, name, {}), encoding="utf-8")


def _install(made: Path, out: Path, name: str) -> Exported:
    """Move files to their directory. Each appears whole or not at all; the library comes last."""
    files = sorted((path for path in made.rglob("*") if path.is_file()), key=lambda path: (path.suffix == ".so", path))
    placed = []
    for file in files:
        place = out / file.relative_to(made)
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".tilewright-", dir=place.parent)
        os.close(handle)
        try:
            shutil.copyfile(file, part)
            os.chmod(part, 0o755 if place.suffix == ".so" else 0o644)
            os.replace(part, place)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        placed.append(place)
    return Exported(out / "lib" / f"lib{name}.so", out / "include" / f"{name}.h", tuple(sorted(placed)))
