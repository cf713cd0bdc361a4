"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from tilewright.errors import ModelFormatError, OutputError, RecordsError, ShapeError, TargetError
from tilewright.frontend.file_kinds import check_kind, is_program
from tilewright.measure.memory import check_memory
from tilewright.records.address import is_url
from tilewright.scratch import check_space

__all__ = [
    "JsonOption",
    "ModelArgument",
    "RecordsOption",
    "ShapeOption",
    "TargetOption",
    "begin_reading",
    "check_machine",
    "check_model",
    "check_out",
    "check_target",
    "parse_shapes",
    "records_place",
]

#: Bytes of address space and of memory that a process with TVM and ONNX Runtime has, as measured on two cores: with
#: 2.3 GiB of addresses ONNX Runtime reads no model, with 2.9 GiB a small network is tuned.
_COMPILER_ADDRESSES, _COMPILER_MEMORY = 2750 << 20, 512 << 20

ModelArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model: an ONNX file, or a .pt2 file of torch.export.save.")
]
TargetOption: TypeAlias = Annotated[str, typer.Option(help="'native' (native:streamed, native:cold) or 'llvm:MCPU'.")]
ShapeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1,3,224,224", help="The shape of an input; may be given several times."),
]
RecordsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--records",
        metavar="FILE|URL",
        help="The records of measurements: a file, or postgresql://USER@HOST/DATABASE; by default $TILEWRIGHT_RECORDS, "
        "or records.db in the user's data directory.",
    ),
]
JsonOption: TypeAlias = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result, or the error, to this file as JSON.")
]


def parse_shapes(texts: Sequence[str] | None) -> dict[str, tuple[int, ...]] | None:
    """The shapes of ``NAME=1,3,224,224`` texts, by name; None where there is none.

    Raises:
        ShapeError: a text is not of this form, or names an input again.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        # An input's name may itself have an equals sign; its shape does not.
        name, _, numbers = text.rpartition("=")
        if not name or not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", numbers) or 0 in map(int, numbers.split(",")):
            raise ShapeError(f"a shape is written like NAME=1,3,224,224, with numbers from 1 up, but this is {text!r}")
        if name in shapes:
            raise ShapeError(f"each input has one shape, but {name!r} was given two; leave one --shape out")
        shapes[name] = tuple(int(number) for number in numbers.split(","))
    return shapes or None


def check_target(text: str) -> None:
    """Refuse what cannot be a target before the compiler is imported, which knows the rest.

    Raises:
        TargetError: the text has not the form of a target.
    """
    if not re.fullmatch(r"native(:streamed|:cold)?|llvm:\S+", text):
        raise TargetError(
            f"a target is 'native' or 'llvm:MCPU' such as llvm:core-avx2, but this is {text!r}; "
            "leave --target out to tune for this machine"
        )


def check_model(path: Path) -> None:
    """Refuse what is no file, or none of a model, before the compiler is imported.

    Raises:
        ModelFormatError: there is no such file, it cannot be read, or it is of another format.
    """
    try:
        check_kind(path)
    except OSError as error:
        raise ModelFormatError(
            f"a model is an ONNX or .pt2 file, but {path} cannot be read: {error.strerror}; check the path"
        ) from error


@contextlib.contextmanager
def begin_reading(path: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> Iterator[Any]:
    """What ``load`` takes for a model's file: the file, or its reading in a process that begins now.

    An ONNX file is read while the compiler is imported.
    """
    if is_program(path):
        yield path
        return
    from tilewright.frontend.onnx.reading import OnnxReading

    with OnnxReading(path, shapes or {}) as reading:
        yield reading


def check_machine() -> None:
    """Refuse to import the compiler where the memory does not suffice for it.

    Raises:
        ResourceError: it does not.
    """
    check_memory(_COMPILER_ADDRESSES, _COMPILER_MEMORY)


def check_out(path: Path) -> None:
    """Refuse a directory that could not be written after minutes of tuning. Leaves nothing behind.

    Raises:
        OutputError: the directory cannot be made, nothing can be written to it, or it holds something else.
        ResourceError: its disk is full.
    """
    if not path.name or os.path.islink(path):
        raise OutputError(f"--out names a directory that can be replaced, but {path} cannot; name another")
    # Not Path.exists, which raises where a directory may not be looked into.
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
    """Where the records are: as given, as in ``TILEWRIGHT_RECORDS``, or the user's own file, whose directory is made.

    Returns:
        a file as a ``Path``, a URL as text.

    Raises:
        RecordsError: the user's data directory cannot be made, or a URL is of no known kind.
    """
    if named := where or os.environ.get("TILEWRIGHT_RECORDS"):
        return named if is_url(named) else Path(named)
    try:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    except RuntimeError as error:  # a user whom the system does not know
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
