"""Finds ONNX Runtime for C, which a library needs if ONNX Runtime runs parts of its network.

It is where a release was unpacked, or where a package of the system has put it. Its header is included, and its library
is linked. Nothing of it runs at the export.
"""

from __future__ import annotations

import mmap
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilewright.errors import OutputError
from tilewright.executable.runtime.cross import same_architecture
from tilewright.executable.runtime.library import ask_pkg_config

__all__ = ["VARIABLE", "OnnxRuntime", "check_release", "find_onnxruntime", "find_release"]

#: The environment variable that names the directory of a release.
VARIABLE = "TILEWRIGHT_ONNXRUNTIME"
#: The package's name for pkg-config.
_PACKAGE = "libonnxruntime"
_HEADER = "onnxruntime_c_api.h"
#: Where releases and distributions keep the header and the library below their directory.
_INCLUDES = ("include", "include/onnxruntime", "include/onnxruntime/core/session")
_LIBRARIES = ("lib", "lib64")
#: The oldest release that has all functions that the runtime calls: the minor version of 1.N, and of its API.
_LEAST_RELEASE = 18
#: The first releases that load models of an opset without a warning. Releases from 1.20 on were asked, each by a model
#: of opset 60, which opset is their newest. Opsets up to 21 need no entry.
_RELEASES = {22: 21, 23: 23, 24: 24, 25: 24, 26: 25, 27: 32, 28: 32}
#: Numbers of architectures in ELF files.
_MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime for C.

    Attributes:
        include: the directory of its header.
        library: its shared library.
        release: the version of the header's API: N of release 1.N.
        packaged: whether pkg-config knows it, so that the system's linker finds it.
    """

    include: Path
    library: Path
    release: int
    packaged: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of the C compiler that link a library with it.

        The library finds ONNX Runtime beside itself, where it was at the export, or where the system looks.
        """
        places = "$ORIGIN" if self.packaged else f"$ORIGIN:{self.library.parent}"
        # Without --no-as-needed the linker leaves it out: segments.h looks its only function up by name.
        rpath = ("-Xlinker", "-rpath", "-Xlinker", places)  # -Wl would divide a path with a comma
        return (f"-I{self.include}", *rpath, "-Wl,--no-as-needed", str(self.library), "-Wl,--as-needed")


def find_release(opsets: Iterable[int]) -> int:
    """The oldest release that runs models of these opsets: N of 1.N. Opsets that are not known are left to it."""
    return max((_RELEASES.get(opset, 0) for opset in opsets), default=0) or _LEAST_RELEASE


def check_release(found: OnnxRuntime, needed: int, opset: int) -> None:
    """Raise ``OutputError`` if the header of ONNX Runtime is of an older release than ``needed``.

    Args:
        found: ONNX Runtime.
        needed: the oldest release that will do.
        opset: the newest opset of the segments; 0: it is not known.
    """
    if found.release < needed:
        why = f", which opset {opset} needs" if opset in _RELEASES else ""
        raise OutputError(
            f"the parts that ONNX Runtime runs need release 1.{needed} or later{why}, but {found.include / _HEADER} "
            f"has version {found.release} of the API; unpack a later release"
        )


def find_onnxruntime(folder: Path | None, triple: str = "") -> OnnxRuntime | None:
    """ONNX Runtime for C on a platform.

    Args:
        folder: the directory of a release, with ``include`` and ``lib``; None: that of the environment variable, or
            what pkg-config says.
        triple: LLVM's name of the platform; empty: this one. pkg-config is asked for this platform only.

    Returns:
        None if no directory is named, and pkg-config does not know it.

    Raises:
        OutputError: the directory lacks the header or the library, or they cannot be read or used.
    """
    named = os.environ.get(VARIABLE, "")
    if folder is None and not named:
        if triple or not (said := ask_pkg_config(_PACKAGE, "includedir", "libdir")):
            return None
        include, library = (Path(place) for place in said)
        found = _find(include, ("", *(place.removeprefix("include/") for place in _INCLUDES)), library, ("",))
        return OnnxRuntime(*found, _read_version(found[0] / _HEADER), packaged=True)
    place = (folder or Path(named)).absolute()
    include, library = _find(place, _INCLUDES, place, _LIBRARIES, "" if folder else f" of {VARIABLE}")
    _check_library(library, triple.partition("-")[0] or platform.machine())
    return OnnxRuntime(include, library, _read_version(include / _HEADER))


def _find(
    first: Path, includes: Sequence[str], second: Path, libraries: Sequence[str], named: str = ""
) -> tuple[Path, Path]:
    """The directory of the header and the library. Raises ``OutputError`` if one is missing."""
    include = next((first / place for place in includes if (first / place / _HEADER).is_file()), None)
    library = next((file for place in libraries for file in _list_libraries(second / place)), None)
    if include is not None and library is not None:
        return include, library
    missing, places = (_HEADER, includes) if include is None else ("libonnxruntime.so", libraries)
    where = f"in {', '.join(places)}" if any(places) else "there"
    folder = first if include is None else second
    lacks = f"has no {missing} {where}" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    raise OutputError(
        f"ONNX Runtime for C is a directory with include/{_HEADER} and lib/libonnxruntime.so, but "
        f"{folder}{named} {lacks}; unpack a release of ONNX Runtime for C (the package for Python has no header), and "
        "name its directory with --onnxruntime"
    )


def _list_libraries(folder: Path) -> Iterator[Path]:
    """The files in ``folder`` that are ONNX Runtime's library by their names, the shortest name first."""
    for file in sorted(folder.glob("libonnxruntime.so*"), key=lambda path: (len(path.name), path.name)):
        if file.is_file():
            yield file


def _check_library(library: Path, architecture: str) -> None:
    """Raise ``OutputError`` if a file is no library of ONNX Runtime for an architecture."""
    try:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start, has_entry = content[:20], content.find(b"\0OrtGetApiBase\0") >= 0
    except (OSError, ValueError) as exc:
        raise OutputError(f"{library} cannot be read: {exc}; unpack the release again") from exc
    machine = _MACHINES.get(int.from_bytes(start[18:20], "little"), "another architecture")
    if start[:4] != b"\x7fELF" or not has_entry:
        raise OutputError(
            f"{library} should be ONNX Runtime's shared library, but it has no OrtGetApiBase; unpack the release again"
        )
    if not same_architecture(machine, architecture):
        raise OutputError(
            f"the executable is for {architecture}, but {library} is for {machine}; unpack the release for the "
            "executable's architecture"
        )


def _read_version(header: Path) -> int:
    """The version of the API in a header. Raises ``OutputError`` if it has none."""
    try:
        found = re.search(r"^#define ORT_API_VERSION (\d+)$", header.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError as exc:
        raise OutputError(f"{header} cannot be read: {exc.strerror}; unpack the release again") from exc
    if found is None:
        raise OutputError(f"{header} should define ORT_API_VERSION, but it does not; unpack the release again")
    return int(found[1])
