"""Options that several commands share, with the readers of their texts."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tilewright.cli.completing import complete_from
from tilewright.errors import ModelFormatError, OutputError, RecordsError, TargetError
from tilewright.frontend.file_kinds import check_kind, is_program
from tilewright.frontend.shapes import ShapeRequest
from tilewright.measure.memory import check_memory
from tilewright.records.address import is_url
from tilewright.scratch import check_space
from tilewright.wording import did_you_mean

if TYPE_CHECKING:
    from tilewright.frontend.onnx.reading import OnnxReading

__all__ = [
    "TARGETS",
    "JsonOption",
    "ModelArgument",
    "RecordsOption",
    "TargetOption",
    "begin_reading",
    "check_machine",
    "check_model",
    "check_out",
    "check_target",
    "records_place",
]

#: The bytes of address space and of memory that a process with TVM and ONNX Runtime needs, as measured on two cores.
#: With 2.3 GiB of addresses ONNX Runtime reads no model, and with 2.9 GiB a small network is tuned.
_COMPILER_ADDRESSES, _COMPILER_MEMORY = 2750 << 20, 512 << 20

#: The targets that have a name of their own.
TARGETS = ("native", "native:shared", "native:streamed", "native:cold", "x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")

ModelArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model: an ONNX file, or a .pt2 file of torch.export.save.")
]
TargetOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="TARGET",
        autocompletion=complete_from("tilewright.cli.options", "TARGETS"),
        help="'native' (native:shared, native:streamed, native:cold), 'llvm:MCPU' or 'llvm:MCPU:TRIPLE'.",
    ),
]
RecordsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--records",
        metavar="FILE|URL",
        help="The records of measurements: a file, or postgresql://USER@HOST/DATABASE. By default $TILEWRIGHT_RECORDS, "
        "or records.db in the user's data directory.",
    ),
]
JsonOption: TypeAlias = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result, or the error, to this file as JSON.")
]


def check_target(text: str) -> None:
    """Refuse a text without the form of a target, before the compiler is imported, which checks the rest.

    Raises:
        TargetError: the text has not the form of a target.
    """
    if not re.fullmatch(r"native(:shared|:streamed|:cold)?|llvm:\S+|x86-64(-v[234])?", text):
        raise TargetError(
            f"a target is 'native', 'llvm:MCPU' such as llvm:core-avx2, or 'llvm:MCPU:TRIPLE', but this is {text!r}"
            + (did_you_mean(text, TARGETS) or "; leave --target out to tune for this machine")
        )


def check_model(path: Path) -> None:
    """Refuse a path that is no file of a model, before the compiler is imported.

    Raises:
        ModelFormatError: the file does not exist, cannot be read, or has another format.
    """
    try:
        check_kind(path)
    except OSError as error:
        near = _similar_file(path) if isinstance(error, FileNotFoundError) else ""
        raise ModelFormatError(
            f"a model is an ONNX or .pt2 file, but {path} cannot be read: {error.strerror}{near or '; check the path'}"
        ) from error


def _similar_file(path: Path) -> str:
    """The question about a model in the same directory with a similar name; empty if there is none."""
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".onnx", ".pt2")]
    except OSError:
        return ""
    return did_you_mean(path.name, names)


@contextlib.contextmanager
def begin_reading(path: Path, request: ShapeRequest | None) -> Iterator[Path | OnnxReading]:
    """Begin to read a model's file, for ``load``. A process reads an ONNX file while the compiler is imported."""
    if is_program(path):
        yield path
        return
    from tilewright.frontend.onnx.reading import OnnxReading

    with OnnxReading(path, replace(request, samples=()) if request is not None else {}) as reading:
        yield reading


def check_machine() -> None:
    """Refuse to import the compiler if the memory does not suffice.

    Raises:
        ResourceError: memory or address space is missing.
    """
    check_memory(_COMPILER_ADDRESSES, _COMPILER_MEMORY)


def check_out(path: Path) -> None:
    """Refuse a directory that cannot take an executable, before minutes of tuning. Leaves nothing behind.

    Raises:
        OutputError: the directory cannot be made or written, or it holds something else than an executable.
        ResourceError: the disk is full.
    """
    if not path.name or os.path.islink(path):
        raise OutputError(f"--out names a directory that can be replaced, but {path} cannot; name another")
    # Path.exists raises if a directory may not be read.
    missing = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        if os.path.isdir(path) and any(path.iterdir()) and not os.path.isfile(path / "manifest.json"):
            raise OutputError(
                f"--out names a new directory or an executable to replace, but {path} holds other files; name another"
            )
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        check_space(path)
    except OSError as error:
        raise OutputError(
            f"the executable goes into a directory, but {path} cannot be written: {error.strerror}; "
            "name another with --out"
        ) from error
    finally:
        for folder in missing:
            try:
                folder.rmdir()
            except OSError:
                break


def records_place(where: str | None) -> str | Path:
    """The place of the records: as given, as in ``TILEWRIGHT_RECORDS``, or the user's own file.

    Makes the directory of the user's own file.

    Returns:
        a file as a ``Path``, or a URL as text.

    Raises:
        RecordsError: the user's data directory cannot be made, or a URL is of an unknown kind.
    """
    if named := where or os.environ.get("TILEWRIGHT_RECORDS"):
        return named if is_url(named) else Path(named)
    try:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:  # the system does not know the user
        raise RecordsError(
            f"records are kept in your home directory, but you have none: {error}; name a file with --records"
        ) from error
    folder = data / "tilewright"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordsError(
            f"records are kept in {folder}, which cannot be made: {error.strerror}; name a file with --records"
        ) from error
    return folder / "records.db"
