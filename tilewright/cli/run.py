"""``tilewright run``: runs an executable once on arrays from files. Needs no tuner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import JsonOption
from tilewright.cli.text import table
from tilewright.errors import OutputError, ShapeError, TilewrightError
from tilewright.measure.memory import check_memory
from tilewright.scratch import scratch
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.tensor import Array, TensorSpec

__all__ = ["run"]

#: The bytes of address space and of memory that a small executable needs: Python, NumPy and its threads.
_LEAST = (400 << 20, 64 << 20)


@command
def run(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory of an executable.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option("--input", metavar="X.NPY", help="The file of an input, in the executable's order."),
    ] = None,
    outputs: Annotated[
        list[Path] | None,
        typer.Option("--output", metavar="Y.NPY", help="The file for an output, in the executable's order."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Run the executable in OUT once, and describe its outputs."""
    check_memory(*_LEAST)
    with scratch():
        from tilewright.executable.executable import load_executable

        executable = load_executable(out)
        outputs = outputs or []
        if len(outputs) > len(executable.outputs):
            raise OutputError(
                f"--output is given at most once for each output, but this executable has "
                f"{counted(len(executable.outputs), 'output')} and --output was given {counted(len(outputs), 'time')}"
            )
        results = executable(*_read(inputs or [], executable.inputs))
    for path, result in zip(outputs, results, strict=False):
        _write(path, result)
    rows = [_describe(spec, result) for spec, result in zip(executable.outputs, results, strict=True)]
    described = [
        {"name": row[0], "shape": getattr(result, "shape", ()), "dtype": row[2]}
        for row, result in zip(rows, results, strict=True)
    ]
    write_json(json_file, {"outputs": described})
    print(table(["output", "shape", "dtype", "min .. max"], rows, left=4))


def _read(paths: Sequence[Path], specs: Sequence[TensorSpec]) -> list[Array]:
    from tilewright.reading import open_regular, read_array
    from tilewright.tensor import TEXTS

    wanted = ", ".join(f"{spec.name} {tuple(spec.shape)} {spec.dtype}" for spec in specs)
    if len(paths) != len(specs):
        raise ShapeError(
            f"--input is given once for each input, but this executable takes {counted(len(specs), 'input')} "
            f"({wanted}) and --input was given {counted(len(paths), 'time')}"
        )
    arrays = []
    for path, spec in zip(paths, specs, strict=True):
        try:
            with open_regular(path) as file:
                # numpy.load would read pickles and archives as well.
                array = read_array(file, path.stat().st_size)
        except OSError as error:
            raise TilewrightError(
                f"an input is a .npy file, but {path} cannot be read: {error.strerror}; check the path"
            ) from error
        except (ValueError, MemoryError) as error:
            raise TilewrightError(
                f"an input is a .npy file of numbers or of texts, as numpy.save writes it, but {path} is not: {error}"
                + ("; save texts with .astype('str')" if spec.dtype == TEXTS else "")
            ) from error
        if len(array.shape) != len(spec.shape) or any(
            wanted not in (-1, extent) for wanted, extent in zip(spec.shape, array.shape, strict=True)
        ):
            raise ShapeError(
                f"the input {spec.name!r} has the shape {tuple(spec.shape)}, but {path} holds {array.shape}"
            )
        if spec.dtype == TEXTS and array.dtype.kind == "U":
            array = array.astype(object)
        elif str(array.dtype) != spec.dtype:
            wanted = "str" if spec.dtype == TEXTS else spec.dtype
            raise ShapeError(
                f"the input {spec.name!r} is of {spec.dtype}, but {path} holds {array.dtype}; "
                f"convert it with .astype({wanted!r})"
            )
        arrays.append(array)
    return arrays


def _write(path: Path, array: Array) -> None:
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise OutputError(f"an output is written as a .npy file of numbers or of texts, but {path} would be a sequence")
    if array.dtype == object:
        array = array.astype(str)  # NumPy would pickle objects, and no reader of ours takes a pickle
    try:
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    except OSError as error:
        raise OutputError(f"the output {path} cannot be written: {error.strerror}; name another file") from error


def _describe(spec: TensorSpec, result: object) -> list[str]:
    """The row of an output in the table: its name, shape, dtype and range."""
    import numpy as np

    if not isinstance(result, np.ndarray):
        return [spec.name, str(len(result)) if isinstance(result, list) else "", spec.dtype, ""]
    dtype = str(result.dtype) if spec.is_numeric else spec.dtype
    return [spec.name, "x".join(map(str, result.shape)) or "scalar", dtype, _range(result)]


def _range(array: Array) -> str:
    if array.dtype.kind in "OUST":
        texts = sorted(map(str, array.reshape(-1).tolist()))
        return f"{texts[0]!r:.40} .. {texts[-1]!r:.40}" if texts else "empty"
    return f"{array.min():.6g} .. {array.max():.6g}" if array.size else "empty"
