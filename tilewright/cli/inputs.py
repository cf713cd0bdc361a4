"""The options that say what is asked of a model's inputs, with the readers of their texts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from tilewright.errors import ShapeError, TilewrightError
from tilewright.frontend.shapes import ShapeRequest

if TYPE_CHECKING:
    from tilewright.tensor import Array

__all__ = ["FixOption", "SampleOption", "ShapeOption", "WeightOption", "make_shape_request", "read_sample"]

#: The most extents that one range may have. A range without a step is soon too long.
_MOST_EXTENTS = 4096
#: The most bytes of the arrays of a sample.
_MOST_BYTES = 4 << 30
_RANGE = re.compile(r"([0-9]{1,9})(?:\.\.([0-9]{1,9})(?::([0-9]{1,9}))?)?")
_NUMBER = re.compile(r"[+-]?(\d{1,18}|\d*\.?\d+([eE][+-]?\d{1,3})?|\d+\.)")
_TRUTH = {"true": 1, "false": 0}

ShapeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1,3,224,224",
        help="The shape of an input, or the extent of an open dimension. Several make one executable with several "
        "buckets: NAME=1/4,3,48,64..640:64, DIMENSION=1,4,16, or the option several times.",
    ),
]
SampleOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--sample",
        metavar="X.NPZ",
        help="Inputs by name, whose shapes are taken, and on which outputs are judged besides. An .npy file if a model "
        "has one input. May be given several times.",
    ),
]
FixOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--fix",
        metavar="NAME=16000",
        help="The value of an input, which becomes a constant of the network. May be given several times.",
    ),
]
WeightOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--weight",
        metavar="4,1,1",
        help="The shares of the tuning that buckets get, in the order of their shapes; by default equal ones.",
    ),
]


def make_shape_request(
    shapes: Sequence[str] | None,
    samples: Sequence[Path] | None = None,
    fixed: Sequence[str] | None = None,
    weight: str | None = None,
) -> ShapeRequest | None:
    """What the options ask of a model's inputs; None if they are left out.

    Raises:
        ShapeError: a text has another form.
        TilewrightError: a file of a sample cannot be read.
    """
    arrays = tuple(read_sample(path) for path in samples or ())
    request = ShapeRequest(
        choices=tuple(map(_parse_shape, shapes or ())),
        whole=tuple({name: array.shape for name, array in sample.items()} for sample in arrays),
        values=_parse_values(fixed or ()),
        shares=_parse_weight(weight),
        samples=arrays,
    )
    return request if request or weight else None


def _parse_shape(text: str) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """A name and the extents of each dimension, in a text such as ``NAME=1/4,3,64..640:64``."""
    # The name of an input may contain an equals sign, so the last one counts.
    name, _, numbers = text.rpartition("=")
    dimensions = [_parse_extents(part) for part in numbers.split(",")]
    if not name or not all(dimensions):
        raise ShapeError(
            "a shape is written like NAME=1,3,224,224, with numbers from 1 up; several extents like 1/4/16, or "
            f"64..640:64 for 64, 128 and so on; but this is {text!r}"
        )
    return name, tuple(dimensions)


def _parse_extents(text: str) -> tuple[int, ...]:
    """The extents in a text such as ``1/4`` or ``64..640:64``, each once; empty if it has another form."""
    found: dict[int, None] = {}
    for part in text.split("/"):
        match = _RANGE.fullmatch(part)
        if match is None:
            return ()
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if not 1 <= first <= last or not step or (last - first) // step >= _MOST_EXTENTS:
            return ()
        found.update(dict.fromkeys(range(first, last + 1, step)))
    return tuple(found)


def _parse_values(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """The values of inputs by name."""
    found: dict[str, tuple[float, ...]] = {}
    for name, numbers in map(_parse_value, texts):
        if name in found:
            raise ShapeError(
                f"--fix gives an input one value, but {name!r} was given two: {_in_words(found[name])} and "
                f"{_in_words(numbers)}; give one of them"
            )
        found[name] = numbers
    return found


def _in_words(numbers: tuple[float, ...]) -> str:
    return ",".join(map(str, numbers[:8])) + (",..." if len(numbers) > 8 else "")


def _parse_value(text: str) -> tuple[str, tuple[float, ...]]:
    """A name and its numbers, in a text such as ``NAME=16000``."""
    name, _, numbers = text.rpartition("=")
    parts = [str(_TRUTH.get(part.lower(), part)) for part in numbers.split(",")]
    if not name or not all(_NUMBER.fullmatch(part) for part in parts):
        raise ShapeError(f"a value is written like NAME=16000, or NAME=1,0.5 for several numbers, but this is {text!r}")
    return name, tuple(int(part) if part.lstrip("+-").isdigit() else float(part) for part in parts)


def _parse_weight(text: str | None) -> tuple[float, ...]:
    parts = [] if text is None else text.split(",")
    if not all(_NUMBER.fullmatch(part) and 0 < float(part) < math.inf for part in parts):
        raise ShapeError(f"weights are written like 4,1,1, with positive numbers, but this is {text!r}")
    return tuple(map(float, parts))


def read_sample(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; an empty name for the array of an ``.npy`` file.

    Raises:
        TilewrightError: the file cannot be read.
    """
    from tilewright.reading import open_regular, read_array, read_arrays

    try:
        with open_regular(path) as file:
            if path.suffix == ".npy":
                return {"": read_array(file, os.fstat(file.fileno()).st_size)}
            return dict(read_arrays(file, _MOST_BYTES))
    except (OSError, ValueError, MemoryError) as error:
        raise TilewrightError(
            f"a sample is an .npz file, as numpy.savez writes it, or an .npy file, but {path} cannot be read as one: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
