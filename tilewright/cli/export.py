"""``tilewright export``: writes an executable as a library for C. Needs a C compiler, but no tuner."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import JsonOption
from tilewright.errors import TilewrightError
from tilewright.measure.memory import check_memory
from tilewright.names import printable
from tilewright.scratch import scratch

__all__ = ["export"]

#: The bytes of address space and of memory that exporting a small executable needs: Python, NumPy and a C compiler.
_LEAST = (400 << 20, 64 << 20)


@command
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory of an executable.")],
    c: Annotated[
        Path,
        typer.Option("--c", metavar="DIR", help="The directory for the library: it gets include, lib and share."),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The name of the library and the beginning of its functions; by default the network's name.",
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(metavar="PLACE", help="Where the weights are: 'inside' the library, or in a 'file' beside it."),
    ] = "inside",
    onnxruntime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The directory of a release of ONNX Runtime for C (include, lib), if ONNX Runtime runs parts of the "
            "network; by default what TILEWRIGHT_ONNXRUNTIME names, or pkg-config's libonnxruntime.",
        ),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Write the executable in OUT as a library for C, with a header, packages for CMake and pkg-config, an example."""
    if weights not in ("inside", "file"):
        raise TilewrightError(f"--weights is 'inside' or 'file', but this is {weights!r}; leave it out for 'inside'")
    check_memory(*_LEAST)
    with scratch():
        from tilewright.executable.export.library import export_library
        from tilewright.executable.manifest import read_manifest

        if name is None:
            name = _to_name(read_manifest(out).get("name", ""), out)
        exported = export_library(out, c, name, weights_file=weights == "file", onnxruntime=onnxruntime)
    files = [str(path) for path in exported.files]
    write_json(json_file, {"name": name, "files": files})
    for file in files:
        print(f"    {printable(file)}")


def _to_name(network: str, out: Path) -> str:
    """A name in C for a network, or for the directory of its executable."""
    from tilewright.executable.export.texts import can_be_name

    text = re.sub(r"\W+", "_", (network or out.name).lower(), flags=re.ASCII).strip("_")
    return text[:63] if can_be_name(text[:63]) else f"network_{text}"[:63]
